package agent

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/burn"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/notice"
)

// The rates of use that everybody is told of who wants to hear of budgets: those of
// Google's SRE workbook, chapter "Alerting on SLOs", section "Multiwindow, Multi-Burn-Rate Alerts", rounded. The short
// window says that it still goes on.
const (
	fastRate, steadyRate         = 14, 6
	fastOver, fastStill          = time.Hour, 5 * time.Minute
	steadyOver, steadyStill      = 6 * time.Hour, 30 * time.Minute
	lagTold, historyFailingAfter = 5 * time.Minute, 10 * time.Minute
)

// conditions are what may be told of budgets, as of a reading.
func (b *board) conditions(r reading) []notice.Condition {
	var out []notice.Condition
	b.mu.Lock()
	defer b.mu.Unlock()
	r.policy.Walk(func(n *budget.Budget) {
		out = append(out, stateConditions(r.policy, n, r.standings[n.Path])...)
		for _, s := range r.standings[n.Path] {
			out = append(out, b.burnConditions(n, s)...)
		}
		out = append(out, b.alertConditions(r, n)...)
	})
	return out
}

// stateConditions are that a budget is past its soft mark, used up or overdrawn. GPUs
// held at once come and go: that all are in use is what they are for.
func stateConditions(p *budget.Policy, n *budget.Budget, standings []ledger.Standing) []notice.Condition {
	worst := ledger.Standing{Budget: n}
	for _, s := range standings {
		if s.Health > worst.Health && (!s.Limit.Window.Gauge() || s.Health == ledger.Overdrawn) {
			worst = s
		}
	}
	var out []notice.Condition
	add := func(at ledger.Health, kind, severity, what, ended string) {
		d := notice.Data{Severity: severity, Budget: n.Path, Owner: n.Owner, Text: fmt.Sprintf("budget %s %s", n.Path, what)}
		if worst.Health >= at {
			d = limitData(d, worst.Limit)
			d.Text += ": " + usedText(p, worst)
		}
		out = append(out, notice.Condition{Key: kind + "/" + n.Path, Holds: worst.Health >= at, Kind: kind, Subject: n.Path, Data: d,
			Ended: fmt.Sprintf("budget %s %s", n.Path, ended)})
	}
	if n.EffectiveSoft() != 0 {
		add(ledger.Soft, "budget.soft", "info", "is past its soft mark", "is below its soft mark again")
	}
	add(ledger.Full, "budget.full", "warning", "has nothing left for new work", "has room for new work again")
	add(ledger.Overdrawn, "budget.overdrawn", "critical", "is overdrawn", "is not overdrawn any more")
	return out
}

func limitData(d notice.Data, l ledger.EffectiveLimit) notice.Data {
	d.Window, d.Dimension, d.Source = l.Window.String(), l.Dimension.Key(), l.Source.String()
	return d
}

// usedText says how far a limit is used.
func usedText(p *budget.Policy, s ledger.Standing) string {
	ceiling, _ := s.Limit.Total().Finite()
	d := s.Limit.Dimension
	return fmt.Sprintf("%s used and %s held of %s in the window %s", d.Format(s.Posted, p.Currency), d.Format(s.Held, p.Currency), d.Format(ceiling, p.Currency), s.Limit.Window)
}

// burnConditions are that a limit is used much faster than it lasts. In a window of an
// hour that would be told after it is over.
func (b *board) burnConditions(n *budget.Budget, s ledger.Standing) []notice.Condition {
	if !metered(s.Limit) || s.Limit.Window == budget.Hour {
		return nil
	}
	var out []notice.Condition
	for _, one := range []struct {
		name, severity string
		over, still    time.Duration
		most           float64
	}{{"fast", "critical", fastOver, fastStill, fastRate}, {"steady", "warning", steadyOver, steadyStill, steadyRate}} {
		rate, known := b.rate(n.Path, s.Limit, one.over)
		still, stillKnown := b.rate(n.Path, s.Limit, one.still)
		what := fmt.Sprintf("the %s of budget %s in the window %s", s.Limit.Dimension.Key(), n.Path, s.Limit.Window)
		d := limitData(notice.Data{Severity: one.severity, Budget: n.Path, Owner: n.Owner}, s.Limit)
		d.Text = fmt.Sprintf("%s is used %.1f times as fast as it lasts, over %s, and %.1f times over the last %s", what, rate,
			budget.FormatDuration(one.over), still, budget.FormatDuration(one.still))
		out = append(out, notice.Condition{Key: strings.Join([]string{"burn", one.name, n.Path, s.Limit.Window.String(), string(s.Limit.Dimension)}, "/"),
			Holds: rate > one.most && still > one.most, Unknown: !known || !stillKnown, Kind: "budget.burn_rate", Subject: n.Path, Data: d,
			Ended: what + " is not used that fast any more"})
	}
	return out
}

