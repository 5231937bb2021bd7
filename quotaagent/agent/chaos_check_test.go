package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// read is everything in the store at one instant.
func (c *chaos) read() modelBooks {
	records, _, err := c.store.List(c.t.Context(), "")
	b := modelBooks{balances: map[string]ledger.Balance{}}
	if err != nil {
		c.t.Errorf("list the store: %v", err)
		return b
	}
	for _, r := range records {
		kind, rest, _ := strings.Cut(r.Key, "/")
		var err error
		switch kind + "/" {
		case holdPrefix:
			var h ledger.Hold
			h, err = ledger.DecodeHold(r.Value)
			b.holds = append(b.holds, h)
		case balancePrefix:
			b.balances[rest], err = ledger.DecodeBalance(r.Value)
		}
		if err != nil {
			c.t.Errorf("%s: %v", r.Key, err)
		}
	}
	return b
}

// check is what must hold at every instant: what is held is the sum of the open
// holds, a parent has what its children have, and no limit is exceeded.
func (c *chaos) check(b modelBooks) {
	c.checks.Add(1)
	want := map[string]ledger.Vector{}
	for _, h := range b.holds {
		for _, path := range ledger.Ancestors(h.Budget) {
			if _, known := want[path]; !known {
				want[path] = ledger.NewVector()
			}
			want[path].AddAll(h.Charged, 1)
		}
	}
	for path, balance := range b.balances {
		if !balance.Held.Equal(want[path]) {
			c.t.Errorf("%s holds %v, its open holds charge %v", path, balance.Held, want[path])
		}
	}
	root := b.balances["acme"]
	children := ledger.NewVector()
	for _, path := range []string{"acme/research", "acme/side"} {
		children.AddAll(b.balances[path].Posted, 1)
	}
	if off := root.Posted.Minus(children); !off.IsZero() {
		c.t.Errorf("acme has posted %v more than its children", off)
	}
	for path, most := range map[string]int64{"acme": chaosGPUs, "acme/research": chaosResearch, "acme/side": chaosSide} {
		held := b.balances[path].Held.At(ledger.ConcurrentKey, budget.GPUs(budget.AnyClass))
		if held -= leaving(b.holds, path); held > quantity.GPU.Mul(most) {
			c.t.Errorf("%s holds %d GPUs and may have %d", path, held/quantity.GPU, most)
			c.explain.Do(func() { c.differ(b) })
		}
	}
	defer func() { c.before = b }()
	month := budget.PeriodAt(budget.Month, noon, time.UTC)
	limit := quantity.Amount(time.Duration(c.hours) * time.Hour / time.Millisecond)
	if used := root.UsedIn(month, budget.GPUTime(budget.AnyClass)); used > limit {
		c.t.Errorf("acme has %d GPU-milliseconds posted and held in the month, and may have %d", used, limit)
		c.explain.Do(func() { c.differ(b) })
	}
}

// leaving are the GPUs of allocations whose successor was seen: they are held as well
// until their end is seen, which no decision can foresee.
func leaving(holds []ledger.Hold, path string) quantity.Amount {
	total := quantity.Amount(0)
	for _, h := range holds {
		if !slices.Contains(ledger.Ancestors(h.Budget), path) {
			continue
		}
		for _, t := range h.Live() {
			if t.NextMS != 0 {
				for _, g := range t.GPUs {
					total += quantity.GPU.Mul(int64(len(g.IDs)))
				}
			}
		}
	}
	return total
}

// differ logs how the books have become what they are since the check before.
func (c *chaos) differ(b modelBooks) {
	text := func(b modelBooks) map[string]string {
		out := map[string]string{"acme": fmt.Sprintf("%v", b.balances["acme"])}
		for _, h := range b.holds {
			raw, err := ledger.EncodeHold(h)
			must.NoError(c.t, err)
			out[h.Namespace+"/"+h.JobID] = string(raw)
		}
		return out
	}
	was, is := text(c.before), text(b)
	for _, key := range sortedKeys(was) {
		if is[key] != was[key] {
			c.t.Logf("%s was %s", key, was[key])
		}
	}
	for _, key := range sortedKeys(is) {
		if is[key] != was[key] {
			c.t.Logf("%s is %s", key, is[key])
		}
	}
	c.t.Logf("now %d", c.clock.now().UnixMilli())
}

