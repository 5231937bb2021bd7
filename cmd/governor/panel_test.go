package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/nomad-governor/governor/quotaagent/sqlite"
	"github.com/nomad-governor/governor/quotaagent/uipanel"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/nomadstate"
)

// shownNomad is recordedNomad, in which "root" sees everything and "user" the namespace
// default alone.
type shownNomad struct {
	silent bool // clients do not say how busy they are
}

const (
	runningAlloc = "515be3fe-8612-8bdd-3d6f-c33bcec2b879" // two GPUs of v1
	endedAlloc   = "02307809-34e4-8aed-4bfa-6d63e72327e2"
	secretAlloc  = "00000000-0000-0000-0000-000000000001"
)

func (n *shownNomad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get("X-Nomad-Token")
	may := func(namespace string) bool { return token == "root" || token == "user" && namespace == "default" }
	rest, one := strings.CutPrefix(r.URL.Path, "/v1/allocation/")
	stats, ofClient := strings.CutPrefix(r.URL.Path, "/v1/client/allocation/")
	switch {
	case one:
		raw := allocationOf(rest)
		var a struct{ Namespace string }
		_ = json.Unmarshal(raw, &a)
		switch {
		case raw == nil:
			http.Error(w, "alloc not found", http.StatusNotFound)
			return
		case !may(a.Namespace): // as seen on 1.11.3
			http.Error(w, "Unknown allocation "+rest, http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(raw)
	case ofClient && n.silent:
		http.Error(w, "no path to node", http.StatusInternalServerError)
	case ofClient && strings.HasPrefix(stats, runningAlloc):
		fmt.Fprint(w, clientStats)
	case strings.HasSuffix(r.URL.Path, "/allocations"):
		if !may(r.URL.Query().Get("namespace")) {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return
		}
		fmt.Fprint(w, "[]")
	default:
		recordedNomad(w, r)
	}
}

// allocationOf is a recorded allocation, and a secret one of another namespace.
func allocationOf(id string) []byte {
	file, err := os.ReadFile(filepath.Join("..", "..", "scheduler", "nomadstate", "testdata", "allocations.json"))
	var all []json.RawMessage
	if err != nil || json.Unmarshal(file, &all) != nil {
		panic(err)
	}
	for _, raw := range all {
		if strings.Contains(string(raw), `"ID": "`+id+`"`) {
			return raw
		}
		if id == secretAlloc {
			return []byte(strings.Replace(string(raw), `"Namespace": "default"`, `"Namespace": "secret"`, 1))
		}
	}
	return nil
}

// clientStats are of nomad-device-gpu for one GPU, and of hashicorp/nomad-device-nvidia for
// the other.
const clientStats = `{"Tasks": {"main": {"ResourceUsage": {"DeviceStats": [null, {"Vendor": "nvidia", "Type": "gpu", "InstanceStats": {
	"GPU-6b39e5f4-5471-4ac0-a41d-4ad6d53cee60": {"Stats": {"Attributes": {
		"gpu.utilization": {"IntNumeratorVal": 87, "Unit": "%"}, "memory.used": {"IntNumeratorVal": 1024, "IntDenominatorVal": 16384, "Unit": "MiB"},
		"temperature": {"IntNumeratorVal": 61}, "power.usage": {"IntNumeratorVal": 250, "IntDenominatorVal": 300}, "health": {"StringVal": "xid_79: off the bus"}}}},
	"GPU-b349bb81-3db0-4eec-a172-2fdb8abb4097": {"Stats": {"Attributes": {
		"GPU utilization": {"IntNumeratorVal": 5}, "Memory state": {"IntNumeratorVal": 10, "IntDenominatorVal": 16160}, "Power usage": {"FloatNumeratorVal": 40.7}}}},
	"GPU-of-somebody-else": null}}]}}, "gone": null}}`

// panelRig is an agent in front of that Nomad, with a hold for the running allocation.
func panelRig(t *testing.T, nomad *shownNomad, edits ...func(*agentconfig.Config)) string {
	t.Helper()
	server := httptest.NewServer(nomad)
	t.Cleanup(server.Close)
	store, err := sqlite.Open(filepath.Join(t.TempDir(), "governor.db"))
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, store.Close()) })
	config := agentconfig.Default()
	config.Nomad.Address, config.Nomad.Token = server.URL, "root"
	for _, edit := range edits {
		edit(&config)
	}
	client, err := nomadClient(config.Nomad, nomadevents.NewClock(time.Now), hclog.NewNullLogger())
	must.NoError(t, err)
	placement := newPlacer(nomadstate.New(client.Raw()), store, time.Now, *config.Placement, true)
	a := agent.New(agent.Options{Name: "test", Store: store, Nomad: nomadevents.New(client, nil), Logger: hclog.NewNullLogger(), Placer: placement, Now: time.Now})
	handler, err := newHandler(t.Context(), config, client, a, placement, nil, hclog.NewNullLogger())
	must.NoError(t, err)
	own := httptest.NewServer(handler)
	t.Cleanup(own.Close)

	offer, err := json.Marshal(record{"default", "job-0-0", cluster.Offer{Groups: []cluster.GroupOffer{{Group: "g", Nodes: []cluster.NodeOffer{{
		NodeID: "d85fbf37-be64-96ac-6e59-fdd75b744c08", Sets: []cluster.Set{{Task: "main", IDs: []string{"GPU-b349bb81-3db0-4eec-a172-2fdb8abb4097", "GPU-297655a8-d7c5-4796-913e-de590956e5fd"}}},
	}}}}}})
	must.NoError(t, err)
	value, err := ledger.EncodeHold(ledger.Hold{ID: "h-1", Namespace: "default", JobID: "job-0-0", Budget: "acme/research", State: ledger.Active, Placement: offer,
		Tracks: []ledger.Track{{Alloc: runningAlloc, Name: "job-0-0.g[0]", Group: "g", StartMS: 1, MarkMS: 1, GPUs: []ledger.TrackGPUs{{Class: "v100", IDs: []string{"GPU-1", "GPU-2"}}}}}})
	must.NoError(t, err)
	sum := sha256.Sum256([]byte("default\x00job-0-0"))
	must.NoError(t, store.Commit(context.Background(), ledger.Fence{}, marked(ledger.Write{Key: "hold/" + hex.EncodeToString(sum[:16]), Value: value})))
	return own.URL
}

