package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"go.uber.org/goleak"
)

// TestMain is also the main function of the agents that the chaos test starts.
func TestMain(m *testing.M) {
	if os.Getenv(chaosProcessEnv) != "" {
		os.Exit(chaosProcess())
	}
	goleak.VerifyTestMain(m)
}

// clock is a clock that only moves when it is told to.
type clock struct {
	mu sync.Mutex
	at time.Time
}

// noon is far from every window boundary but that of the hour.
var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func newClock() *clock { return &clock{at: noon} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// fakeNomad is a Nomad with state: jobs with indexes, allocations that start,
// end and are garbage collected, and an event stream that can be silent.
type fakeNomad struct {
	now func() time.Time

	mu     sync.Mutex
	index  uint64
	jobs   map[string]*fakeJob
	allocs map[string]*nomadevents.Allocation
	down   error
	// purged is when, by job.
	purged map[string][]time.Time
	// ahead is by how much the agent's clock is.
	ahead time.Duration
	// asked counts the questions about single jobs.
	asked   int
	streams map[chan event]bool
	// used are the facts: GPU-milliseconds of ended allocations of governed jobs.
	used map[string]int64
}

type fakeJob struct {
	modifyIndex, statusIndex uint64
	dead, stopped            bool
	// spec is Nomad's JSON of the job, where a test registers whole jobs.
	spec json.RawMessage
}

type event struct {
	alloc            *nomadevents.Allocation
	namespace, jobID string
	index            uint64
}

func newNomad(now func() time.Time) *fakeNomad {
	return &fakeNomad{now: now, index: 10, purged: map[string][]time.Time{}, jobs: map[string]*fakeJob{}, allocs: map[string]*nomadevents.Allocation{},
		streams: map[chan event]bool{}, used: map[string]int64{}}
}

func jobKey(namespace, id string) string { return namespace + "\x00" + id }

func (n *fakeNomad) emit(e event) {
	for s := range n.streams {
		select {
		case s <- e:
		default: // Nomad's buffer is bounded too
		}
	}
}

// stored is the job as the gate reads it.
func (n *fakeNomad) stored(namespace, id string) *api.Job {
	n.mu.Lock()
	defer n.mu.Unlock()
	j := n.jobs[jobKey(namespace, id)]
	if j == nil {
		return nil
	}
	out := &api.Job{ID: &id, Namespace: &namespace}
	if j.spec != nil {
		out = j.job()
	}
	modify, status := j.modifyIndex, j.statusIndex
	out.JobModifyIndex, out.ModifyIndex = &modify, &status
	return out
}

// register stores a changed job; unchanged leaves it as it is.
func (n *fakeNomad) register(namespace, id string, unchanged bool) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	key := jobKey(namespace, id)
	if j := n.jobs[key]; j != nil && unchanged {
		return j.modifyIndex
	}
	n.jobs[key] = &fakeJob{modifyIndex: n.index, statusIndex: n.index}
	n.emit(event{namespace: namespace, jobID: id, index: n.index})
	return n.index
}

// start places an allocation with so many GPUs, which nobody had before, and
// returns its id.
func (n *fakeNomad) start(namespace, jobID string, slot, gpus int) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []string
	for i := range gpus {
		ids = append(ids, fmt.Sprintf("GPU-%04d-%d", n.index+1, i))
	}
	return n.placeOn(namespace, jobID, slot, ids)
}

// place places an allocation on these GPUs and returns its id.
func (n *fakeNomad) place(namespace, jobID string, slot int, ids []string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.placeOn(namespace, jobID, slot, ids)
}

func (n *fakeNomad) placeOn(namespace, jobID string, slot int, ids []string) string {
	n.index++
	id := fmt.Sprintf("alloc-%04d", n.index)
	a := &nomadevents.Allocation{ID: id, Name: fmt.Sprintf("%s.g[%d]", jobID, slot), Namespace: namespace, JobID: jobID, Group: "g",
		NodeID: "n1", NodeName: "node-1", CreateIndex: n.index, Created: n.now(), ByTask: map[string][]string{}}
	a.Devices = []nomadevents.Devices{{Name: "nvidia/gpu/V100", IDs: ids}}
	a.ByTask["t"] = ids
	n.allocs[id] = a
	copied := *a
	n.emit(event{alloc: &copied})
	return id
}

