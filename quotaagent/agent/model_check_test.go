package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// modelAccount is what the reference makes of the history.
type modelAccount struct {
	// entries by key, with whether a recorder has them: else they are in an outbox.
	entries map[string]ledger.Entry
	// posted by budget path, replayed from the entries of the budget and all below.
	posted map[string]ledger.Vector
	// used is the GPU time by allocation, cost by allocation and card.
	used map[string]quantity.Amount
	cost map[string]quantity.Amount
	// byHold is the GPU time by hold.
	byHold map[string]quantity.Amount
	// recorded are the keys that a recorder was told.
	recorded map[string]bool
	// covered are the stretches of time of each GPU that entries account for.
	covered map[string][]modelStretch
	// closed are the holds whose remains were seen.
	closed map[string]bool
	// closing says that the day ends: nothing goes wrong any more.
	closing bool
}

// modelStretch is [from, to) of an allocation on one GPU, once more or once less.
type modelStretch struct {
	from, to int64
	sign     int
	alloc    string
}

func newModelAccount() modelAccount {
	return modelAccount{entries: map[string]ledger.Entry{}, posted: map[string]ledger.Vector{}, used: map[string]quantity.Amount{},
		cost: map[string]quantity.Amount{}, byHold: map[string]quantity.Amount{}, recorded: map[string]bool{},
		covered: map[string][]modelStretch{}, closed: map[string]bool{}}
}

// modelWindows are all that the ledger posts to.
var modelWindows = []budget.Window{budget.Hour, budget.Day, budget.Week, budget.Month, budget.Quarter, budget.Year, budget.Total}

// of lists the entries of a hold, for messages.
func (a *modelAccount) of(hold string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(a.entries)) {
		if e := a.entries[key]; e.HoldID == hold {
			fmt.Fprintf(&b, "\n  %s %s %s [%d, %d) %d, recorded %v", e.Kind, e.Key, e.Budget, e.FromMS, e.ToMS, e.GPUTime, a.recorded[key])
		}
	}
	return b.String()
}

// enter takes one entry of the history in; the same one again must be the same.
func (m *model) enter(e ledger.Entry, recorded bool) {
	a := &m.account
	if recorded {
		a.recorded[e.Key] = true
	}
	if !ledger.PostedKind(e.Kind) {
		return
	}
	if old, known := a.entries[e.Key]; known {
		m.require(old.GPUTime == e.GPUTime && old.Cost == e.Cost && old.FromMS == e.FromMS && old.ToMS == e.ToMS && old.Budget == e.Budget &&
			old.HoldID == e.HoldID, "entry %s came twice, and differs: %+v and %+v", e.Key, old, e)
		return
	}
	a.entries[e.Key] = e
	for _, path := range ledger.Ancestors(e.Budget) {
		if _, known := a.posted[path]; !known {
			a.posted[path] = ledger.NewVector()
		}
		a.posted[path].AddAll(e.PostedVector(m.loc, modelWindows), 1)
	}
	a.used[e.Alloc] += e.GPUTime
	a.cost[e.Alloc+" "+e.RateCard] += e.Cost
	a.byHold[e.HoldID] += e.GPUTime
	sign := 1
	if e.GPUTime < 0 {
		sign = -1
	}
	for _, gpu := range e.GPUs {
		a.covered[gpu] = append(a.covered[gpu], modelStretch{e.FromMS, e.ToMS, sign, e.Alloc})
	}
	if e.Alloc != "" {
		m.checkPrice(e)
	}
}

// checkPrice is I6: the price is that of the card in force when the entry begins.
func (m *model) checkPrice(e ledger.Entry) {
	i := m.policy.cardAt(time.UnixMilli(e.FromMS))
	m.require(e.RateCard == modelCardName(i), "I6: entry %s from %v has the prices of %s, in force was %s", e.Key, time.UnixMilli(e.FromMS), e.RateCard, modelCardName(i))
	want := quantity.Cost(max(e.GPUTime, -e.GPUTime), quantity.Amount(m.policy.cards[i].perHour(e.Class)))
	if e.GPUTime < 0 {
		want = -want
	}
	off := e.Cost.Sub(want)
	m.require(-1 <= off && off <= 1, "I6: entry %s costs %d, %d GPU-milliseconds of %s cost %d", e.Key, e.Cost, e.GPUTime, e.Class, want)
}

// dump is everything in the store.
func (m *model) dump() []ledger.Record {
	records, _, err := m.raw.List(m.ctx, "")
	m.require(err == nil, "list the store: %v", err)
	return records
}

// modelBooks are the documents of the store, decoded.
type modelBooks struct {
	holds []ledger.Hold
	// requests are the holds of requests for tokens, also of those that ended.
	requests []ledger.Hold
	balances map[string]ledger.Balance
	remains  []ledger.Remains
}

