package nomadevents

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve is a client of a stub of Nomad; the client's idle connections end with
// the test.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := api.NewClient(&api.Config{Address: server.URL, HttpClient: &http.Client{Transport: transport}})
	must.NoError(t, err)
	return New(client, nil)
}

func gpus(ids ...string) *api.AllocatedResources {
	return &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{
		"t": {Devices: []*api.AllocatedDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: "V100", DeviceIDs: ids}}},
		"sidecar": {Devices: []*api.AllocatedDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: "A40", DeviceIDs: []string{"a"}},
			{Vendor: "intel", Type: "fpga", Name: "F", DeviceIDs: []string{"f"}}}},
	}}
}

var created = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func TestHowAnAllocationEnds(t *testing.T) {
	t.Parallel()
	finished := func(at time.Time) map[string]*api.TaskState {
		return map[string]*api.TaskState{"t": {FinishedAt: at}, "never": nil}
	}
	hour := created.Add(time.Hour)
	cases := map[string]struct {
		status, jobType           string
		tasks                     map[string]*api.TaskState
		terminal, done, estimated bool
		ended                     time.Time
	}{
		"pending holds its GPUs":       {status: "pending"},
		"running":                      {status: "running"},
		"unknown still holds them":     {status: "unknown"},
		"complete batch":               {status: "complete", jobType: "batch", terminal: true, done: true, ended: hour},
		"complete service is replaced": {status: "complete", jobType: "service", terminal: true, ended: hour},
		"failed may start again":       {status: "failed", jobType: "batch", terminal: true, ended: hour},
		"lost":                         {status: "lost", jobType: "batch", terminal: true, ended: hour},
		"seen as it ended": {status: "complete", jobType: "batch", tasks: finished(hour.Add(-time.Second)),
			terminal: true, done: true, ended: hour},
		"changed long after it ended": {status: "complete", jobType: "batch", tasks: finished(hour.Add(-time.Minute)),
			terminal: true, done: true, estimated: true, ended: hour.Add(-time.Minute)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := serve(t, func(w http.ResponseWriter, r *http.Request) {
				must.Eq(t, "*", r.URL.Query().Get("namespace"))
				must.Eq(t, "true", r.URL.Query().Get("resources"))
				_ = json.NewEncoder(w).Encode([]*api.AllocationListStub{
					{ID: "cpu", ClientStatus: "running", AllocatedResources: &api.AllocatedResources{}},
					{ID: "a", Name: "j.g[0]", Namespace: "ns", JobID: "j", JobType: c.jobType, TaskGroup: "g", NodeID: "n", NodeName: "node",
						CreateIndex: 7, CreateTime: created.UnixNano(), ModifyTime: hour.UnixNano(), ClientStatus: c.status,
						TaskStates: c.tasks, AllocatedResources: gpus("2", "1")}})
			})
			got, err := client.Snapshot(t.Context())
			must.NoError(t, err)
			must.Len(t, 1, got)
			a := got[0]
			must.Eq(t, c.terminal, a.Terminal)
			must.Eq(t, c.done, a.Done)
			must.Eq(t, c.estimated, a.Estimated)
			must.True(t, c.ended.Equal(a.Ended), must.Sprint(a.Ended))
			must.True(t, created.Equal(a.Created))
			must.Eq(t, []Devices{{Name: "nvidia/gpu/A40", IDs: []string{"a"}}, {Name: "nvidia/gpu/V100", IDs: []string{"1", "2"}}}, a.Devices)
			must.Eq(t, []string{"1", "2", "a"}, a.IDs())
			must.Eq(t, []string{"2", "1"}, a.ByTask["t"])
		})
	}
}

// A list that is not whole is none: what is missing in it would count as ended.
func TestAListIsReadToItsEnd(t *testing.T) {
	t.Parallel()
	stub, err := json.Marshal(api.AllocationListStub{ID: "a", AllocatedResources: gpus("1")})
	must.NoError(t, err)
	one := string(stub)
	for said, want := range map[string]int{
		"[]": 0, "null": 0, "[" + one + "]": 1, "[" + one + ",\n" + one + "]": 2,
		"": -1, "[": -1, "[" + one: -1, "[" + one + ",": -1, "[" + one[:40]: -1, "{}": -1, `"x"`: -1, "[1]": -1, "[" + one + " " + one + "]": -1,
	} {
		got, err := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(said)) }).Snapshot(t.Context())
		must.EqOp(t, want < 0, err != nil, must.Sprint(said, err))
		must.Len(t, max(0, want), got)
	}
	_, err = serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Permission denied", http.StatusForbidden) }).Snapshot(t.Context())
	must.ErrorContains(t, err, "Permission denied")
}