// finish ends an allocation now; the job dies with its last one.
func (n *fakeNomad) finish(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.allocs[id]
	if a == nil || a.Terminal {
		return
	}
	n.index++
	a.Terminal, a.Ended, a.Done = true, n.now(), true
	n.used[jobKey(a.Namespace, a.JobID)] += int64(len(a.IDs())) * (a.Ended.UnixMilli() - a.Created.UnixMilli())
	running := false
	for _, other := range n.allocs {
		running = running || (other.Namespace == a.Namespace && other.JobID == a.JobID && !other.Terminal)
	}
	if j := n.jobs[jobKey(a.Namespace, a.JobID)]; j != nil && !running {
		j.dead, j.statusIndex = true, n.index
	}
	copied := *a
	n.emit(event{alloc: &copied})
}

// change changes an allocation and tells of it.
func (n *fakeNomad) change(id string, f func(a *nomadevents.Allocation)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	f(n.allocs[id])
	copied := *n.allocs[id]
	n.emit(event{alloc: &copied})
}

// lose ends an allocation with its node: it will be replaced.
func (n *fakeNomad) lose(id string) {
	n.change(id, func(a *nomadevents.Allocation) { a.Terminal, a.Ended = true, n.now() })
}

// purge forgets a job and its allocations.
func (n *fakeNomad) purge(namespace, id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	delete(n.jobs, jobKey(namespace, id))
	n.purged[jobKey(namespace, id)] = append(n.purged[jobKey(namespace, id)], n.now())
	maps.DeleteFunc(n.allocs, func(_ string, a *nomadevents.Allocation) bool { return a.Namespace == namespace && a.JobID == id })
	n.emit(event{namespace: namespace, jobID: id, index: n.index})
}

// kill makes a job dead of which nothing runs.
func (n *fakeNomad) kill(namespace, id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if j := n.jobs[jobKey(namespace, id)]; j != nil {
		n.index++
		j.dead, j.statusIndex = true, n.index
	}
}

// revive makes a dead job pending again, without a change.
func (n *fakeNomad) revive(namespace, id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	j := n.jobs[jobKey(namespace, id)]
	j.dead, j.statusIndex = false, n.index
}

// halt is `nomad job stop` for a job of which nothing runs.
func (n *fakeNomad) halt(namespace, id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if j := n.jobs[jobKey(namespace, id)]; j != nil {
		n.index++
		j.dead, j.stopped, j.modifyIndex, j.statusIndex = true, true, n.index, n.index
	}
}

// collect is Nomad's garbage collection of ended allocations: no event.
func (n *fakeNomad) collect() {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.allocs, func(_ string, a *nomadevents.Allocation) bool { return a.Terminal })
}

func (n *fakeNomad) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = err
}

func (n *fakeNomad) list(keep func(nomadevents.Allocation) bool) ([]nomadevents.Allocation, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down != nil {
		return nil, n.down
	}
	var out []nomadevents.Allocation
	for _, a := range n.allocs {
		if keep(*a) {
			out = append(out, *a)
		}
	}
	slices.SortFunc(out, func(a, b nomadevents.Allocation) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Snapshot implements nomadState.
func (n *fakeNomad) Snapshot(context.Context) ([]nomadevents.Allocation, error) {
	return n.list(func(nomadevents.Allocation) bool { return true })
}

// JobAllocations implements nomadState.
func (n *fakeNomad) JobAllocations(_ context.Context, namespace, jobID string) ([]nomadevents.Allocation, error) {
	return n.list(func(a nomadevents.Allocation) bool { return a.Namespace == namespace && a.JobID == jobID })
}

// Job implements nomadState.
func (n *fakeNomad) Job(_ context.Context, namespace, jobID string) (nomadevents.Job, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if n.down != nil {
		return nomadevents.Job{}, n.down
	}
	j := n.jobs[jobKey(namespace, jobID)]
	if j == nil {
		return nomadevents.Job{Dead: true}, nil
	}
	return nomadevents.Job{Exists: true, Dead: j.dead, Stopped: j.stopped, Gated: j.spec != nil && jobspec.Gated(j.job()), ModifyIndex: j.modifyIndex, ChangedIndex: j.statusIndex}, nil
}

// Deregistered implements nomadState.
func (n *fakeNomad) Deregistered(_ context.Context, namespace, jobID string) ([]time.Time, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.purged[jobKey(namespace, jobID)], n.down
}

// Ahead implements nomadState.
func (n *fakeNomad) Ahead() time.Duration { return n.ahead }

// Stream implements nomadState.
func (n *fakeNomad) Stream(ctx context.Context, w nomadevents.Watcher) error {
	n.mu.Lock()
	if n.down != nil {
		n.mu.Unlock()
		return n.down
	}
	s := make(chan event, 100)
	n.streams[s] = true
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.streams, s)
	}()
	w.Ready()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-s:
			if e.alloc != nil {
				w.Allocation(*e.alloc)
			} else {
				w.Job(e.namespace, e.jobID, e.index)
			}
		}
	}
}

