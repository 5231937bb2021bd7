package agent

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/internal/consultest"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/shoenig/test/must"
)

// The tree of the crowd: teams below the root, and projects below each.
const (
	crowdTeams    = 20
	crowdProjects = 10
)

func crowdPath(i int) string {
	i %= crowdTeams * crowdProjects
	return fmt.Sprintf("acme/team-%02d/project-%d", i/crowdProjects, i%crowdProjects)
}

func crowdPolicy() string {
	var text strings.Builder
	text.WriteString(`
governor {
  timezone = "Europe/Berlin"
  currency = "USD"
}
gpu_class "v100" {
  devices = ["nvidia/gpu/V100"]
}
rate_card "r" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "v100" { per_hour = 3.6 }
}
budget "acme" {
  limit "month" {
    gpu_hours = 100000000
    cost      = 1000000000
  }
`)
	for team := range crowdTeams {
		fmt.Fprintf(&text, "  budget \"team-%02d\" {\n    limit \"week\" { gpu_hours = 10000000 }\n", team)
		for project := range crowdProjects {
			fmt.Fprintf(&text, "    budget \"project-%d\" {\n      match { namespaces = [\"n-%d-%d\"] }\n      limit \"day\" { cost = 10000000 }\n    }\n", project, team, project)
		}
		text.WriteString("  }\n")
	}
	text.WriteString("}\n")
	return text.String()
}

// newCrowd is an agent with n running allocations of two GPUs, each of a batch
// job of its own that is held for some time, spread over 200 budgets.
func newCrowd(t testing.TB, store Store, n int, runtime time.Duration) *rig {
	r := newRigOn(t, store, crowdPolicy())
	c, p := r.clock, r.Keeper.State().Policy
	line := ledger.Line{Group: "g", Count: 1, RuntimeMS: runtime.Milliseconds(), OnceMS: runtime.Milliseconds(), Starts: 1,
		Needs: []ledger.Need{{Classes: []string{"v100"}, GPUs: 2, PerGPUHour: 3_600_000}}}
	targets, holds := make([]target, n), make([]ledger.Hold, n)
	for i := range n {
		id := fmt.Sprintf("job-%05d", i)
		h := ledger.Hold{ID: "h-" + id, Namespace: "default", JobID: id, Budget: crowdPath(i), State: ledger.Held, CreatedMS: c.now().UnixMilli(),
			Accessor: "3f1c8a52-0000-4b77-9d3e-b1f0f4c1a001", Identity: []string{"token:research", "role:ml-engineers"}}
		h = ledger.Confirm(ledger.Submit(h, []ledger.Line{line}, 0), r.nomad.register("default", id, false))
		a := r.nomad.allocs[r.nomad.start("default", id, 0, 2)]
		h, _ = ledger.Observe(h, r.Meter.observation(p, *a), c.now().UnixMilli())
		targets[i], holds[i] = target{key: holdKey("default", id), budget: h.Budget, calendar: ledger.CalendarOf(p)}, h
	}
	for _, err := range r.Engine.books.updateAll(r.ctx, ledger.Fence{}, targets, func(i int, _ view) (change, error) {
		return change{hold: &holds[i]}, nil
	}) {
		must.NoError(t, err)
	}
	return r
}

// beat lets a second pass and does what the meter does then.
func (r *rig) beat() error {
	r.clock.advance(tickEvery)
	if !r.clock.now().Before(r.Meter.nextSnapshot) {
		r.Meter.nextSnapshot = r.clock.now().Add(reconcileEvery)
		if err := r.Meter.reconcile(r.ctx, ledger.Fence{}); err != nil {
			return err
		}
	}
	return r.Meter.tick(r.ctx, ledger.Fence{})
}

// transactionsMost is how many transactions a tick may cost.
const transactionsMost = 20

func TestATickOfTenThousandAllocationsIsAFewTransactions(t *testing.T) {
	if testing.Short() {
		t.Skip("ten thousand allocations take seconds")
	}
	t.Parallel()
	store := newMemStore()
	r := newCrowd(t, store, 10_000, 2*time.Hour)
	beat := func() int {
		before := store.transactions()
		must.NoError(t, r.beat())
		return store.transactions() - before
	}
	for range 10 { // the work of a new leader
		must.LessEq(t, transactionsMost, beat())
	}
	r.clock.advance(time.Minute)
	must.LessEq(t, transactionsMost, beat())
	for range 10 { // everything is due, and there are enough turns for five minutes
		store.written = map[string]bool{}
		must.LessEq(t, 3, beat())
		holds := 0
		for key := range store.written {
			if strings.HasPrefix(key, holdPrefix) {
				holds++
			}
		}
		must.GreaterEq(t, 10_000/int(postWithin/tickEvery), holds)
	}
	r.clock.advance(3 * time.Hour) // everything is due, and runs longer than it may
	for range 10 {
		must.LessEq(t, transactionsMost, beat())
	}
	balance, sum := r.balance("acme"), quantity.Amount(0)
	for _, h := range r.open() {
		sum += h.Posted.Total()
	}
	must.Eq(t, sum, balance.Posted.At(budget.Total.String(), budget.GPUTime(budget.AnyClass)))
}

// Everybody has a turn before somebody has a second one.
func TestRunningWorkIsPostedInTurn(t *testing.T) {
	t.Parallel()
	r := newCrowd(t, newMemStore(), 5*postShare, time.Hour)
	must.NoError(t, r.beat())
	r.clock.advance(time.Minute)
	for range 5 {
		must.NoError(t, r.beat())
	}
	for _, h := range r.open() {
		must.Eq(t, r.Meter.proven.UnixMilli(), h.Tracks[0].MarkMS)
	}
}

