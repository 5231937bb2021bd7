package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/nomad-governor/governor/quotaagent/sqlite"
	"github.com/shoenig/test/must"
)

// rssEnv is the directory of the ledger that the child process of
// BenchmarkRSS10000Holds leads over, and of the socket of its Nomad.
const rssEnv = "GOVERNOR_BENCH_RSS"

// rssHolds is how many jobs run.
const rssHolds = 10_000

// BenchmarkRSS10000Holds measures the memory of an agent process that leads while
// 10,000 jobs run, each with an active hold, on SQLite: "rss_MB" after three rounds
// of the meter, and "peak_MB", the most until then. The process is this test binary,
// started anew; its Nomad is the first process.
func BenchmarkRSS10000Holds(b *testing.B) {
	if dir := os.Getenv(rssEnv); dir != "" {
		leadForRSS(b, dir)
		return
	}
	dir := fastDir(b)
	fillForRSS(b, dir)
	nomad := rssRig(newClock())
	newChaosNomad(b, dir, nomad, false)
	serveAllocations(b, filepath.Join(dir, "api"), nomad)
	for b.Loop() {
		child := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkRSS10000Holds$", "-test.benchtime=1x") //nolint:gosec // this binary
		child.Env = append(os.Environ(), rssEnv+"="+dir)
		out, err := child.CombinedOutput()
		must.NoError(b, err, must.Sprint(string(out)))
		for metric, pattern := range map[string]string{"rss_MB": `VmRSS (\d+) kB`, "peak_MB": `VmHWM (\d+) kB`, "heap_MB": `heap (\d+) kB`} {
			found := regexp.MustCompile(pattern).FindSubmatch(out)
			must.Len(b, 2, found, must.Sprint(string(out)))
			kilobytes, err := strconv.Atoi(string(found[1]))
			must.NoError(b, err)
			b.ReportMetric(float64(kilobytes)*1024/1e6, metric)
		}
	}
}

// serveAllocations answers with the list of allocations as a Nomad does, on a socket.
func serveAllocations(b *testing.B, socket string, nomad *fakeNomad) {
	allocs, err := nomad.list(everything)
	must.NoError(b, err)
	stubs := make([]*api.AllocationListStub, len(allocs))
	for i, a := range allocs {
		event := &api.TaskEvent{Time: a.Created.UnixNano(), Details: map[string]string{}}
		state := &api.TaskState{State: "running", StartedAt: a.Created}
		for _, kind := range []string{api.TaskReceived, api.TaskSetup, api.TaskStarted} {
			e := *event
			e.Type, e.DisplayMessage = kind, "Task "+kind+" by client"
			state.Events = append(state.Events, &e)
		}
		task := &api.AllocatedTaskResources{Cpu: api.AllocatedCpuResources{CpuShares: 4000}, Memory: api.AllocatedMemoryResources{MemoryMB: 64_000}}
		for _, d := range a.Devices {
			name := strings.SplitN(d.Name, "/", 3)
			task.Devices = append(task.Devices, &api.AllocatedDeviceResource{Vendor: name[0], Type: name[1], Name: name[2], DeviceIDs: d.IDs})
		}
		stubs[i] = &api.AllocationListStub{ID: a.ID, EvalID: a.ID, Name: a.Name, Namespace: a.Namespace, NodeID: a.NodeID, NodeName: a.NodeName, JobID: a.JobID, JobType: api.JobTypeBatch,
			TaskGroup: a.Group, DesiredStatus: api.AllocDesiredStatusRun, ClientStatus: api.AllocClientStatusRunning, CreateIndex: a.CreateIndex, ModifyIndex: a.CreateIndex,
			CreateTime: a.Created.UnixNano(), ModifyTime: a.Created.UnixNano(), TaskStates: map[string]*api.TaskState{"t": state},
			AllocatedResources: &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{"t": task}}}
	}
	text, err := json.Marshal(stubs)
	must.NoError(b, err)
	listener, err := net.Listen("unix", socket)
	must.NoError(b, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	b.Cleanup(func() {
		_ = server.Close()
		<-served
	})
}

// rssNomad reads the allocations as the agent does.
type rssNomad struct {
	*chaosClient
	events *nomadevents.Client
}

func newRSSNomad(b *testing.B, dir string) rssNomad {
	client, err := api.NewClient(&api.Config{Address: "unix://" + filepath.Join(dir, "api")})
	must.NoError(b, err)
	b.Cleanup(client.Close)
	return rssNomad{newChaosClient(filepath.Join(dir, "nomad")), nomadevents.New(client, nil)}
}