func askPanel(t *testing.T, address, path, token string) (panel, int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address+"/governor/v1/panel/"+path, nil)
	must.NoError(t, err)
	if token != "" {
		r.Header.Set("X-Nomad-Token", token)
	}
	answer, err := http.DefaultClient.Do(r)
	must.NoError(t, err)
	defer answer.Body.Close()
	var p panel
	if answer.StatusCode == http.StatusOK {
		must.NoError(t, json.NewDecoder(answer.Body).Decode(&p))
	}
	return p, answer.StatusCode
}

func TestPanel_showsTheGPUsOfAnAllocation(t *testing.T) {
	t.Parallel()
	nomad := &shownNomad{}
	address := panelRig(t, nomad)
	p, status := askPanel(t, address, "allocation?id="+runningAlloc+"&region=global", "user")
	must.Eq(t, http.StatusOK, status)
	must.Eq(t, "/governor/jobs/default/job-0-0", p.Page)
	must.Eq(t, "running", p.Job.State)
	must.Eq(t, "acme/research", p.Job.Budget)
	a := p.Allocation
	must.Eq(t, "v1", a.NodeName)
	must.True(t, a.Running)
	must.Eq(t, "", a.Silent)
	must.Len(t, 2, a.Devices)
	ours, theirs := a.Devices[0], a.Devices[1]
	must.Eq(t, "nvidia/gpu/Tesla V100-SXM2-16GB", ours.Device)
	must.Eq(t, []int64{87, 1024, 16384, 61, 250, 300}, []int64{*ours.UtilizationPercent, *ours.MemoryUsedMiB, *ours.MemoryTotalMiB, *ours.TemperatureC, *ours.PowerW, *ours.PowerLimitW})
	must.Eq(t, "xid_79: off the bus", ours.Health)
	must.Eq(t, []int64{5, 10, 40}, []int64{*theirs.UtilizationPercent, *theirs.MemoryUsedMiB, *theirs.PowerW})
	must.Nil(t, theirs.TemperatureC)
	must.Eq(t, "healthy", theirs.Health)

	must.Len(t, 1, a.Sets)
	set := a.Sets[0]
	must.Eq(t, "main", set.Task)
	must.Greater(t, 0, set.Given.RingMBps)
	must.NotNil(t, set.Offered)
	must.NotEq(t, set.Offered.Indexes, set.Given.Indexes, must.Sprint("it did not get what was offered"))

	only, _ := askPanel(t, address, "allocation?id="+runningAlloc+"&task=other", "user")
	must.SliceEmpty(t, only.Allocation.Devices)
	task, _ := askPanel(t, address, "allocation?id="+runningAlloc+"&task=main", "user")
	must.Len(t, 2, task.Allocation.Devices)

	nomad.silent = true
	p, _ = askPanel(t, address, "allocation?id="+runningAlloc, "user")
	must.Eq(t, "the node does not say how busy its GPUs are", p.Allocation.Silent)
	must.Nil(t, p.Allocation.Devices[0].UtilizationPercent)
	must.Eq(t, "healthy", p.Allocation.Devices[0].Health)

	p, status = askPanel(t, address, "allocation?id="+endedAlloc, "root")
	must.Eq(t, http.StatusOK, status)
	must.False(t, p.Allocation.Running)
	must.Eq(t, "unknown", p.Job.State)
	must.SliceNotEmpty(t, p.Allocation.Devices)
}