// finish lets everything end and compares the books with what happened.
func (c *chaos) finish() {
	c.nomad.end(1)
	c.awaitLeader()
	c.clock.skip(chaosSkip)
	for _, a := range c.agents {
		must.NoError(c.t, post(c.t.Context(), a.client, "/skip", nil, nil))
	}
	var b modelBooks
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		b = c.read()
		c.check(b)
		if len(b.holds) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, h := range b.holds {
		c.t.Errorf("a hold is left: %+v", h)
	}
	for path, balance := range b.balances {
		must.Eq(c.t, 0, balance.Held.Len(), must.Sprint(path))
	}
	c.replay(b)
	n := c.nomad
	c.t.Logf("%d registered, %d refused and %d with their answer lost; %d accepted, %d denied, %d undecided, %d without an answer; %d checks",
		n.registered, n.refused, n.lost, c.answered.Load(), c.denied.Load(), c.failed.Load(), c.transport.Load(), c.checks.Load())
	c.t.Logf("%d kills, %d stops of which %d deposed a leader; nobody led for %v at most; at most %v GPUs ran at once",
		c.kills, c.pauses, c.deposed, c.longest.Round(100*time.Millisecond), n.most)
	must.SliceEmpty(c.t, n.problems)
	must.Positive(c.t, n.registered)
	must.Positive(c.t, int(c.denied.Load()), must.Sprint("the limits never bound"))
	must.LessEq(c.t, chaosGPUs, n.most[""])
	must.LessEq(c.t, chaosResearch, n.most["default"])
	must.LessEq(c.t, chaosSide, n.most["side"])
}

// compare checks the entries of each allocation against what it took.
func (c *chaos) compare() {
	posted := map[string]int64{}
	for _, e := range c.nomad.entries {
		posted[e.Alloc] += int64(e.GPUTime)
	}
	for id, a := range c.nomad.fakeNomad.allocs {
		if took := int64(len(a.IDs())) * (a.Ended.UnixMilli() - a.Created.UnixMilli()); a.Terminal && posted[id] != took {
			c.t.Logf("%s took %d: %+v", id, took, *a)
			for _, key := range sortedKeys(c.nomad.entries) {
				if e := c.nomad.entries[key]; e.Alloc == id {
					c.t.Logf("  %s: %+v", key, e)
				}
			}
		}
	}
}

// replay compares what is posted with the recorded entries and with the facts.
func (c *chaos) replay(b modelBooks) {
	c.nomad.mu.Lock()
	defer c.nomad.mu.Unlock()
	replayed := map[string]ledger.Vector{"acme": ledger.NewVector(), "acme/research": ledger.NewVector(), "acme/side": ledger.NewVector()}
	for _, e := range c.nomad.entries {
		for _, path := range ledger.Ancestors(e.Budget) {
			if _, known := replayed[path]; known {
				replayed[path].AddAll(e.PostedVector(time.UTC, modelWindows), 1)
			}
		}
	}
	c.compare()
	used := int64(0)
	for _, ms := range c.nomad.used {
		used += ms
	}
	must.Eq(c.t, used, int64(b.balances["acme"].Posted.At(budget.Total.String(), budget.GPUTime(budget.AnyClass))), must.Sprint("the facts"))
	for path, v := range replayed {
		for have := range b.balances[path].Posted.All() {
			must.Eq(c.t, v.At(have.Period, have.Dimension), have.Amount, must.Sprintf("%s of %s in %s", have.Dimension, path, have.Period))
		}
	}
}
