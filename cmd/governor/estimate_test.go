package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/shoenig/test/must"
)

// wantVariables are those of the script, as Nomad reads them.
const wantVariables = "count = 2\n\nname = \"pair-2\"\ntext = \"a \\\"quote\\\" and $${no.template}\"\nlist = [\"a\", \"b\"]\n"

// parseJob stands in for Nomad's parser: it knows the name of the job and, but for train, the variables, and answers one
// that asks for two GPUs.
func parseJob(w http.ResponseWriter, r *http.Request) {
	var request struct{ JobHCL, Variables string }
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name := regexp.MustCompile(`job "(.*)"`).FindStringSubmatch(request.JobHCL)
	switch {
	case name == nil:
		http.Error(w, "no job block", http.StatusBadRequest)
	case request.Variables != wantVariables && name[1] != "train":
		http.Error(w, fmt.Sprintf("variables are %q", request.Variables), http.StatusBadRequest)
	default:
		_, _ = fmt.Fprintf(w, `{"ID": %q, "Name": "pair", "Type": "batch", "Datacenters": ["dc1"], "TaskGroups": [{"Name": "train", "Count": 1,
			"Tasks": [{"Name": "main", "Driver": "exec", "Resources": {"Devices": [{"Name": "nvidia/gpu", "Count": 2}]}}]}]}`, name[1])
	}
}

func TestAJobIsReadFromJSON(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "job.json")
	for name, c := range map[string]struct{ content, want, err string }{
		"a job":                {content: ` {"ID":"a"}`, want: ` {"ID":"a"}`},
		"a job in a request":   {content: `{"Job":{"ID":"a"},"Other":1}`, want: `{"ID":"a"}`},
		"something else":       {content: `{"ID":`, err: "is not JSON"},
		"nothing":              {content: "  \n", err: "is empty: it must hold a job"},
		"more than one object": {content: `{"ID":"a"} {}`, err: "is not JSON"},
	} {
		must.NoError(t, os.WriteFile(file, []byte(c.content), 0o600))
		job, err := readJob(&client{}, file, "", &variables{})
		if c.err != "" {
			must.ErrorContains(t, err, c.err, must.Sprint(name))
			continue
		}
		must.NoError(t, err, must.Sprint(name))
		must.Eq(t, c.want, string(job), must.Sprint(name))
	}
}