// Who may not see a job in Nomad's UI sees nothing of it here, and is told no more than
// of one that does not exist.
func TestPanel_showsWhatNomadShows(t *testing.T) {
	t.Parallel()
	address := panelRig(t, &shownNomad{})
	const missing = "00000000-0000-0000-0000-000000000002"
	for _, c := range []struct {
		path, token string
		want        int
	}{
		{"allocation?id=" + secretAlloc, "root", 200},
		{"allocation?id=" + secretAlloc, "user", 404},
		{"allocation?id=" + missing, "user", 404},
		{"allocation?id=" + runningAlloc, "", 403},
		{"allocation?id=" + runningAlloc, "nonsense", 403},
		{"allocation?id=" + runningAlloc + "&region=elsewhere", "user", 404},
		{"allocation?id=" + runningAlloc[:8], "user", 400},
		{"allocation?id=../jobs", "user", 400},
		{"job?job=job-0-0", "user", 200},
		{"job?job=job-0-0&namespace=default", "user", 200},
		{"job?job=secret&namespace=secret", "root", 200},
		{"job?job=secret&namespace=secret", "user", 404},
		{"job?job=job-0-0&namespace=*", "root", 400},
		{"job?namespace=default", "user", 400},
		{"job?job=job-0-0&region=elsewhere", "user", 404},
		{"job?job=job-0-0", "", 403},
	} {
		_, status := askPanel(t, address, c.path, c.token)
		must.Eq(t, c.want, status, must.Sprint(c.path, " as ", c.token))
	}
	p, _ := askPanel(t, address, "job?job="+url.QueryEscape("a/b?c"), "user")
	must.Eq(t, "/governor/jobs/default/a%2Fb%3Fc", p.Page)
	must.Eq(t, "unknown", p.Job.State)
	must.Nil(t, p.Allocation)
}

func TestPanel_filesAreServedAndThePageIsEditedUnlessSwitchedOff(t *testing.T) {
	t.Parallel()
	for want, edit := range map[bool]func(*agentconfig.Config){true: func(*agentconfig.Config) {}, false: func(c *agentconfig.Config) { c.Gate.UIPanel = new(false) }} {
		must.Eq(t, want, func() bool {
			c := agentconfig.Default()
			edit(&c)
			return editPage(c) != nil
		}())
	}
	address := panelRig(t, &shownNomad{})
	answer, err := http.Get(address + uipanel.ScriptPath) //nolint:noctx // a test's own server
	must.NoError(t, err)
	must.NoError(t, answer.Body.Close())
	must.Eq(t, http.StatusOK, answer.StatusCode)
}
