package metrics

import (
	"maps"
	"slices"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Board is the ledger as an agent has read it.
type Board struct {
	// At is when it was read.
	At      time.Time
	Budgets []Budget
	// Overrides are the grants that count now, Bypasses the open ways around the gate
	// as the leader found them last.
	Overrides, Bypasses int
	// Alerts are those that fire now.
	Alerts []Alert
	// Outbox is how many events wait for a notifier, by its name.
	Outbox map[string]int
}

// Budget is one budget.
type Budget struct {
	Path string
	// State is the worst of its limits: ok, soft, full or overdrawn.
	State string
	// Queued is how many of its own jobs wait.
	Queued int
	Limits []Limit
}

// Limit is one limit of a budget in its present period. Amounts are the ledger's.
type Limit struct {
	Window    string
	Dimension budget.Dimension
	// Ceiling is what counts now, with what was carried over, granted and may be
	// borrowed; Unlimited says that there is none.
	Ceiling      quantity.Amount
	Unlimited    bool
	Posted, Held quantity.Amount
	// End of the period; zero for one without an end.
	End time.Time
	// RunsOut is when the limit is expected to be reached, as far as that is known.
	RunsOut []RunsOut
	// Burn are the rates of use that are known.
	Burn []Burn
}

// RunsOut is a forecast of when a limit is reached.
type RunsOut struct {
	// Forecast is "p50" for the median, "p90" for the cautious date that nine of ten cases
	// come after.
	Forecast string
	// At is nil where the limit lasts to the end of its period.
	At *time.Time
}

// Burn is how fast a limit is used, as a multiple of the rate at which it would last
// just to the end of its period.
type Burn struct {
	// Over is the time over which it was measured, as Prometheus writes it: "5m".
	Over string
	Rate float64
}

// Alert is one alert of a budget.
type Alert struct{ Budget, Name, Severity string }

// states are all that a budget can be in.
func states() []string { return []string{"ok", "soft", "full", "overdrawn"} }

// measure is a dimension in Prometheus' base units: its name, the class that it is
// about, and how much of the ledger's amount is one unit.
func measure(d budget.Dimension) (name, class string, unit float64) {
	switch {
	case d == budget.Cost:
		return "cost", "", float64(quantity.CurrencyUnit)
	case d == budget.Energy:
		return "energy_joules", "", 1
	case d.IsGPUs():
		return "gpus", d.Class(), float64(quantity.GPU)
	case d.IsGPUTime():
		return "gpu_seconds", d.Class(), 1000
	case d.IsTokens():
		return "tokens", d.Class(), 1
	}
	return string(d), "", 1
}

// boardFamilies are the metrics of a board. There may be many thousand series: they are
// written by hand, because to make, sort and check them as client_golang does takes
// twenty times as long, at each scrape.
func boardFamilies(b Board, now time.Time) []family {
	of := []string{"budget", "window", "dimension", "class"}
	limit := family{name: "governor_budget_limit", labels: of,
		help: "Limit of a budget in the present period, in the unit that dimension names, with what was carried over, granted and may be borrowed; absent where there is none."}
	posted := family{name: "governor_budget_posted", labels: of, help: "What is posted against a limit in the present period."}
	held := family{name: "governor_budget_held", labels: of, help: "What open holds may still use in the present period."}
	available := family{name: "governor_budget_available", labels: of, help: "What a limit leaves for new work; below 0 when the budget is overdrawn."}
	runsOut := family{name: "governor_budget_exhaustion_timestamp_seconds", labels: append(slices.Clone(of), "forecast"),
		help: "When a limit is expected to be reached: the median, and as p90 the date that nine of ten cases come after; absent when that is not in this period."}
	burn := family{name: "governor_budget_burn_rate", labels: append(slices.Clone(of), "over"),
		help: "How fast a limit is used over the time in over, as a multiple of the even rate at which it just lasts."}
	state := family{name: "governor_budget_state", labels: []string{"budget", "state"}, help: "State of a budget, by its worst limit: 1 for the state that it is in."}
	end := family{name: "governor_budget_window_end_timestamp_seconds", labels: []string{"budget", "window"}, help: "When the present period of a window ends."}
	queued := family{name: "governor_queue_depth", labels: []string{"budget"}, help: "Jobs of a budget that wait."}
	for _, n := range b.Budgets {
		for _, one := range states() {
			state.add(number(one == n.State), n.Path, one)
		}
		queued.add(float64(n.Queued), n.Path)
		ended := ""
		for _, l := range n.Limits {
			name, class, unit := measure(l.Dimension)
			gauge := l.Window == budget.Concurrent.String() || l.Window == budget.Committed.String()
			if !gauge { // what is held now has no past
				posted.add(float64(l.Posted)/unit, n.Path, l.Window, name, class)
			}
			held.add(float64(l.Held)/unit, n.Path, l.Window, name, class)
			if !l.Unlimited {
				limit.add(float64(l.Ceiling)/unit, n.Path, l.Window, name, class)
				available.add(float64(l.Ceiling.Sub(l.Posted).Sub(l.Held))/unit, n.Path, l.Window, name, class)
			}
			for _, r := range l.RunsOut {
				if r.At != nil {
					runsOut.add(float64(r.At.Unix()), n.Path, l.Window, name, class, r.Forecast)
				}
			}
			for _, r := range l.Burn {
				burn.add(r.Rate, n.Path, l.Window, name, class, r.Over)
			}
			if !l.End.IsZero() && l.Window != ended { // limits are in the order of their windows
				ended = l.Window
				end.add(float64(l.End.Unix()), n.Path, l.Window)
			}
		}
	}
	return append([]family{limit, posted, held, available, runsOut, burn, state, end, queued}, boardTotals(b, now)...)
}

// boardTotals are the metrics of a board that are not about one budget.
func boardTotals(b Board, now time.Time) []family {
	one := func(name, help string, v float64) family {
		f := family{name: name, help: help}
		f.add(v)
		return f
	}
	alert := family{name: "governor_alert_firing", labels: []string{"budget", "alert", "severity"}, help: "Alerts of budgets that fire now; always 1."}
	for _, a := range b.Alerts {
		alert.add(1, a.Budget, a.Name, a.Severity)
	}
	outbox := family{name: "governor_notification_outbox", labels: []string{"notifier"}, help: "Events that wait for a notifier."}
	for _, notifier := range slices.Sorted(maps.Keys(b.Outbox)) {
		outbox.add(float64(b.Outbox[notifier]), notifier)
	}
	return []family{alert, outbox,
		one("governor_overrides_active", "Break-glass grants that count now.", float64(b.Overrides)),
		one("governor_bypasses_open", "Open ways around the gate, as the leader found them last.", float64(b.Bypasses)),
		one("governor_ledger_snapshot_age_seconds", "Age of what the governor_budget metrics, the queue, the overrides, the alerts and the outbox show.",
			max(0, now.Sub(b.At).Seconds())),
	}
}

// Show replaces what is shown of the ledger.
func (m *Metrics) Show(b Board) { m.board.do(func(shown *Board) { *shown = b }) }
