package simulate

import (
	"maps"
	"math/big"
	"slices"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// steps is how many a Series has at most.
const steps = 400

// moment is how things are from a time on.
type moment struct {
	at   int64
	busy int // GPUs
	// waiting jobs, and whether some of them wait for GPUs and not only for a limit.
	waiting int
	short   bool
}

// measures collect what happens.
type measures struct {
	gpus    int
	busy    int
	moments []moment
	waits   []int64
	most    int
	last    int64 // submission

	several, atIdeal int
	ring, weight     big.Int // GPU time times the rate, in sets.Unit
	budgets          map[string]*budgetSum
}

// budgetSum is what the jobs of one budget had.
type budgetSum struct {
	jobs int
	busy quantity.Amount
	wait big.Int
}

func (m *measures) begin(jobs int, gpus int) {
	m.gpus, m.budgets = gpus, map[string]*budgetSum{}
	m.waits, m.moments = make([]int64, 0, jobs), make([]moment, 0, 2*jobs)
}

// sample notes how things are from now on.
func (m *measures) sample(now int64, waiting int, short bool) {
	m.most = max(m.most, waiting)
	next := moment{at: now, busy: m.busy, waiting: waiting, short: short}
	if last := len(m.moments) - 1; last >= 0 && m.moments[last].at == now {
		m.moments[last] = next
		return
	}
	m.moments = append(m.moments, next)
}

// started notes a job that starts; see run.quality.
func (m *measures) started(w *work, now int64, quality int) {
	wait, busy := now-w.SubmitMS, gpuTime(w.gpus(), w.DurationMS)
	m.busy += w.gpus()
	m.waits = append(m.waits, wait)
	m.last = max(m.last, w.SubmitMS)
	if quality >= 0 {
		m.several++
		if quality == sets.Unit {
			m.atIdeal++
		}
		m.ring.Add(&m.ring, product(int64(busy), int64(quality)))
		m.weight.Add(&m.weight, product(int64(busy), sets.Unit))
	}
	b := m.budgets[w.Budget]
	if b == nil {
		b = &budgetSum{}
		m.budgets[w.Budget] = b
	}
	b.jobs++
	b.busy = b.busy.Add(busy)
	b.wait.Add(&b.wait, big.NewInt(wait))
}

func gpuTime(gpus int, ms int64) quantity.Amount { return quantity.Amount(ms).Mul(int64(gpus)) }

func product(a, b int64) *big.Int { return new(big.Int).Mul(big.NewInt(a), big.NewInt(b)) }

// share is part of whole in parts per million, rounded down; 0 of nothing.
func share(part, whole *big.Int) int64 {
	if whole.Sign() == 0 {
		return 0
	}
	scaled := new(big.Int).Mul(part, big.NewInt(Million))
	return scaled.Div(scaled, whole).Int64()
}

// result is what was measured, all of it over.
func (m *measures) result() Result {
	out := Result{Jobs: len(m.waits), Wait: waitsOf(m.waits), Several: m.several, AtIdeal: share(big.NewInt(int64(m.atIdeal)), big.NewInt(int64(m.several))),
		Ring: share(&m.ring, &m.weight), WaitingMax: m.most, Budgets: []BudgetUse{}, Series: []Step{}}
	if len(m.moments) == 0 {
		return out
	}
	out.BeginMS = m.moments[0].at
	out.MakespanMS = m.moments[len(m.moments)-1].at - out.BeginMS
	waiting, arriving := quantity.Amount(0), quantity.Amount(0)
	for i, now := range m.moments[:len(m.moments)-1] {
		ms := m.moments[i+1].at - now.at
		out.BusyMS = out.BusyMS.Add(gpuTime(now.busy, ms))
		if until := min(m.last, m.moments[i+1].at); until > now.at {
			arriving = arriving.Add(gpuTime(now.busy, until-now.at))
		}
		if now.short {
			waiting = waiting.Add(gpuTime(m.gpus, ms))
			out.IdleMS = out.IdleMS.Add(gpuTime(m.gpus-now.busy, ms))
		}
	}
	out.Utilisation = share(big.NewInt(int64(out.BusyMS)), product(int64(m.gpus), out.MakespanMS))
	out.Arriving = share(big.NewInt(int64(arriving)), product(int64(m.gpus), m.last-out.BeginMS))
	out.Fragmented = share(big.NewInt(int64(out.IdleMS)), big.NewInt(int64(waiting)))
	for _, name := range slices.Sorted(maps.Keys(m.budgets)) {
		b := m.budgets[name]
		mean := new(big.Int).Div(&b.wait, big.NewInt(int64(b.jobs))).Int64()
		out.Budgets = append(out.Budgets, BudgetUse{Budget: name, Jobs: b.jobs, BusyMS: b.busy, WaitMS: mean})
	}
	out.Series = m.series(out.MakespanMS)
	return out
}

func waitsOf(waits []int64) Waits {
	if len(waits) == 0 {
		return Waits{}
	}
	sorted := slices.Sorted(slices.Values(waits))
	sum := new(big.Int)
	for _, w := range sorted {
		sum.Add(sum, big.NewInt(w))
	}
	rank := func(percent int) int64 { return sorted[(len(sorted)*percent+99)/100-1] }
	return Waits{Mean: sum.Div(sum, big.NewInt(int64(len(sorted)))).Int64(), P50: rank(50), P95: rank(95), P99: rank(99), Max: sorted[len(sorted)-1]}
}

// series is the mean over equal stretches of time; the last one may be shorter.
func (m *measures) series(makespan int64) []Step {
	if makespan == 0 {
		return []Step{}
	}
	width := (makespan + steps - 1) / steps
	n := int((makespan + width - 1) / width)
	busy, waiting := make([]big.Int, n), make([]big.Int, n)
	begin := m.moments[0].at
	for i, now := range m.moments[:len(m.moments)-1] {
		from, to := now.at-begin, m.moments[i+1].at-begin
		for from < to {
			step := from / width
			until := min(to, (step+1)*width)
			busy[step].Add(&busy[step], product(int64(now.busy), until-from))
			waiting[step].Add(&waiting[step], product(int64(now.waiting)*1000, until-from))
			from = until
		}
	}
	out := make([]Step, n)
	for i := range out {
		from := int64(i) * width
		ms := min(makespan, from+width) - from
		out[i] = Step{FromMS: from, Busy: share(&busy[i], product(int64(m.gpus), ms)), Waiting: waiting[i].Div(&waiting[i], big.NewInt(ms)).Int64()}
	}
	return out
}
