package admission

import (
	"fmt"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// QueueMeta is the job meta key by which an author says "no" to waiting: the job
// then runs now or is refused.
const QueueMeta = "governor_queue"

// MayWait reports whether the author of a job lets it wait for budget.
func MayWait(ask jobspec.Ask) bool {
	return !strings.EqualFold(strings.TrimSpace(ask.Meta[QueueMeta]), "no")
}

// Turn is the place of a job among those that wait for budget.
type Turn struct {
	// Position among the Of jobs of its budget, from 1.
	Position, Of int
	// ExpectedMS is when it is expected to start, in Unix milliseconds; 0 when that
	// cannot be told.
	ExpectedMS int64
	// Rough says that the place is at the end of the line, and nothing was computed: a
	// long queue keeps the agent busy.
	Rough bool
}

// AwaitTurn is the decision for a job that fits while before, which come before
// it, wait for the same: it waits too, or it would delay them.
func (d Decision) AwaitTurn(before int) Decision {
	d.Outcome, d.Reason, d.Soft, d.Failed = Queue, WaitingTurn, nil, nil
	d.Refusal = &Refusal{Reason: WaitingTurn,
		Fact:   fmt.Sprintf("it fits, but %s for the same budget, and it would delay them", waitText(before)),
		Remedy: "wait for its turn, or ask for less: a job that is over before theirs begin may start at once"}
	return d
}

func waitText(jobs int) string {
	if jobs == 1 {
		return "a job that comes first waits"
	}
	return fmt.Sprintf("%d jobs that come first wait", jobs)
}

// Unqueued is the decision for a job that would wait, but may not, for the reason
// given in one sentence.
func (d Decision) Unqueued(why string) Decision {
	d.Outcome, d.NotQueued = Deny, why
	return d
}

// Cause is why the job does not run now, in one sentence.
func (d Decision) Cause(p *budget.Policy) string {
	if d.Refusal == nil && len(d.Failed) == 0 {
		return ""
	}
	return d.headline(p)
}

// turnRows are what the author of a job that waits is told about its turn.
func (d Decision) turnRows(b *strings.Builder, p *budget.Policy) {
	t := d.Turn
	if t == nil {
		return
	}
	row(b, "position", fmt.Sprintf("%d of %d in the queue of budget %s", t.Position, t.Of, d.Budget.Path))
	if !d.Reason.ForGPUs() { // when GPUs get free is not in the books
		row(b, "expected", t.expectedText(p))
	}
}

func (t Turn) expectedText(p *budget.Policy) string {
	if t.Rough {
		return "not computed now, for many jobs wait; `governor queue list` shows it"
	}
	if t.ExpectedMS == 0 {
		return "not known: nothing that runs is known to end in time"
	}
	return "about " + time.UnixMilli(t.ExpectedMS).In(p.Location).Format(timeLayout) + ", earlier if jobs end before their time"
}

func (d Decision) notQueuedRow(b *strings.Builder) {
	if d.NotQueued != "" {
		row(b, "not queued", d.NotQueued)
	}
}