// Seven hundred allocations end in the same second.
func TestEndsOfManyAllocationsArePostedTogether(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	r := newCrowd(t, store, 700, time.Hour)
	must.NoError(t, r.beat())
	r.clock.advance(time.Minute)
	for _, id := range r.allocIDs() {
		r.nomad.finish(id)
		a := *r.nomad.allocs[id]
		r.Meter.tell(fact{alloc: &a})
	}
	for len(r.Meter.facts) > 0 {
		before := store.transactions()
		must.NoError(t, r.Meter.handle(r.ctx, ledger.Fence{}, r.Meter.drain(<-r.Meter.facts)))
		must.LessEq(t, 2*transactionsMost, store.transactions()-before)
	}
	must.SliceEmpty(t, r.open())
	must.Eq(t, r.facts(), r.posted("acme"))
}

func TestALeaseIsRenewedBeforeWorkIsPostedInTurn(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	r := newCrowd(t, store, 300, time.Hour)
	m := r.Meter
	must.NoError(t, m.refresh(r.ctx, true))
	must.NoError(t, r.beat())
	service := *m.open[250].Hold
	service.Lines = []ledger.Line{{Group: "g", Count: 1, Lease: true, RuntimeMS: time.Hour.Milliseconds(), Needs: service.Lines[0].Needs}}
	m.open[250].Hold = &service
	over := m.open[280].Clone()
	over.Lines = []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 1000, OnceMS: 1000, Starts: 1, Needs: service.Lines[0].Needs}}
	m.open[280].Hold = &over
	r.clock.advance(time.Minute)
	m.proven = proof(r.clock.now())
	m.tried = map[string]int64{}
	_, write := m.agenda()
	must.Len(t, 2+postShare, write)
	must.Eq(t, service.JobID, write[0].JobID)
	must.Eq(t, over.JobID, write[1].JobID)
	m.tried[write[2].JobKey()] = m.proven.UnixMilli()
	_, again := m.agenda()
	must.Eq(t, write[3].JobID, again[2].JobID, must.Sprint("who had a turn waits for the next proof"))
}

func TestWhatThisProcessWritesNeedNotBeListed(t *testing.T) {
	t.Parallel()
	store := newMemStore()
	r := newCrowd(t, store, 50, time.Hour)
	must.NoError(t, r.beat())
	m := r.Meter
	m.holdsChanged.Store(false)
	lists := store.lists
	id := r.allocIDs()[7]
	r.clock.advance(time.Minute)
	r.nomad.finish(id)
	must.NoError(t, m.observe(r.ctx, ledger.Fence{}, []nomadevents.Allocation{*r.nomad.allocs[id]}))
	must.NoError(t, m.settleJob(r.ctx, ledger.Fence{}, "default", r.nomad.allocs[id].JobID))
	must.NoError(t, m.refresh(r.ctx, false))
	must.Eq(t, lists, store.lists)
	must.Eq(t, len(r.open()), len(m.open))
	for i, h := range r.open() {
		must.Eq(t, h.version, m.open[i].version)
		must.Eq(t, h.JobKey(), m.open[i].JobKey())
	}
	m.lists = pace{took: time.Minute, last: time.Now()}
	m.holdsChanged.Store(true)
	must.NoError(t, m.refresh(r.ctx, false))
	must.True(t, m.holdsChanged.Load(), must.Sprint("a dear list waits"))
	must.NoError(t, m.refresh(r.ctx, true))
	must.False(t, m.holdsChanged.Load())
}

// BenchmarkTick10000 is one second of the meter with ten thousand running
// allocations, snapshots included: once with a store in memory, and once with a
// Consul server.
func BenchmarkTick10000(b *testing.B) {
	b.Run("memory", func(b *testing.B) { benchmarkTick(b, newMemStore()) })
	b.Run("consul", func(b *testing.B) {
		server := consultest.Start(b)
		store, err := consulkv.New(consulkv.Config{Address: server.Addr}, hclog.NewNullLogger())
		must.NoError(b, err)
		b.Cleanup(func() { must.NoError(b, store.Close()) })
		benchmarkTick(b, &counting{Store: store})
	})
}

func benchmarkTick(b *testing.B, store Store) {
	r := newCrowd(b, store, 10_000, 24*time.Hour)
	for range 40 { // the first postings, and the work of a new leader
		must.NoError(b, r.beat())
	}
	count := func() int { return 0 }
	switch s := store.(type) {
	case *memStore:
		count = s.transactions
	case *counting:
		count = func() int { return int(s.n.Load()) }
	}
	worst, most, before, cpu := time.Duration(0), 0, count(), cpuTime()
	for b.Loop() {
		begin, n := time.Now(), count()
		must.NoError(b, r.beat())
		worst, most = max(worst, time.Since(begin)), max(most, count()-n)
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/tick")
	b.ReportMetric(float64((cpuTime()-cpu).Milliseconds())/float64(b.N), "cpu-ms/tick")
	b.ReportMetric(float64(worst.Milliseconds()), "worst-ms/tick")
	b.ReportMetric(float64(count()-before)/float64(b.N), "transactions/tick")
	b.ReportMetric(float64(most), "most-transactions/tick")
}

// cpuTime is what this process has used of the processors, which tells more than
// the time on a machine that does other work.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