func TestJobsAreFoundWhateverTheirIDs(t *testing.T) {
	t.Parallel()
	index, changed, running, dead, stopped := uint64(42), uint64(45), "running", "dead", true
	gated := []*api.TaskGroup{{Constraints: []*api.Constraint{api.NewConstraint("${meta.governor_gate}", "=", "held by governor: x")}}}
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		must.Eq(t, "ns", r.URL.Query().Get("namespace"))
		switch {
		case r.URL.Path == "/v1/job/train":
			_ = json.NewEncoder(w).Encode(api.Job{Status: &running, JobModifyIndex: &index})
		case r.URL.Path == "/v1/job/old":
			_ = json.NewEncoder(w).Encode(api.Job{Status: &dead, Stop: &stopped, JobModifyIndex: &index, ModifyIndex: &changed})
		case r.URL.Path == "/v1/job/waits":
			_ = json.NewEncoder(w).Encode(api.Job{Status: &running, JobModifyIndex: &index, TaskGroups: gated})
		case r.URL.Path == "/v1/job/secret":
			http.Error(w, "Permission denied", http.StatusForbidden)
		case r.URL.Path == "/v1/jobs" && r.URL.Query().Get("prefix") == "team/summary":
			_ = json.NewEncoder(w).Encode([]api.JobListStub{{ID: "team/summary2", Status: "dead"}, {ID: "team/summary", Status: "running", Stop: true, JobModifyIndex: 43, ModifyIndex: 46}})
		case r.URL.Path == "/v1/job/team/summary/versions":
			newest, older := uint64(43), uint64(42)
			_ = json.NewEncoder(w).Encode(map[string]any{"Versions": []api.Job{{JobModifyIndex: &newest, TaskGroups: gated}, {JobModifyIndex: &older}}})
		case r.URL.Path == "/v1/job/team/purged/evaluations":
			_ = json.NewEncoder(w).Encode([]api.Evaluation{{ID: "1", TriggeredBy: "job-deregister", CreateTime: 9_000_000}, {ID: "2", TriggeredBy: "job-deregister",
				CreateTime: 7_000_000}, {ID: "3", TriggeredBy: "job-register", CreateTime: 11_000_000}})
		case r.URL.Path == "/v1/job/never/evaluations":
			_, _ = w.Write([]byte("[]"))
		case r.URL.Path == "/v1/jobs":
			_, _ = w.Write([]byte("[]"))
		default:
			http.Error(w, "job not found", http.StatusNotFound)
		}
	})
	for id, want := range map[string]Job{
		"train":        {Exists: true, ModifyIndex: 42},
		"old":          {Exists: true, Dead: true, Stopped: true, ModifyIndex: 42, ChangedIndex: 45},
		"none":         {Dead: true},
		"waits":        {Exists: true, Gated: true, ModifyIndex: 42},
		"team/summary": {Exists: true, Stopped: true, Gated: true, ModifyIndex: 43, ChangedIndex: 46},
		"team/none":    {Dead: true},
	} {
		got, err := client.Job(t.Context(), "ns", id)
		must.NoError(t, err)
		must.Eq(t, want, got, must.Sprint(id))
	}
	purged, err := client.Deregistered(t.Context(), "ns", "team/purged")
	must.NoError(t, err)
	must.Eq(t, []time.Time{time.UnixMilli(7), time.UnixMilli(9)}, purged)
	never, err := client.Deregistered(t.Context(), "ns", "never")
	must.NoError(t, err)
	must.SliceEmpty(t, never)
	_, err = client.Job(t.Context(), "ns", "secret")
	must.ErrorContains(t, err, `read job "secret"`)
}

