package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// entryBook is a recorder that keeps every entry once, by its key.
type entryBook struct {
	mu      sync.Mutex
	entries map[string]ledger.Entry
}

func newEntryBook() *entryBook { return &entryBook{entries: map[string]ledger.Entry{}} }

// Record implements Recorder. The same key with other amounts is a fault.
func (h *entryBook) Record(_ context.Context, entries []ledger.Entry) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range entries {
		have, known := h.entries[e.Key]
		if known && (have.GPUTime != e.GPUTime || have.FromMS != e.FromMS || have.ToMS != e.ToMS || have.Cost != e.Cost) {
			return fmt.Errorf("entry %s was recorded as %+v, and now is %+v", e.Key, have, e)
		}
		h.entries[e.Key] = e
	}
	return nil
}

// of are the entries of these kinds, in the order of their begin.
func (h *entryBook) of(kinds ...string) []ledger.Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []ledger.Entry
	for _, e := range h.entries {
		if slices.Contains(kinds, e.Kind) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b ledger.Entry) int {
		return cmp.Or(cmp.Compare(a.FromMS, b.FromMS), strings.Compare(a.Key, b.Key))
	})
	return out
}

// perGPU is how often each millisecond of each GPU is in the entries: for every
// GPU the instants at which the count changes, and the count from then on.
func (h *entryBook) perGPU(t must.T) map[string]map[int64]int {
	steps := map[string]map[int64]int{}
	for _, e := range h.of(ledger.UsageEntry, ledger.CorrectionEntry) {
		if e.GPUTime == 0 {
			continue
		}
		sign := 1
		if e.GPUTime < 0 {
			sign = -1
		}
		must.Eq(t, int64(sign*len(e.GPUs))*(e.ToMS-e.FromMS), int64(e.GPUTime), must.Sprint(e.Key))
		for _, id := range e.GPUs {
			if steps[id] == nil {
				steps[id] = map[int64]int{}
			}
			steps[id][e.FromMS] += sign
			steps[id][e.ToMS] -= sign
		}
	}
	return steps
}

// checkSingle is I4: no millisecond of a GPU is in two entries, or taken back
// without having been posted. It returns how long each GPU was posted.
func (h *entryBook) checkSingle(t interface {
	must.T
	Logf(format string, args ...any)
}) map[string]int64 {
	used := map[string]int64{}
	for id, steps := range h.perGPU(t) {
		var at []int64
		for ms := range steps {
			at = append(at, ms)
		}
		slices.Sort(at)
		count, since := 0, int64(0)
		for _, ms := range at {
			if count == 1 {
				used[id] += ms - since
			}
			count, since = count+steps[ms], ms
			if count < 0 || count > 1 {
				for _, e := range h.of(ledger.UsageEntry, ledger.CorrectionEntry) {
					if slices.Contains(e.GPUs, id) {
						t.Logf("%s %s %d-%d %s", e.Key, e.Kind, e.FromMS, e.ToMS, e.Cause)
					}
				}
				t.Fatalf("from %d on GPU %s is in %d entries", ms, id, count)
			}
		}
		must.Eq(t, 0, count)
	}
	return used
}

// tenancy is a GPU that an allocation has, as it really was.
type tenancy struct {
	alloc   string
	from    int64
	to      int64 // 0: still
	counted bool  // false once Nomad forgot what was not posted
}

// world is a Nomad in which everything happens that moves GPUs from one
// allocation to another, and an agent that learns of it late or not at all.
type world struct {
	*rig
	rt      *rapid.T
	history *entryBook
	gpus    map[string][]*tenancy
	// news are the events that the agent was not told yet.
	news []nomadevents.Allocation
	jobs int
}

func newWorld(t *testing.T, rt *rapid.T) *world {
	w := &world{rig: newRigOn(t, newMemStore(), testPolicy(1000, "100000")), rt: rt, history: newEntryBook(), gpus: map[string][]*tenancy{}}
	w.t, w.recorder = rt, w.history
	for i := range 5 {
		w.gpus[fmt.Sprintf("GPU-%d", i)] = nil
	}
	w.start(w.store)
	return w
}

