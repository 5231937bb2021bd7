package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/shoenig/test/must"
)

// fakeNodes are clients whose statistics the test sets.
type fakeNodes struct {
	nodes []nomadevents.Node
	stats map[string]nomadevents.Stats
}

// Nodes implements nodeReader.
func (f *fakeNodes) Nodes(context.Context) ([]nomadevents.Node, error) { return f.nodes, nil }

// NodeStats implements nodeReader. A node without statistics does not answer.
func (f *fakeNodes) NodeStats(ctx context.Context, id string) (nomadevents.Stats, error) {
	s, ok := f.stats[id]
	if !ok {
		<-ctx.Done()
		return s, ctx.Err()
	}
	return s, nil
}

// energyPolicy prices energy at one micro-unit for a joule, and bounds it by 100 W.
func energyPolicy(idle string) string {
	return fmt.Sprintf(`
governor {
  timezone = "UTC"
  currency = "USD"
  meter { idle = %q }
}
gpu_class "v100" {
  devices = ["nvidia/gpu/V100"]
  watts   = 100
}
rate_card "r" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "v100" { per_hour = 3.6 }
  energy {
    per_kwh = 3.6
    pue     = 1
  }
}
budget "acme" {
  match { namespaces = ["default"] }
  per_job { default_runtime = "1h" }
  concurrent {
    gpus = { v100 = 3 }
  }
  limit "month" {
    gpu_hours = 1000
    energy    = 1000
  }
}
`, idle)
}

// newGaugeRig has one node of four GPUs, of which a job has the first two.
func newGaugeRig(t *testing.T, idle string) (*rig, *fakeNodes, *entryBook) {
	r := newRigOn(t, newMemStore(), energyPolicy(idle))
	book := newEntryBook()
	r.recorder = book
	r.start(r.store)
	must.Eq(t, "", r.Keeper.State().Broken)
	nodes := &fakeNodes{stats: map[string]nomadevents.Stats{"n1": {}},
		nodes: []nomadevents.Node{{ID: "n1", Name: "node-1", Pool: "gpus", Ready: true,
			Devices: []nomadevents.Devices{{Name: "nvidia/gpu/V100", IDs: []string{"G0", "G1", "G2", "G3"}}}}}}
	r.Meter.readGauges(nodes)
	r.run(r.job("train", 1, 2))
	r.nomad.place("default", "train", 0, []string{"G0", "G1"})
	must.NoError(t, r.settle())
	return r, nodes, book
}

// show sets what the first two GPUs show: energy in joules and use in percent.
func (f *fakeNodes) show(uptime time.Duration, percent int64, joules ...int64) {
	s := nomadevents.Stats{Uptime: uptime}
	for i, j := range joules {
		s.Gauges = append(s.Gauges, nomadevents.Gauge{ID: fmt.Sprintf("G%d", i), EnergyMJ: 1000 * j, Counted: true, Percent: percent, Watched: true})
	}
	f.stats["n1"] = s
}

func (r *rig) joules(path string) int64 {
	return int64(r.balance(path).Posted.At(budget.Total.String(), budget.Energy))
}

// round lets some time pass, reads the clients and lets the meter work.
func (r *rig) round(d time.Duration) {
	r.clock.advance(d)
	r.Meter.gauges.round(r.ctx)
	must.NoError(r.t, r.settle())
}

func TestEnergyIsPostedAsCountersShowIt(t *testing.T) {
	t.Parallel()
	r, nodes, _ := newGaugeRig(t, "shared")
	nodes.show(time.Hour, 90, 5000, 900)
	r.Meter.gauges.round(r.ctx)
	r.round(time.Minute) // the first reading says nothing of the time before: it is bounded
	first := r.joules("acme")
	nodes.show(time.Hour+time.Minute, 90, 5000+3000, 900+1200)
	r.round(time.Minute)
	nodes.show(time.Hour+2*time.Minute, 90, 5000+3000+600, 900+1200+600)
	r.round(time.Minute)
	must.Eq(t, 3000+1200+600+600, r.joules("acme")-first)
	nodes.show(10*time.Second, 90, 40, 10) // the node was started again
	r.round(time.Minute)
	must.Eq(t, 3000+1200+600+600+40+10, r.joules("acme")-first)
	r.checkEnergyCost(t)
}

// checkEnergyCost checks that a joule costs a micro-unit, beside the GPU time.
func (r *rig) checkEnergyCost(t *testing.T) {
	b := r.balance("acme")
	must.Eq(t, b.Posted.At("total", budget.GPUTime("any")).Add(b.Posted.At("total", budget.Energy)), b.Posted.At("total", budget.Cost))
}