// fakePlacer offers what it is told to and compares allocations with it.
type fakePlacer struct {
	mu         sync.Mutex
	infeasible string
	err        error
	record     string
	waits      string // what is missing of gangs
	behind     string // for which gangs GPUs are set aside, for jobs that never end before
	plan       *ledger.Planned
	hopeless   string // the gang for which there is no plan
	reserved   int
	better     jobspec.Patch // what Replace offers
	replaced   []string      // for which groups it was asked
	how        Placing       // of the last submission
}

// Place implements Placer.
func (p *fakePlacer) Place(_ context.Context, s gate.Submission, how Placing) (Placement, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.how = how
	if p.err != nil {
		return Placement{}, p.err
	}
	if p.waits != "" && admission.IsGang(s.Ask.Meta) {
		waits := Placement{Waits: p.waits, Release: func() {}}
		if how.Ends != nil {
			if s.Ask.JobID != p.hopeless {
				waits.Planned = p.plan
			}
		}
		return waits, nil
	}
	if slices.ContainsFunc(how.Planned, func(f PlannedFor) bool { return f.JobID != s.Ask.JobID && (how.EndsMS == 0 || how.EndsMS > f.StartMS) }) && p.behind != "" {
		return Placement{Waits: p.behind, Release: func() {}}, nil
	}
	release := func() {}
	if how.Commit {
		p.reserved++
		release = sync.OnceFunc(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.reserved--
		})
	}
	return Placement{Infeasible: p.infeasible, Notice: "placed", Record: json.RawMessage(p.record), Release: release}, nil
}

// Replace implements Placer: all groups go where the test says.
func (p *fakePlacer) Replace(ctx context.Context, s gate.Submission, groups []string, _ Placing) (Placement, []string, error) {
	p.mu.Lock()
	p.replaced = groups
	patch := p.better
	p.mu.Unlock()
	if len(patch.Groups) == 0 {
		return Placement{}, nil, nil
	}
	placed, err := p.Place(ctx, s, Placing{Commit: true})
	placed.Patch = patch
	return placed, groups, err
}

// Verify implements Placer: the record is the node that was offered.
func (p *fakePlacer) Verify(record json.RawMessage, _, node string, _ map[string][]string) (string, bool) {
	var offered string
	if json.Unmarshal(record, &offered) != nil {
		return "", false
	}
	if offered != node {
		return "offered " + offered + ", got " + node, true
	}
	return "", true
}

var errDown = errors.New("connection refused")

// batch is a submission of a batch job with one group.
func batch(n *fakeNomad, namespace, id string, count, gpus int, runtime time.Duration) gate.Submission {
	ask := jobspec.Ask{Region: "global", Namespace: namespace, JobID: id, Type: "batch", Meta: map[string]string{}}
	if runtime > 0 {
		ask.Meta["governor_max_runtime"] = runtime.String()
	}
	if count > 0 {
		ask.Groups = []jobspec.GroupAsk{{Name: "g", Count: count, Devices: []jobspec.DeviceAsk{{Task: "t", Name: "nvidia/gpu", Count: gpus}}}}
	}
	return gate.Submission{Kind: gate.Register, Ask: ask, Stored: n.stored(namespace, id),
		Identity: gate.Identity{Accessor: "accessor-" + namespace, Names: []string{"token:" + namespace}}}
}

// pricedV100 begins a policy with one class of GPUs, at 3.6 an hour: a GPU-second
// costs 0.001.
const pricedV100 = `
governor {
  timezone = "UTC"
  currency = "USD"
}
gpu_class "v100" {
  devices = ["nvidia/gpu/V100"]
}
rate_card "r" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "v100" { per_hour = 3.6 }
}`

func testPolicy(gpus int, month string) string {
	return strings.NewReplacer("GPUS", fmt.Sprint(gpus), "MONTH", month).Replace(pricedV100 + `
budget "acme" {
  owner = "finops@acme.example"
  concurrent {
    gpus = { any = GPUS }
  }
  limit "month" {
    gpu_hours = MONTH
    cost      = 100000
  }
  budget "research" {
    match { namespaces = ["default"] }
    per_job { default_runtime = "1h" }
    lease = "2h"
  }
  budget "side" {
    match {
      namespaces = ["side", "default"]
      identities = ["token:never", "token:side"]
    }
    per_job { default_runtime = "1h" }
  }
}
`)
}