// Snapshot implements nomadState.
func (n rssNomad) Snapshot(ctx context.Context) ([]nomadevents.Allocation, error) {
	return n.events.Snapshot(ctx)
}

// rssRig is a Nomad in which the jobs run: the same in every process, by the order.
func rssRig(c *clock) *fakeNomad {
	nomad := newNomad(c.now)
	for n := range rssHolds {
		nomad.register("default", rssJob(n), false)
		nomad.start("default", rssJob(n), 0, 8)
	}
	return nomad
}

func rssJob(n int) string { return fmt.Sprintf("training-run-%06d", n) }

// fillForRSS admits one job and has the ledger see its allocation, and writes the
// hold once for each job, and what all of them hold.
func fillForRSS(b *testing.B, dir string) {
	r := newRigOn(b, newMemStore(), testPolicy(1_000_000, "1000000000"))
	r.t = b
	must.False(b, r.run(batch(r.nomad, "default", rssJob(0), 1, 8, 100*time.Hour)).Denied)
	r.nomad.start("default", rssJob(0), 0, 8)
	must.NoError(b, r.settle())
	one := r.holdOf("default", rssJob(0))
	must.Len(b, 1, one.Tracks)
	nomad := rssRig(r.clock)
	allocs, err := nomad.list(everything)
	must.NoError(b, err)
	writes := []ledger.Write{{Key: policyPrefix + "budgets.hcl", Value: []byte(testPolicy(1_000_000, "1000000000"))}}
	sum := ledger.NewVector()
	for n, a := range allocs {
		h := one.Clone()
		h.ID, h.JobID = fmt.Sprintf("%016x", n), a.JobID
		h.JobModifyIndex = nomad.jobs[jobKey("default", a.JobID)].modifyIndex
		h.Tracks[0].Alloc, h.Tracks[0].Name, h.Tracks[0].GPUs[0].IDs = a.ID, a.Name, a.Devices[0].IDs
		sum.AddAll(h.Charged, 1)
		value, err := ledger.EncodeHold(h)
		must.NoError(b, err)
		writes = append(writes, ledger.Write{Key: holdKey("default", a.JobID), Value: value})
	}
	for _, of := range ledger.Ancestors(one.Budget) {
		balance := r.balance(of).Clone()
		balance.Held = sum
		value, err := balance.Encode()
		must.NoError(b, err)
		writes = append(writes, ledger.Write{Key: balancePrefix + of, Value: value})
	}
	store, err := sqlite.Open(filepath.Join(dir, "ledger.db"))
	must.NoError(b, err)
	for part := range slices.Chunk(writes, 60) {
		must.NoError(b, store.Commit(b.Context(), ledger.Fence{}, part))
	}
	must.NoError(b, store.Close())
}

// leadForRSS is the child process.
func leadForRSS(b *testing.B, dir string) {
	debug.SetGCPercent(50) // as cmd/governor has it for a heap of that size
	c := newClock()
	nomad := newRSSNomad(b, dir)
	store, err := sqlite.Open(filepath.Join(dir, "ledger.db"))
	must.NoError(b, err)
	defer store.Close()
	a := New(Options{Name: "bench", Store: store, Nomad: nomad, Placer: &fakePlacer{}, Logger: hclog.NewNullLogger(), Now: c.now})
	must.NoError(b, a.Keeper.Load(b.Context()))
	a.Meter.begin()
	for range 3 {
		c.advance(time.Minute)
		a.Meter.holdsChanged.Store(true)
		must.NoError(b, a.Meter.reconcile(b.Context(), ledger.Fence{}))
		must.NoError(b, a.Meter.tick(b.Context(), ledger.Fence{}))
	}
	must.Len(b, rssHolds, a.Meter.open)
	must.NotEq(b, int64(0), int64(a.Meter.open[0].Posted.Total()), must.Sprint("nothing was posted"))
	status, err := os.ReadFile("/proc/self/status")
	must.NoError(b, err)
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	for _, name := range []string{"VmRSS", "VmHWM"} {
		found := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(status)
		must.Len(b, 2, found)
		fmt.Printf("%s %s kB\n", name, found[1])
	}
	fmt.Printf("heap %d kB\n", heap.HeapAlloc/1024)
}
