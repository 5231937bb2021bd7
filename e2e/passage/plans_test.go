package passage_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/clustertest"
)

// put sends a body and decodes the answer, which must be 200.
func put(t *testing.T, address, body string, into any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, address, strings.NewReader(body))
	must.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	must.NoError(t, err)
	defer response.Body.Close()
	var text bytes.Buffer
	_, err = text.ReadFrom(response.Body)
	must.NoError(t, err)
	must.EqOp(t, http.StatusOK, response.StatusCode, must.Sprint(text.String()))
	must.NoError(t, json.Unmarshal(text.Bytes(), into), must.Sprint(text.String()))
}

// Plans rest on what was read within the last second, and show what has happened all the
// same: registrations through the gate and around it at once, and an edit of a budget in
// Consul within a second.
func TestPlansShowWhatHasHappened(t *testing.T) {
	c := clustertest.Start(t, cluster.Options{Consul: true, Governor: true, GovernorConfig: "gate {\n  infeasible = \"allow\"\n}\n"})
	file, err := c.WriteFile("bench.hcl", benchBudgets)
	must.NoError(t, err)
	applied, err := c.GovernorCLI(t.Context(), "budget", "apply", "-auto-approve", file)
	must.NoError(t, err)
	must.Eq(t, 0, applied.ExitCode, must.Sprint(applied.Output()))

	type answer struct {
		JobModifyIndex uint64
		Warnings       string
		Diff           struct{ Type string }
	}
	plan := func(gpus int) (a answer) {
		put(t, c.GovernorAddr+"/v1/job/train/plan", benchJob("train", gpus), &a)
		return a
	}
	register := func(address string, gpus int) (a answer) {
		put(t, address+"/v1/jobs", benchJob("train", gpus), &a)
		return a
	}
	for range 2 { // the second is answered by what the first has read
		a := plan(2)
		must.EqOp(t, 0, a.JobModifyIndex)
		must.EqOp(t, "Added", a.Diff.Type)
		must.StrContains(t, a.Warnings, "budget bench")
	}
	for _, where := range []string{c.GovernorAddr, c.NomadAddr} {
		for gpus := 2; gpus < 4; gpus++ {
			at := register(where, gpus)
			for range 2 {
				a := plan(gpus)
				must.EqOp(t, at.JobModifyIndex, a.JobModifyIndex, must.Sprint(where, gpus))
				must.EqOp(t, "None", a.Diff.Type, must.Sprint(where, gpus))
			}
		}
	}

	edited := strings.Replace(benchBudgets, "cost = 1000000", "cost = 0.01", 1)
	var done bool
	put(t, c.ConsulAddr+"/v1/kv/governor/policy/bench.hcl", edited, &done)
	must.True(t, done)
	edit := time.Now()
	for !strings.Contains(plan(8).Warnings, "0.01") {
		must.Less(t, 2*time.Second, time.Since(edit), must.Sprint("an edit counts within a second; this machine may be busy"))
		time.Sleep(20 * time.Millisecond)
	}
}