func TestANodeThatDoesNotAnswerCostsTheOthersNothing(t *testing.T) {
	t.Parallel()
	r, nodes, _ := newGaugeRig(t, "shared")
	nodes.nodes = append(nodes.nodes, nomadevents.Node{ID: "n2", Name: "silent"})
	nodes.show(time.Hour, 90, 5000, 900)
	var failed []string
	r.Meter.gauges.failed = func(node string, err error) {
		must.True(t, errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled))
		failed = append(failed, node)
	}
	ctx, cancel := context.WithTimeout(r.ctx, 300*time.Millisecond)
	defer cancel()
	r.Meter.gauges.round(ctx)
	must.Eq(t, []string{"silent"}, failed)
	must.MapLen(t, 2, r.Meter.readings())
	r.clock.advance(10 * time.Minute)
	must.MapEmpty(t, r.Meter.readings(), must.Sprint("old readings do not count"))
}

func TestUnusedAndUngovernedGPUsHaveLines(t *testing.T) {
	t.Parallel()
	r, nodes, book := newGaugeRig(t, "shared")
	r.nomad.register("default", "around", false)
	r.nomad.place("default", "around", 0, []string{"G3"})
	nodes.show(time.Hour, 0, 10, 10)
	stats := nodes.stats["n1"]
	stats.Gauges = append(stats.Gauges, nomadevents.Gauge{ID: "G2", Rogue: "python (pid 7, alice)"})
	nodes.stats["n1"] = stats
	r.Meter.gauges.round(r.ctx)
	for range 8 {
		r.round(time.Minute)
	}
	status, err := r.Engine.Status(r.ctx, r.Meter)
	must.NoError(t, err)
	must.Eq(t, []CapacityStatus{{Pool: "gpus", Class: "v100", GPUs: 4, Free: 1}}, status.Capacity)
	must.Eq(t, []RogueStatus{{Node: "node-1", GPU: "G2", Processes: "python (pid 7, alice)"}}, status.Rogue)
	must.Len(t, 1, status.Idle)
	must.Eq(t, "train", status.Idle[0].JobID)
	must.Eq(t, 8*time.Minute, status.Time.Sub(status.Idle[0].Since))
	must.Eq(t, map[string]time.Duration{status.Idle[0].Alloc: 8 * time.Minute}, r.Meter.idleFor(r.open()))

	sums := map[string]quantity.Amount{}
	for _, e := range book.of(ledger.IdleEntry, ledger.UnallocatedEntry, ledger.UngovernedEntry) {
		must.Eq(t, e.GPUTime, e.Cost, must.Sprint("a GPU costs a micro-unit for a millisecond"))
		must.Eq(t, "v100", e.Class)
		sums[e.Kind+" "+e.JobID+" "+e.Cause] += e.GPUTime
	}
	// Both allocations began five seconds after the first moment that counts.
	must.Eq(t, map[string]quantity.Amount{"idle train ": 2 * 355_000, "unallocated  node pool gpus": 300_000, "ungoverned around ": 355_000,
		"ungoverned  processes python (pid 7, alice)": 300_000}, sums)

	nodes.show(time.Hour, 80, 10, 10) // it is used again
	r.round(time.Minute)
	must.MapEmpty(t, r.Meter.gauges.idle(r.open(), time.Minute))
}

// What was read before an allocation began says nothing about it.
func TestAGPUThatWasIdleBeforeIsNoAccusation(t *testing.T) {
	t.Parallel()
	r, nodes, _ := newGaugeRig(t, "shared")
	nodes.show(time.Hour, 0, 10, 10, 10)
	for range 3 {
		r.Meter.gauges.round(r.ctx)
		r.clock.advance(time.Minute)
	}
	r.run(r.job("late", 1, 1))
	r.nomad.place("default", "late", 0, []string{"G2"})
	must.NoError(t, r.settle())
	late := r.holdOf("default", "late").Tracks[0].Alloc
	r.clock.advance(time.Minute)
	must.MapNotContainsKey(t, r.Meter.idleFor(r.open()), late)
	r.Meter.gauges.round(r.ctx)
	must.Eq(t, time.Minute, r.Meter.idleFor(r.open())[late])
	r.clock.advance(time.Minute)
	must.Eq(t, time.Minute, r.Meter.idleFor(r.open())[late], must.Sprint("nobody has looked since"))
}

func TestUnallocatedCapacityIsWhosePolicySays(t *testing.T) {
	t.Parallel()
	for idle, want := range map[string]map[string]quantity.Amount{
		"none":   {},
		"shared": {"": 2 * 300_000},
		"owner":  {"acme": 300_000, "": 300_000}, // three are guaranteed, two of them used
	} {
		r, nodes, book := newGaugeRig(t, idle)
		nodes.show(time.Hour, 90, 10, 10)
		r.Meter.gauges.round(r.ctx)
		for range 7 {
			r.round(time.Minute)
		}
		got := map[string]quantity.Amount{}
		for _, e := range book.of(ledger.UnallocatedEntry) {
			got[e.Budget] += e.GPUTime
		}
		must.Eq(t, want, got, must.Sprint(idle))
	}
}
