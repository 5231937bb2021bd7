package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/nomad-governor/governor/scheduler/nomadstate"
)

// placementServer serves the placement service's routes in front of a Nomad. Jobs of the
// namespace "quiet" draw from a budget in whose jobs nothing is pinned.
func placementServer(t *testing.T, nomad http.HandlerFunc) (*httptest.Server, *placer) {
	t.Helper()
	behind := httptest.NewServer(nomad)
	t.Cleanup(behind.Close)
	config := agentconfig.Default()
	config.Nomad.Address = behind.URL
	client, err := nomadClient(config.Nomad, nomadevents.NewClock(time.Now), hclog.NewNullLogger())
	must.NoError(t, err)
	config.Placement.NodePools = []agentconfig.NodePool{{Name: "batch", Mode: "prefer"}}
	p := newPlacer(nomadstate.New(client.Raw()), nil, time.Now, *config.Placement, true)
	routes := p.routes(func(s gate.Submission) agent.Placing {
		if s.Ask.Namespace == "quiet" && s.Identity.Accessor == "somebody" {
			return agent.Placing{Mode: "off", Budget: "acme/quiet"}
		}
		return agent.Placing{}
	})
	who := func(*http.Request, api.Right) (api.Caller, int, string) {
		return api.Caller{Accessor: "somebody"}, 0, ""
	}
	server := httptest.NewServer(api.Handler(routes, who, func(_ *http.Request, err error) { t.Error(err) }))
	t.Cleanup(server.Close)
	return server, p
}

func ask(t *testing.T, server *httptest.Server, body string) (status int, answer string) {
	t.Helper()
	r, err := server.Client().Post(server.URL+"/governor/v1/placement", "application/json", bytes.NewReader([]byte(body)))
	must.NoError(t, err)
	defer func() { must.NoError(t, r.Body.Close()) }()
	raw, err := io.ReadAll(r.Body)
	must.NoError(t, err)
	return r.StatusCode, string(raw)
}

const oneJob = `{"Job": {"ID": "train", "Namespace": "NAMESPACE", "Type": "batch", "Datacenters": ["*"], "NodePool": "POOL", "Meta": METAMAP,
  "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "main", "Driver": "raw_exec", "Config": {"command": "true"},
    "Resources": {"CPU": 100, "MemoryMB": 64, "Devices": [{"Name": "nvidia/gpu", "Count": 2}]}}]}]}}`

func jobIn(namespace, pool, meta string) string {
	text := bytes.ReplaceAll([]byte(oneJob), []byte("NAMESPACE"), []byte(namespace))
	text = bytes.ReplaceAll(text, []byte("POOL"), []byte(pool))
	return string(bytes.ReplaceAll(text, []byte("METAMAP"), []byte(meta)))
}

// What people and programs read, one file for each question.
func TestProposalsReadWell(t *testing.T) {
	t.Parallel()
	server, p := placementServer(t, recordedNomad)
	cases := map[string]struct {
		body   string
		status int
	}{
		"pair":            {`{"gpus": 2}`, 200},
		"all-nodes":       {`{"gpus": 1, "nodes": 5, "device": "nvidia/gpu", "constraints": [{"attribute": "${node.unique.name}", "operator": "!=", "value": "v2"}]}`, 200},
		"too-many":        {`{"gpus": 9}`, 200},
		"full":            {`{"gpus": 8}`, 200},
		"spread":          {`{"gpus": 1, "count": 2, "distinct_hosts": true, "nodes": 3}`, 200},
		"no-cpu":          {`{"gpus": 1, "cpu": 1000000}`, 200},
		"job":             {jobIn("default", "default", "{}"), 200},
		"job-of-a-budget": {jobIn("quiet", "default", "{}"), 200},
		"job-of-a-pool":   {jobIn("default", "batch", "{}"), 200},
		"job-says-itself": {jobIn("quiet", "default", `{"governor_placement": "require"}`), 200},
		"gang":            {strings.Replace(jobIn("default", "default", `{"governor_gang": "true"}`), `"Name": "g", `, `"Name": "g", "Count": 2, `, 1), 200},
		"bad-state":       {jobIn("default", "default", `{"governor_state": "a=lots"}`), 400},
		"bad-mode":        {jobIn("default", "default", `{"governor_placement": "best"}`), 400},
		"bad-nothing":     {`{}`, 400},
		"bad-both":        {`{"gpus": 1, ` + jobIn("default", "default", "{}")[1:], 400},
		"bad-key":         {`{"gpu": 1}`, 400},
		"bad-device":      {`{"gpus": 1, "device": "intel/fpga"}`, 400},
		"bad-constraint":  {`{"gpus": 1, "constraints": [{"value": "x"}]}`, 400},
		"bad-nodes":       {`{"gpus": 1, "nodes": 65}`, 400},
		"bad-count":       {`{"gpus": 1, "count": -1}`, 400},
		"bad-job":         {`{"Job": {"TaskGroups": []}}`, 400},
		"bad-json":        {`{"gpus": 1`, 400},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			status, got := ask(t, server, c.body)
			must.Eq(t, c.status, status, must.Sprint(got))
			path := filepath.Join("testdata", "placement", name+".json")
			if *update {
				must.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				must.NoError(t, os.WriteFile(path, []byte(got), 0o644))
			}
			want, err := os.ReadFile(path)
			must.NoError(t, err)
			must.Eq(t, string(want), got)
		})
	}
	snapshot, err := p.state.Snapshot(t.Context(), time.Hour)
	must.NoError(t, err)
	marked := p.spared.Mark(snapshot, "", "", time.Now())
	must.True(t, marked.Same(&snapshot), must.Sprint("asking promises nothing to anybody"))
}

func TestAProposalNeedsNomad(t *testing.T) {
	t.Parallel()
	server, _ := placementServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	status, answer := ask(t, server, `{"gpus": 1}`)
	must.Eq(t, 503, status)
	must.StrContains(t, answer, "Nomad cannot be asked")
}