// alertConditions are the alert blocks of a budget, for each window with limits.
func (b *board) alertConditions(r reading, n *budget.Budget) []notice.Condition {
	var out []notice.Condition
	for _, a := range n.Alerts {
		for w := budget.Hour; w <= budget.Total; w++ {
			var limits []ledger.EffectiveLimit
			for _, s := range r.standings[n.Path] {
				if s.Limit.Window == w {
					limits = append(limits, s.Limit)
				}
			}
			if len(limits) == 0 {
				continue
			}
			facts := b.alertFacts(r, n.Path, limits)
			holds, err := a.When.Holds(facts)
			if err != nil {
				b.logger.Debug("alert cannot be decided", "budget", n.Path, "alert", a.Name, "window", w.String(), "error", err)
			}
			d := notice.Data{Severity: "warning", Budget: n.Path, Owner: n.Owner, Alert: a.Name, Window: w.String(), Source: a.Source.String(),
				Text: fmt.Sprintf("alert %s of budget %s in the window %s: %s", a.Name, n.Path, w, a.When)}
			out = append(out, notice.Condition{Key: strings.Join([]string{"alert", a.Name, n.Path, w.String()}, "/"), Holds: holds && err == nil, Unknown: err != nil,
				Kind: "budget.alert", Subject: n.Path, Data: d, Named: a.Notify, Ended: fmt.Sprintf("alert %s of budget %s in the window %s is over", a.Name, n.Path, w)})
		}
	}
	return out
}

// alertFacts are what an alert may ask about the limits of one window.
func (b *board) alertFacts(r reading, path string, limits []ledger.EffectiveLimit) budget.Facts {
	f := budget.Facts{Now: r.at, Schedules: r.policy.SchedulesAt(r.at)}
	for _, l := range limits {
		if ceiling, finite := l.Total().Finite(); finite {
			addFact(&f.Limit, l.Dimension, ceiling)
		}
		if next, known := b.outlook[limitKey{path, l.Window.String(), string(l.Dimension)}]; known && next.AtEnd50 != nil {
			addFact(&f.Forecast, l.Dimension, *next.AtEnd50)
		}
	}
	f.BurnRate = func(over time.Duration) (float64, error) {
		if over > burn.Longest {
			return 0, fmt.Errorf("rates of use are measured over %s at most", budget.FormatDuration(burn.Longest))
		}
		highest, known := 0.0, false
		for _, l := range limits {
			if rate, ok := b.rate(path, l, over); ok {
				highest, known = max(highest, rate), true
			}
		}
		if !known {
			return 0, errors.New("it was not watched for so long yet, or there is no limit with an end")
		}
		return highest, nil
	}
	return f
}

// addFact notes an amount in the unit that conditions are written in.
func addFact(to *budget.Amounts, d budget.Dimension, a quantity.Amount) {
	in := func(unit quantity.Amount) float64 { return float64(a) / float64(unit) }
	switch {
	case d == budget.Cost:
		to.Cost = in(quantity.CurrencyUnit)
	case d == budget.Energy:
		to.Energy = in(quantity.KWh)
	case d.IsGPUTime():
		if to.GPUHours == nil {
			to.GPUHours = make(map[string]float64)
		}
		to.GPUHours[d.Class()] = in(quantity.GPUHour)
	case d.IsTokens():
		if to.Tokens == nil {
			to.Tokens = make(map[string]float64)
		}
		to.Tokens[d.Class()] = in(1)
	}
}

// healthConditions are what may be told of Governor itself.
func (a *Agent) healthConditions(now time.Time) []notice.Condition {
	condition := func(name string, holds bool, severity, text, ended string) notice.Condition {
		return notice.Condition{Key: "health/" + name, Holds: holds, Kind: "health." + name, Subject: name,
			Data: notice.Data{Severity: severity, Text: text}, Ended: ended}
	}
	state := a.Keeper.State()
	lag, known := a.Meter.lag()
	behind := condition("meter_lag", lag > lagTold, "critical", fmt.Sprintf("what runs has not been metered for more than %s; the leader's log says why", budget.FormatDuration(lagTold)),
		"metering has caught up")
	behind.Unknown = !known
	out := []notice.Condition{behind, condition("policy_broken", state.Broken != "", "warning",
		"the policy in the store is broken, and the last good one stays in force: "+firstLine(state.Broken), "the policy in the store is in force again")}
	if a.history != nil {
		since, cause := a.history.trouble()
		out = append(out, condition("history", !since.IsZero() && now.Sub(since) >= historyFailingAfter, "warning",
			fmt.Sprintf("usage cannot be recorded, and waits in the ledger: %v", cause), "usage is recorded again"))
	}
	return out
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return cmp.Or(line, "it has no text")
}
