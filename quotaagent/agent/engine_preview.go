package agent

import (
	"context"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// preview decides without holding anything, by what the store had within the last
// second. A decision that blocks rests on what it has now.
func (e *Engine) preview(ctx context.Context, p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line, placed Placement) (gate.Verdict, error) {
	at, err := e.standingOf(ctx, p, b, s, lines)
	if err != nil {
		return gate.Verdict{}, err
	}
	t, same := e.targetOf(p, b, s), unchanged(s, placed.Patch)
	decide := func(v view) (admission.Decision, error) {
		d, _, err := e.decide(p, b, s, lines, same, v)
		if err != nil {
			return d, err
		}
		return e.queued(p, b, s, v, at, d, placed), nil
	}
	look := e.books.glance
	if s.Fresh {
		look = func(ctx context.Context, t target) (view, bool, error) {
			v, err := e.books.look(ctx, t)
			return v, true, err
		}
	}
	t.novel = s.Stored == nil
	v, certain, err := look(ctx, t)
	if err != nil {
		return gate.Verdict{}, err
	}
	d, err := decide(v)
	if err == nil && blocked(d) && !certain {
		if v, err = e.books.look(ctx, t); err == nil {
			d, err = decide(v)
		}
	}
	if err != nil {
		return gate.Verdict{}, err
	}
	if d.Outcome == admission.Queue {
		return e.wouldWait(ctx, p, b, s, lines, v.queued, at, d, placed), nil
	}
	d = e.advise(ctx, p, b, s, d)
	e.log(s, d)
	return e.verdict(p, s, d, placed), nil
}