// Only the list of all allocations tells their devices: it is asked about single ones where
// a job has few, and searched where it has more.
func TestTheAllocationsOfAJobAreFoundByTheirIDs(t *testing.T) {
	t.Parallel()
	for n := range fewAllocations + 3 {
		var asked []string
		client := serve(t, func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			must.Eq(t, "ns", q.Get("namespace"))
			if r.URL.EscapedPath() == "/v1/job/a%22b%2Fc/allocations" {
				must.Eq(t, "true", q.Get("all"))
				_ = json.NewEncoder(w).Encode(stubs(n))
				return
			}
			must.Eq(t, "/v1/allocations", r.URL.Path)
			must.Eq(t, "true", q.Get("resources"))
			asked = append(asked, q.Get("prefix")+q.Get("filter"))
			found := stubs(n)
			for i := range found {
				found[i].AllocatedResources = gpus("1")
			}
			if prefix := q.Get("prefix"); prefix != "" {
				found = slices.DeleteFunc(found, func(s *api.AllocationListStub) bool { return s.ID != prefix })
			}
			_ = json.NewEncoder(w).Encode(found)
		})
		got, err := client.JobAllocations(t.Context(), "ns", `a"b/c`)
		must.NoError(t, err)
		must.Len(t, n, got)
		for i, a := range got {
			must.Eq(t, fmt.Sprint("alloc", i), a.ID)
		}
		want := []string{`JobID == "a\"b/c"`}
		if n <= fewAllocations {
			want = nil
			for i := range n {
				want = append(want, fmt.Sprint("alloc", i))
			}
		}
		must.Eq(t, want, asked)
	}
}

func stubs(n int) []*api.AllocationListStub {
	out := make([]*api.AllocationListStub, n)
	for i := range out {
		out[i] = &api.AllocationListStub{ID: fmt.Sprint("alloc", i), JobID: `a"b/c`, Namespace: "ns"}
	}
	return out
}

func TestAllocationsThatCannotBeListedAreAnError(t *testing.T) {
	t.Parallel()
	for _, refused := range []string{"/v1/job/j/allocations", "/v1/allocations"} {
		for _, n := range []int{1, fewAllocations + 1} {
			client := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == refused {
					http.Error(w, "Permission denied", http.StatusForbidden)
					return
				}
				_ = json.NewEncoder(w).Encode(stubs(n))
			})
			_, err := client.JobAllocations(t.Context(), "ns", "j")
			must.ErrorContains(t, err, `list allocations of job "j"`)
			must.ErrorContains(t, err, "Permission denied")
		}
	}
}

func TestStreamTellsOfGPUsAndJobsAndEnds(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		must.Eq(t, "*", r.URL.Query().Get("namespace"))
		if atIndex(w, r, 8) {
			return
		}
		must.Eq(t, "9", r.URL.Query().Get("index")) // nothing that is older than the stream
		batch := api.Events{Index: 9, Events: []api.Event{
			{Topic: api.TopicAllocation, Payload: map[string]any{"Allocation": map[string]any{"ID": "cpu", "ClientStatus": "running"}}},
			{Topic: api.TopicAllocation, Payload: map[string]any{"Allocation": map[string]any{"ID": "a", "Namespace": "ns", "JobID": "j",
				"ClientStatus": "complete", "ModifyTime": created.UnixNano(), "AllocatedResources": gpus("1")}}},
			{Topic: api.TopicJob, Index: 9, Payload: map[string]any{"Job": map[string]any{"ID": "j", "Namespace": "ns", "Payload": "c29tZXRoaW5n"}}},
		}}
		_ = json.NewEncoder(w).Encode(batch)
		fmt.Fprintln(w, "{}") // a heartbeat
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-hold:
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var told []string
	err := client.Stream(ctx, Watcher{
		Ready:      func() { told = append(told, "ready") },
		Allocation: func(a Allocation) { told = append(told, fmt.Sprint(a.ID, a.Terminal)) },
		Job: func(namespace, id string, index uint64) {
			told = append(told, fmt.Sprint(namespace, "/", id, " ", index))
			cancel()
		},
	})
	must.ErrorIs(t, err, context.Canceled)
	must.Eq(t, []string{"ready", "atrue", "ns/j 9"}, told)
	close(hold)
}

func TestAStreamThatCannotBeOpenedIsAnError(t *testing.T) {
	t.Parallel()
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !atIndex(w, r, 8) {
			http.Error(w, "Permission denied", http.StatusForbidden)
		}
	})
	err := client.Stream(t.Context(), Watcher{Ready: func() { t.Error("ready") }})
	must.ErrorContains(t, err, "open event stream")
}

func TestABrokenStreamEnds(t *testing.T) {
	t.Parallel()
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !atIndex(w, r, 8) {
			_, _ = w.Write([]byte("{\"Index\":"))
		}
	})
	err := client.Stream(t.Context(), Watcher{Ready: func() {}})
	must.ErrorContains(t, err, "read event stream")
}

// atIndex answers the question for the index at which a stream is to begin.
func atIndex(w http.ResponseWriter, r *http.Request, index uint64) bool {
	if r.URL.Path != "/v1/allocations" {
		return false
	}
	w.Header().Set("X-Nomad-Index", fmt.Sprint(index))
	_, _ = w.Write([]byte("[]"))
	return true
}