func (m *model) books() modelBooks {
	b := modelBooks{balances: map[string]ledger.Balance{}}
	for _, r := range m.dump() {
		kind, rest, _ := strings.Cut(r.Key, "/")
		var err error
		switch kind + "/" {
		case holdPrefix:
			var h ledger.Hold
			h, err = ledger.DecodeHold(r.Value)
			b.holds = append(b.holds, h)
		case tokensPrefix:
			var h ledger.Hold
			h, err = ledger.DecodeHold(r.Value)
			b.requests = append(b.requests, h)
		case balancePrefix:
			b.balances[rest], err = ledger.DecodeBalance(r.Value)
		case settledPrefix:
			var gone ledger.Remains
			gone, err = ledger.Decode[ledger.Remains](r.Value)
			b.remains = append(b.remains, gone)
		}
		m.require(err == nil, "%s: %v", r.Key, err)
	}
	return b
}

// check looks at everything that must hold after every step.
func (m *model) check() {
	b := m.books()
	for _, h := range slices.Concat(b.holds, b.requests) {
		for _, e := range h.Entries() {
			m.enter(e, false)
		}
	}
	for _, r := range b.remains {
		for _, e := range r.Hold.Entries() {
			m.enter(e, false)
		}
		m.checkClosed(r)
	}
	m.checkHeld(b)
	m.checkPosted(b)
	m.checkPromises(b)
	if m.steps%50 == 0 {
		m.checkTimelines()
		if m.strict {
			m.checkSpent()
		}
	}
}

// checkHeld is I3: what a budget holds is the sum of what open holds charge.
func (m *model) checkHeld(b modelBooks) {
	want := map[string]ledger.Vector{}
	for _, h := range slices.Concat(b.holds, b.requests) {
		for _, path := range ledger.Ancestors(h.Budget) {
			if _, known := want[path]; !known {
				want[path] = ledger.NewVector()
			}
			want[path].AddAll(h.Charged, 1)
		}
	}
	for path, balance := range b.balances {
		m.require(balance.Held.Equal(want[path]), "I3: %s holds %v, its open holds charge %v", path, balance.Held, want[path])
	}
	for path := range want {
		_, there := b.balances[path]
		m.require(there || want[path].IsZero(), "I3: %s has holds and no balance", path)
	}
}

// checkPosted is I5 and I2: replaying the entries gives the balances, of which a
// parent's are the sum of its children's and its own. What is past may be pruned.
func (m *model) checkPosted(b modelBooks) {
	for path, balance := range b.balances {
		replayed := m.account.posted[path]
		for c := range balance.Posted.All() {
			entries := replayed.At(c.Period, c.Dimension)
			m.require(c.Amount == entries, "I5: %s has %d of %s posted in %s, its entries say %d", path, c.Amount, c.Dimension, c.Period, entries)
		}
		for _, w := range modelWindows {
			period := budget.PeriodAt(w, m.world.at, m.loc).Key()
			for _, c := range replayed.Row(period) {
				d, want := c.Dimension, c.Amount
				have := balance.Posted.At(period, d)
				m.require(have == want, "I5: entries of %s say %d of %s in %s, posted is %d", path, want, d, period, have)
			}
		}
	}
	for _, parent := range modelPaths {
		children, parental := quantity.Amount(0), false
		for _, child := range modelPaths {
			if strings.HasPrefix(child, parent+"/") && !strings.Contains(child[len(parent)+1:], "/") {
				parental = true
				children += b.balances[child].Posted.At(budget.Total.String(), budget.Cost)
			}
		}
		have := b.balances[parent].Posted.At(budget.Total.String(), budget.Cost)
		m.require(!parental || have == children, "I2: %s has spent %d, its children %d", parent, have, children)
	}
}

// checkPromises compares the books with what really runs: it is held, and what
// was used or is held is never less than what was really used. In a strict day it
// also never exceeds a limit.
func (m *model) checkPromises(b modelBooks) {
	running, used := map[string]quantity.Amount{}, map[string]quantity.Amount{}
	for _, a := range m.world.all {
		until := a.Ended
		if !a.Terminal {
			until = m.world.at
		}
		for _, path := range ledger.Ancestors(modelLeaf(a.Namespace)) {
			if !a.Terminal {
				running[path] += quantity.GPU.Mul(int64(len(a.gpus)))
			}
			if !a.unseen && m.strict {
				used[path] += quantity.Amount(until.Sub(a.Created).Milliseconds()).Mul(int64(len(a.gpus)))
			}
		}
	}
	for path, gpus := range running {
		held := b.balances[path].Held.At(ledger.ConcurrentKey, budget.GPUs(budget.AnyClass))
		m.require(held >= gpus, "%s holds %d GPUs and runs %d", path, held/quantity.GPU, gpus/quantity.GPU)
	}
	if !m.strict {
		return
	}
	for path, ms := range used {
		balance := b.balances[path]
		period := budget.Period{Window: budget.Total}
		if m.limitsTotal() {
			have := balance.UsedIn(period, budget.GPUTime(budget.AnyClass))
			m.require(have >= ms, "%s has %d GPU-milliseconds posted and held, %d were used", path, have, ms)
		}
	}
	m.checkRunning()
}

