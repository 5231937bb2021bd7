package enforce

import (
	"fmt"
	"slices"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// stopping is a wish to stop a job by the rule of a budget.
func stopping(b *budget.Budget, cause admission.Reason, text string) want {
	rule := b.EffectiveStop()
	return want{action: ActionStop, cause: cause, budget: b.Path, signal: rule.Signal, grace: rule.Grace, text: text}
}

// launches ends what Nomad launched by itself and no budget has room for. It has
// hardly begun: there is nothing to save.
func (p *planner) launches() {
	for _, h := range p.Holds {
		if h.Refused != "" && h.State == ledger.Active {
			p.wish(h, want{action: ActionStop, cause: admission.Reason(h.Refused), budget: h.Budget, text: h.RefusedWhy})
		}
	}
}

// runs ends the jobs of agent runs that are over.
func (p *planner) runs() {
	for _, h := range p.Holds {
		run, known := p.Runs[h.Run]
		b := p.Policy.Find(h.Budget)
		if h.Run == "" || !known || b == nil || h.State != ledger.Active {
			continue
		}
		now := p.Now.UnixMilli()
		switch d, used := exhausted(run); {
		case run.ClosedMS != 0 && now >= run.ClosedMS:
			p.wish(h, stopping(b, admission.RunExpired, fmt.Sprintf("its agent run %s was closed", run.ID)))
		case run.UntilMS != 0 && now >= run.UntilMS:
			p.wish(h, stopping(b, admission.RunExpired, fmt.Sprintf("its agent run %s is over since %s", run.ID, p.clock(run.UntilMS))))
		case used:
			p.wish(h, stopping(b, admission.RunExhausted, fmt.Sprintf("its agent run %s has used up its %s of %s", run.ID, d.Name(), d.Format(run.Caps[d], p.Policy.Currency))))
		}
	}
}

// exhausted finds the first dimension of which a run used more than its cap.
func exhausted(run ledger.Run) (budget.Dimension, bool) {
	for _, d := range run.Capped() {
		if d != budget.Jobs && run.Posted[d] > run.Caps[d] {
			return d, true
		}
	}
	return "", false
}

func (p *planner) clock(ms int64) string {
	return time.UnixMilli(ms).In(p.Policy.Location).Format("2006-01-02 15:04 MST")
}

// runtime ends allocations that run longer than their job was admitted for: each
// at the end of its one run, or when its slot has used up all its time. Nomad 2.0.3
// and later end batch work themselves where the group says max_run_duration; then
// this finds nothing to do.
func (p *planner) runtime() {
	for _, h := range p.Holds {
		b := p.Policy.Find(h.Budget)
		if b == nil {
			continue
		}
		w := stopping(b, admission.MaxRuntime, "it has run as long as it was admitted for")
		w.timed = true
		if !saysHowToStop(b) {
			w.signal = "" // Nomad's own stop is gentle enough, and a SIGTERM would end the run early
		}
		spent := false
		for _, t := range h.Live() {
			end, slot, bounded := runEnd(h, t)
			if !bounded {
				continue
			}
			warn := min(quantity.Millis(w.grace), (end-t.StartMS)/2)
			if w.signal == "" {
				warn = 0
			}
			if p.Now.UnixMilli() >= end-warn {
				w.allocs = append(w.allocs, t.Alloc)
			}
			if expected := max(end, min(end, p.Now.UnixMilli())+warn); w.stopMS == 0 || expected < w.stopMS {
				w.stopMS = expected // if the signal is sent now
			}
			end = signalled(h, t, w, end, warn)
			if p.Now.UnixMilli() >= end {
				w.due = append(w.due, t.Alloc)
				spent = spent || slot
			}
		}
		if spent {
			// A slot that has no time left would only be started again.
			w.allocs, w.due = nil, targets(h, nil)
		}
		if spent || len(w.allocs) > 0 {
			p.wish(h, w)
		}
	}
}

// signalled is when an allocation whose time is up at end is stopped: later, where
// its signal came late (nobody led, or Nomad could not be reached), so that there
// is time for a checkpoint.
func signalled(h ledger.Hold, t ledger.Track, w want, end, warn int64) int64 {
	if w.signal == "" {
		return end
	}
	sent := end // at the latest
	if e := h.Ending; e != nil && e.Cause == string(w.cause) && e.SignalMS != 0 && slices.Contains(e.Allocs, t.Alloc) {
		sent = min(sent, e.SignalMS)
	}
	return max(end, sent+warn)
}

// saysHowToStop reports whether the policy says how this budget's work is
// stopped.
func saysHowToStop(b *budget.Budget) bool {
	return slices.ContainsFunc(b.Ancestry(), func(n *budget.Budget) bool { return n.Stop != nil })
}

// runEnd is when an allocation's time is up, and whether it is then the time of
// its slot that is used up by replacements rather than that of its one run.
func runEnd(h ledger.Hold, t ledger.Track) (ms int64, slot, bounded bool) {
	line, ok := h.LineOf(t.Group)
	if !ok || line.Lease || line.OnceMS <= 0 {
		return 0, false, false
	}
	left := line.RuntimeMS - h.Slots[t.Name].UsedMS
	if left < line.OnceMS {
		return t.StartMS + max(0, left), true, true
	}
	return t.StartMS + line.OnceMS, false, true
}

// idle ends jobs none of whose GPUs are used.
func (p *planner) idle() {
	for _, h := range p.Holds {
		b := p.Policy.Find(h.Budget)
		if b == nil || b.EffectiveMaxIdle() == 0 {
			continue
		}
		live, longest := h.Live(), b.EffectiveMaxIdle()
		idle := len(live) > 0
		for _, t := range live {
			unused, known := p.IdleFor[t.Alloc]
			idle = idle && known && unused >= longest
		}
		if idle {
			p.wish(h, stopping(b, admission.MaxIdle, fmt.Sprintf("it has held GPUs for %s without using them", longest)))
		}
	}
}

// overBudget ends or throttles work of budgets that are overdrawn, by their rule.
func (p *planner) overBudget() {
	p.Policy.Walk(func(b *budget.Budget) {
		rule := b.EffectiveRunning()
		if rule == budget.LetFinish || b.EffectiveLevel() == budget.Advisory {
			return
		}
		for _, s := range Overdrawn(p.Policy, b, p.Books, p.Grants, p.Now) {
			text := fmt.Sprintf("budget %s is over its limit of %s by %s", b.Path, p.amount(s, ceiling(s)), p.amount(s, s.Excess()))
			if at := s.Limit.Source.String(); at != "" {
				text += ", set at " + at
			}
			if rule == budget.StopRunning {
				for _, h := range p.chosen(b, s, admission.OverBudget) {
					p.wish(h, stopping(b, admission.OverBudget, text))
				}
				continue
			}
			p.throttle(b, s, text)
		}
	})
}

func ceiling(s ledger.Standing) quantity.Amount {
	limit, _ := s.Limit.Total().Finite()
	return limit
}

func (p *planner) amount(s ledger.Standing, a quantity.Amount) string {
	d := s.Limit.Dimension
	text := d.Format(a, p.Policy.Currency)
	if class := d.Class(); class != "" && class != budget.AnyClass && !d.IsTokens() {
		text += " of " + class
	}
	return text
}

// Overdrawn are the limits of a budget of which more is used than they allow, in
// the order in which they are written.
func Overdrawn(policy *budget.Policy, b *budget.Budget, books map[string]ledger.Balance, grants []ledger.Grant, now time.Time) []ledger.Standing {
	var out []ledger.Standing
	book, known := books[b.Path]
	if !known {
		return nil
	}
	for _, s := range ledger.Standings(policy, b, book, grants, ledger.CohortOf(policy, b, books), now) {
		if s.Health == ledger.Overdrawn {
			out = append(out, s)
		}
	}
	return out
}

// throttle makes one step smaller what may become smaller: the groups of
// services, as many as needed.
func (p *planner) throttle(b *budget.Budget, s ledger.Standing, text string) {
	rule := b.EffectiveThrottle()
	excess := s.Excess()
	for _, h := range p.victims(b, s.Limit.Limit) {
		if s.Limit.Window.Gauge() && excess <= 0 {
			return
		}
		if h.Pending != nil {
			continue // a change of it is on its way
		}
		each := contribution(h, s.Limit.Limit) / quantity.Amount(max(1, h.Count(), len(h.Live())))
		// What was taken away already is on its way out.
		excess = excess.Sub(each * quantity.Amount(max(0, len(h.Live())-h.Count())))
		w := want{action: ActionThrottle, cause: admission.OverBudget, budget: b.Path, every: rule.Every, text: text}
		for _, line := range h.Lines {
			count := line.Count - line.Canaries
			if !line.Lease || line.EveryNode || count <= rule.MinCount || s.Limit.Window.Gauge() && excess <= 0 {
				continue
			}
			step := max(1, int(rule.Step.OfUp(quantity.Amount(count))))
			w.group, w.count = line.Group, max(rule.MinCount, count-step)
			excess = excess.Sub(each * quantity.Amount(count-w.count))
			break
		}
		if w.group != "" || h.Ending != nil && h.Ending.Action == ActionThrottle {
			p.wish(h, w)
		}
	}
}
