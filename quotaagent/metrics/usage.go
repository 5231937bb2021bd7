package metrics

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// usage counts what was used, as integers. What turns out later not to have been used
// is taken back in the ledger; a counter cannot go down, so that as much is left out
// of what comes next.
type usage struct {
	sums  guarded[map[lineKey]*sum]
	descs map[line]*prometheus.Desc
}

// line is one of the metrics.
type line int

const (
	gpuSeconds line = iota
	cost
	energy
	overdraftSeconds
	idleSeconds
	unallocatedSeconds
	ungovernedSeconds
	tokens
)

// lineKey is one series: a metric and its label values, unused ones empty.
type lineKey struct {
	line   line
	labels [3]string
}

// sum is what was counted, less what was taken back, and the most that it ever was.
type sum struct{ net, shown quantity.Amount }

func (u *usage) begin() {
	u.sums.v = make(map[lineKey]*sum)
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	u.descs = map[line]*prometheus.Desc{
		gpuSeconds:         desc("governor_gpu_seconds_total", "GPU time posted by this agent, whole GPUs or instances.", "budget", "class", "basis"),
		cost:               desc("governor_cost_total", "Cost posted by this agent, in units of the currency.", "budget", "currency"),
		energy:             desc("governor_energy_joules_total", "Energy of GPUs posted by this agent.", "budget", "class"),
		overdraftSeconds:   desc("governor_overdraft_gpu_seconds_total", "GPU time posted by this agent beyond what was held for it.", "budget", "cause"),
		idleSeconds:        desc("governor_idle_gpu_seconds_total", "GPU time during which allocations did not use their GPUs, as seen by this agent while it led.", "budget", "class"),
		unallocatedSeconds: desc("governor_unallocated_gpu_seconds_total", "GPU time of GPUs that no allocation had, as seen by this agent while it led.", "budget", "class", "node_pool"),
		ungovernedSeconds:  desc("governor_ungoverned_gpu_seconds_total", "GPU time used without a hold, as seen by this agent while it led.", "class"),
		tokens:             desc("governor_tokens_total", "Tokens of language models posted by this agent; the model is \"other\" for those that are on no rate card.", "budget", "model", "type"),
	}
}

// labels is how many labels each metric has.
func (l line) labels() int {
	return [...]int{gpuSeconds: 3, cost: 2, energy: 2, overdraftSeconds: 2, idleSeconds: 2, unallocatedSeconds: 3, ungovernedSeconds: 1, tokens: 3}[l]
}

// unit is how much of an amount is one of the metric's base unit.
func (l line) unit() float64 {
	switch l {
	case cost:
		return float64(quantity.CurrencyUnit)
	case energy, tokens:
		return 1
	case gpuSeconds, overdraftSeconds, idleSeconds, unallocatedSeconds, ungovernedSeconds:
	}
	return 1000
}

// Posting is what counting entries takes to know of the policy.
type Posting struct {
	// Basis is from when to when GPU time counts.
	Basis, Currency string
	// Priced reports whether a rate card names a model: what else clients call a model
	// makes no label.
	Priced func(model string) bool
}

func (p Posting) model(name string) string {
	if p.Priced(name) {
		return name
	}
	return "other"
}

// add counts entries.
func (u *usage) add(entries []ledger.Entry, p Posting) {
	u.sums.do(func(sums *map[lineKey]*sum) {
		count := func(a quantity.Amount, l line, labels ...string) {
			if a == 0 {
				return
			}
			key := lineKey{line: l}
			copy(key.labels[:], labels)
			s := (*sums)[key]
			if s == nil {
				s = &sum{}
				(*sums)[key] = s
			}
			s.net = s.net.Add(a)
			s.shown = max(s.shown, s.net)
		}
		for i := range entries {
			e := &entries[i]
			switch e.Kind {
			case ledger.UsageEntry:
				count(e.GPUTime, gpuSeconds, e.Budget, e.Class, p.Basis)
				count(e.Cost, cost, e.Budget, p.Currency)
				count(e.Energy, energy, e.Budget, e.Class)
			case ledger.TokensEntry, ledger.CorrectionEntry:
				if e.Author != "" || len(e.Tokens) == 0 {
					continue // a correction by hand, or of GPU time
				}
				for kind, n := range e.Tokens {
					count(n, tokens, e.Budget, p.model(e.Model), string(kind))
				}
				count(e.Cost, cost, e.Budget, p.Currency)
			case ledger.OverdraftEntry:
				count(e.GPUTime, overdraftSeconds, e.Budget, e.Cause)
			case ledger.IdleEntry:
				count(e.GPUTime, idleSeconds, e.Budget, e.Class)
			case ledger.UnallocatedEntry:
				count(e.GPUTime, unallocatedSeconds, e.Budget, e.Class, pool(e.Cause))
			case ledger.UngovernedEntry:
				count(e.GPUTime, ungovernedSeconds, e.Class)
			}
		}
	})
}

// pool is the node pool that a line of unallocated GPUs names as its cause.
func pool(cause string) string {
	const before = "node pool "
	if len(cause) > len(before) && cause[:len(before)] == before {
		return cause[len(before):]
	}
	return ""
}

// Describe implements prometheus.Collector.
func (u *usage) Describe(to chan<- *prometheus.Desc) {
	for _, d := range u.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (u *usage) Collect(to chan<- prometheus.Metric) {
	type row struct {
		lineKey
		shown quantity.Amount
	}
	var rows []row
	u.sums.do(func(sums *map[lineKey]*sum) {
		for key, s := range *sums {
			rows = append(rows, row{key, s.shown})
		}
	})
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.line, b.line), slices.Compare(a.labels[:], b.labels[:]))
	})
	for _, r := range rows {
		to <- prometheus.MustNewConstMetric(u.descs[r.line], prometheus.CounterValue, float64(r.shown)/r.line.unit(), r.labels[:r.line.labels()]...)
	}
}