// checkRunning: in a strict day no more GPUs run than a budget may have.
func (m *model) checkRunning() {
	running := map[string]map[budget.Dimension]quantity.Amount{}
	for _, a := range m.world.live() {
		for _, path := range ledger.Ancestors(modelLeaf(a.Namespace)) {
			if running[path] == nil {
				running[path] = map[budget.Dimension]quantity.Amount{}
			}
			running[path][budget.GPUs(a.class)] += quantity.GPU.Mul(int64(len(a.gpus)))
			running[path][budget.GPUs(budget.AnyClass)] += quantity.GPU.Mul(int64(len(a.gpus)))
		}
	}
	for path, limits := range m.policy.limits {
		for key, most := range limits {
			if key.window == budget.Concurrent {
				m.require(running[path][key.dim] <= most, "overspent: %s runs %v, and may run %d of %s", path, running[path], most, key.dim)
			}
		}
	}
}

// checkSpent: in a strict day nothing was used beyond a limit, in any period, by
// the facts alone. What it cost is rounded, once for each allocation and period.
func (m *model) checkSpent() {
	for path, limits := range m.policy.limits {
		for key, most := range limits {
			if key.window == budget.Concurrent {
				continue
			}
			if key.dim.IsTokens() {
				have := m.books().balances[path].UsedIn(budget.PeriodAt(key.window, m.world.at, m.loc), key.dim)
				m.require(have <= most, "overspent: %s has %d of %s posted and held, and may use %d", path, have, key.dim, most)
				continue
			}
			used, pieces := m.spent(path, key)
			for period, amount := range used {
				m.require(amount <= most+quantity.Amount(pieces[period]), "overspent: %s used %d of %s in %s, and may use %d", path, amount, key.dim, period, most)
			}
		}
	}
}

// spent is what was really used in each period.
func (m *model) spent(path string, key modelLimit) (used map[string]quantity.Amount, pieces map[string]int) {
	used, pieces = map[string]quantity.Amount{}, map[string]int{}
	for _, a := range m.world.all {
		leaf := modelLeaf(a.Namespace)
		if leaf != path && !strings.HasPrefix(leaf, path+"/") {
			continue
		}
		until := a.Ended
		if !a.Terminal {
			until = m.world.at
		}
		for from := a.Created; from.Before(until); {
			period, end := budget.PeriodAt(key.window, from, m.loc), until
			if key.window != budget.Total && period.End.Before(until) {
				end = period.End
			}
			amount := quantity.Amount(end.Sub(from).Milliseconds()).Mul(int64(len(a.gpus)))
			if key.dim == budget.Cost {
				amount = quantity.Cost(amount, quantity.Amount(m.policy.cards[0].perHour(a.class)))
				pieces[period.Key()]++
			}
			used[period.Key()] += amount
			from = end
		}
	}
	return used, pieces
}

// limitsTotal reports whether some budget limits all time, so that holds are
// charged to it.
func (m *model) limitsTotal() bool {
	for _, l := range m.policy.limits {
		for key := range l {
			if key.window == budget.Total {
				return true
			}
		}
	}
	return false
}

// checkClosed is I8 for a hold that ended: what was posted for it is what its
// entries say. The rest was released with it, because of I3.
func (m *model) checkClosed(r ledger.Remains) {
	if m.account.closed[r.Hold.ID] {
		return
	}
	m.account.closed[r.Hold.ID] = true
	have := m.account.byHold[r.Hold.ID]
	m.require(r.Hold.Posted.Total() == have, "I8: hold %s (%s/%s) ended with %d GPU-milliseconds posted, its entries say %d: %s", r.Hold.ID,
		r.Hold.Namespace, r.Hold.JobID, r.Hold.Posted.Total(), have, m.account.of(r.Hold.ID))
}

// checkTimelines is I4: no GPU's time is in two entries.
func (m *model) checkTimelines() {
	for gpu, stretches := range m.account.covered {
		type edge struct {
			at   int64
			sign int
		}
		var edges []edge
		for _, s := range stretches {
			edges = append(edges, edge{s.from, s.sign}, edge{s.to, -s.sign})
		}
		slices.SortFunc(edges, func(a, b edge) int { return int(a.at - b.at) })
		depth := 0
		for i, e := range edges {
			depth += e.sign
			if i+1 == len(edges) || edges[i+1].at != e.at {
				m.require(depth == 0 || depth == 1, "I4: %s is in %d entries at %v: %v", gpu, depth, time.UnixMilli(e.at).UTC(), m.covering(gpu, e.at))
			}
		}
	}
}