// running are the allocations that have GPUs, sorted.
func (w *world) running(unstopped bool) []string {
	var ids []string
	for _, id := range w.allocIDs() {
		a := w.nomad.allocs[id]
		gave := false
		for _, gpu := range a.IDs() {
			gave = gave || w.last(gpu).alloc != id
		}
		if !a.Terminal && (!unstopped || !gave) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (w *world) last(gpu string) *tenancy {
	all := w.gpus[gpu]
	if len(all) == 0 {
		return &tenancy{to: 1}
	}
	return all[len(all)-1]
}

func (w *world) free() []string {
	var ids []string
	for id := range w.gpus {
		if w.last(id).to != 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// place starts an allocation of a job on GPUs, whoever has them.
func (w *world) place(jobID string, slot int, gpus []string) {
	now := w.clock.now().UnixMilli()
	id := w.nomad.place("default", jobID, slot, gpus)
	for _, gpu := range gpus {
		if last := w.last(gpu); last.to == 0 {
			last.to = now
		}
		w.gpus[gpu] = append(w.gpus[gpu], &tenancy{alloc: id, from: now, counted: true})
	}
	w.tell(id)
}

func (w *world) tell(id string) { w.news = append(w.news, *w.nomad.allocs[id]) }

// leave ends the tenancies of an allocation.
func (w *world) leave(id string) {
	for _, all := range w.gpus {
		for _, one := range all {
			if one.alloc == id && one.to == 0 {
				one.to = w.clock.now().UnixMilli()
			}
		}
	}
}

// submit runs a new job on these GPUs.
func (w *world) submit(gpus []string) {
	w.jobs++
	id := fmt.Sprintf("job-%d", w.jobs)
	if w.run(w.job(id, 1, len(gpus))).Denied {
		return
	}
	w.place(id, 0, gpus)
}

func (w *world) pick(ids []string, what string) string {
	return rapid.SampledFrom(ids).Draw(w.rt, what)
}

// some are one or two of the ids.
func (w *world) some(ids []string) []string {
	n := rapid.IntRange(1, min(2, len(ids))).Draw(w.rt, "gpus")
	return rapid.Permutation(ids).Draw(w.rt, "which")[:n]
}

// step is one thing that happens; nothing when it cannot.
func (w *world) step(what string) {
	running, free := w.running(false), w.free()
	switch what {
	case "run":
		if len(free) > 0 {
			w.submit(w.some(free))
		}
		return
	case "preempt":
		if victims := w.running(true); len(victims) > 0 {
			gpus := w.nomad.allocs[w.pick(victims, "victim")].IDs()
			w.submit(w.some(gpus))
		}
		return
	case "again": // the same job is registered once more, changed, after a purge or not
		if len(free) > 0 && w.jobs > 0 {
			id := fmt.Sprintf("job-%d", rapid.IntRange(1, w.jobs).Draw(w.rt, "job"))
			gpus := w.some(free)
			if !w.run(w.job(id, 1, len(gpus))).Denied {
				w.place(id, 0, gpus)
			}
		}
		return
	case "collect":
		w.forget(func(a *nomadevents.Allocation) bool { return a.Terminal })
		w.nomad.collect()
		return
	}
	if len(running) > 0 {
		w.happen(what, w.pick(running, "alloc"), free)
	}
}

// happen is something that happens to one allocation.
func (w *world) happen(what, id string, free []string) {
	a := w.nomad.allocs[id]
	switch what {
	case "end":
		w.leave(id)
		w.nomad.finish(id)
		w.tell(id)
	case "lose and replace":
		w.leave(id)
		w.nomad.lose(id)
		w.tell(id)
		if len(free) >= len(a.IDs()) {
			w.place(a.JobID, 0, free[:len(a.IDs())])
		}
	case "disconnect and replace": // both run
		w.nomad.change(id, func(a *nomadevents.Allocation) { a.Unknown = true })
		w.tell(id)
		if len(free) >= len(a.IDs()) {
			w.place(a.JobID, 0, free[:len(a.IDs())])
		}
	case "reconnect":
		w.nomad.change(id, func(a *nomadevents.Allocation) { a.Unknown = false })
		w.tell(id)
	case "purge":
		w.forget(func(other *nomadevents.Allocation) bool { return other.JobID == a.JobID })
		for _, other := range w.running(false) {
			if w.nomad.allocs[other].JobID == a.JobID {
				w.leave(other)
			}
		}
		w.nomad.purge("default", a.JobID)
		w.Meter.Touch("default", a.JobID)
	}
}

// forget notes whose time cannot be counted on any more: Nomad forgets it, and the
// ledger may not have all of it.
func (w *world) forget(which func(a *nomadevents.Allocation) bool) {
	for _, all := range w.gpus {
		for _, one := range all {
			if a := w.nomad.allocs[one.alloc]; a != nil && which(a) {
				one.counted = false
			}
		}
	}
}

// hear tells the agent n of the news, in their order.
func (w *world) hear(n int) {
	n = min(n, len(w.news))
	for i := range n {
		w.Meter.tell(fact{alloc: &w.news[i]})
	}
	w.news = w.news[n:]
}

// work is what the meter's loop does with what waits for it.
func (w *world) work() {
	for range 20 {
		switch {
		case len(w.Meter.rebuild) > 0:
			<-w.Meter.rebuild
			must.NoError(w.rt, w.Meter.reconcile(w.ctx, ledger.Fence{}))
		case len(w.Meter.facts) > 0:
			must.NoError(w.rt, w.Meter.handle(w.ctx, ledger.Fence{}, w.Meter.drain(<-w.Meter.facts)))
		default:
			return
		}
	}
}

// agent is something that the agent does, or that happens to it.
func (w *world) agent(what string) {
	switch what {
	case "hear":
		w.hear(rapid.IntRange(1, 4).Draw(w.rt, "news"))
		w.work()
	case "miss": // the stream was broken
		w.news = nil
		w.Meter.missed.Store(true)
		w.Meter.Rebuild()
	case "snapshot":
		w.Meter.Rebuild()
		w.work()
	case "tick":
		must.NoError(w.rt, w.Meter.tick(w.ctx, ledger.Fence{}))
		w.work()
	case "restart":
		w.news = nil
		w.start(w.store)
	}
}

// settleAll lets everything be seen and posted.
func (w *world) settleAll() {
	for _, id := range w.running(false) {
		w.leave(id)
		w.nomad.finish(id)
	}
	for _, h := range w.open() {
		w.nomad.kill(h.Namespace, h.JobID)
	}
	for range 4 {
		w.clock.advance(confirmWithin)
		must.NoError(w.rt, w.settle())
		w.work()
	}
}

// TestInvariantI4_NoMillisecondOfAGPUIsInTwoEntries is I4 with everything that moves GPUs:
// allocations that are lost, disconnected and replaced, preempted, restarted,
// rescheduled, collected, purged and registered again; and with an agent that
// misses events, hears them late, and dies.
func TestInvariantI4_NoMillisecondOfAGPUIsInTwoEntries(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, rt)
		nomad := []string{"run", "run", "preempt", "preempt", "again", "end", "lose and replace", "disconnect and replace", "reconnect", "purge", "collect"}
		agent := []string{"hear", "hear", "hear", "miss", "snapshot", "tick", "restart"}
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			switch {
			case rapid.Bool().Draw(rt, "nomad"):
				w.step(rapid.SampledFrom(nomad).Draw(rt, "event"))
			default:
				w.agent(rapid.SampledFrom(agent).Draw(rt, "agent"))
			}
			w.clock.advance(time.Duration(rapid.SampledFrom([]int64{0, 1, 700, 20_000, 100_000}).Draw(rt, "ms")) * time.Millisecond)
			w.history.checkSingle(rt)
		}
		w.settleAll()
		must.SliceEmpty(rt, w.open())
		used := w.history.checkSingle(rt)
		for gpu, all := range w.gpus {
			want, exact := int64(0), true
			for _, one := range all {
				want += one.to - one.from
				exact = exact && one.counted
			}
			if exact && want != used[gpu] {
				for _, one := range all {
					rt.Logf("%s had %s %d-%d", one.alloc, gpu, one.from, one.to)
				}
				for _, e := range w.history.of(ledger.UsageEntry, ledger.CorrectionEntry) {
					rt.Logf("%s %s %v %d-%d %s", e.Key, e.Kind, e.GPUs, e.FromMS, e.ToMS, e.Cause)
				}
			}
			if exact {
				must.Eq(rt, want, used[gpu], must.Sprintf("all of %s", gpu))
			}
		}
		w.checkBooks()
	})
}