// covering are the entries of a GPU at an instant, for messages.
func (m *model) covering(gpu string, atMS int64) (lines []string) {
	for _, key := range slices.Sorted(maps.Keys(m.account.entries)) {
		if e := m.account.entries[key]; slices.Contains(e.GPUs, gpu) && e.FromMS <= atMS && atMS < e.ToMS {
			lines = append(lines, fmt.Sprintf("\n  %s %s of %s [%d, %d)", e.Kind, key, e.HoldID, e.FromMS, e.ToMS))
		}
	}
	return lines
}

// finished are the ended allocations that the ledger has posted to their end.
func (m *model) finished() map[string]bool {
	seen := map[string]bool{}
	for _, a := range m.world.all {
		if a.Terminal {
			seen[a.ID] = a.usage() > 0 && m.account.used[a.ID] == a.usage()
		}
	}
	return seen
}

func (a *modelAlloc) usage() quantity.Amount {
	return quantity.Amount(a.Ended.Sub(a.Created).Milliseconds()).Mul(int64(len(a.gpus)))
}

// endDay lets everything end and compares the books with the facts.
func (m *model) endDay() {
	m.note("the day ends")
	m.account.closing, m.world.down = true, false
	for _, a := range m.agents {
		if a.store.dead {
			m.start(a)
		}
		m.load(a)
	}
	for len(m.tickets) > 0 {
		t := m.tickets[0]
		m.tickets = m.tickets[1:]
		accepted := t.registered || m.register(t)
		m.answer(t, gate.Outcome{Known: true, Accepted: accepted, JobModifyIndex: t.index}, "answered at last")
	}
	for _, key := range slices.Sorted(maps.Keys(m.world.jobs)) {
		m.world.stop(m.world.jobs[key])
	}
	for _, a := range m.world.live() {
		m.world.end(a, true)
	}
	m.elect(m.leader) // a new term records the history once more
	for range 3 {
		m.world.advance(2 * confirmWithin)
		m.meter(m.agents[m.leader])
		m.meter(m.agents[m.leader])
		m.check()
	}
	m.checkFacts()
}

func (m *model) checkFacts() {
	b := m.books()
	for _, h := range b.holds {
		m.require(false, "a hold is left: %s/%s %+v", h.Namespace, h.JobID, h)
	}
	for _, h := range b.requests {
		m.require(!h.Holds(), "a request for tokens is left open: %+v", h)
	}
	for path, balance := range b.balances {
		m.require(balance.Held.IsZero(), "%s holds %v", path, balance.Held)
	}
	m.checkTimelines()
	if m.strict {
		m.checkSpent()
	}
	for _, a := range m.world.all {
		have := m.account.used[a.ID]
		m.require(have == a.usage() || a.unseen && 0 <= have, "%s (%s/%s) used %d GPU-milliseconds, posted are %d", a.ID, a.Namespace, a.Name, a.usage(), have)
		if !a.unseen {
			m.checkCost(a)
		}
	}
	for key, e := range m.account.entries {
		m.require(m.account.recorded[key], "entry %s is in no history: %+v", key, e)
	}
}

// checkCost: however often an allocation was posted, its cost is rounded once for
// each card.
func (m *model) checkCost(a *modelAlloc) {
	for i, card := range m.policy.cards {
		from, to := maxTime(a.Created, card.from), a.Ended
		if i+1 < len(m.policy.cards) && m.policy.cards[i+1].from.Before(to) {
			to = m.policy.cards[i+1].from
		}
		if !from.Before(to) {
			continue
		}
		ms := quantity.Amount(to.UnixMilli() - from.UnixMilli()).Mul(int64(len(a.gpus)))
		want := quantity.Cost(ms, quantity.Amount(card.perHour(a.class)))
		have := m.account.cost[a.ID+" "+modelCardName(i)]
		off := max(have-want, want-have)
		m.require(off == 0 || m.split(a) && off <= quantity.Amount(len(a.gpus)), "%s cost %d by %s, posted is %d", a.ID, want, modelCardName(i), have)
	}
}

// split reports whether some GPUs of an allocation were given to another one before
// its end was known: each of them is then priced, and rounded, by itself.
func (m *model) split(a *modelAlloc) bool {
	for _, e := range m.account.entries {
		if e.Alloc == a.ID && len(e.GPUs) < len(a.gpus) {
			return true
		}
	}
	return false
}
