package agent

import (
	"context"
	"maps"
	"slices"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// planned are the GPUs that are set aside for gangs now, as this agent has read the
// queue lately. Where that cannot be read nothing is: the gang waits longer.
func (e *Engine) planned(ctx context.Context) []PlannedFor {
	waiting, err := e.waitingJobs(ctx)
	if err != nil {
		e.logger.Warn("GPUs that are set aside for gangs not read", "error", err)
		return nil
	}
	var out []PlannedFor
	for _, q := range waiting {
		if q.Planned != nil && e.now().UnixMilli() < q.Planned.UntilMS && q.RollbackMS == 0 {
			out = append(out, PlannedFor{*q.Planned, q.Namespace, q.JobID})
		}
	}
	return out
}

// clearOf adds to how a submission is placed what it must keep clear of.
func (e *Engine) clearOf(ctx context.Context, s gate.Submission, how Placing) Placing {
	if how.Planned = e.planned(ctx); len(how.Planned) > 0 {
		how.EndsMS = e.endOf(s)
	}
	return how
}

// setAside is what is set aside for a job already; nil for nothing.
func (how Placing) setAside(ask jobspec.Ask) *ledger.Planned {
	for i := range how.Planned {
		if p := &how.Planned[i]; p.Namespace == ask.Namespace && p.JobID == ask.JobID {
			return &p.Planned
		}
	}
	return nil
}

// endOf is when a job has ended at the latest that starts now, in Unix milliseconds; 0
// where it has no end, or none that is known.
func (e *Engine) endOf(s gate.Submission) int64 {
	p, now := e.policy.State().Policy, e.now()
	b, refusal := claim(p, s, now)
	if refusal != nil || b == nil {
		return 0
	}
	lines, refusal := admission.Need(p, b, s.Ask, clusterOf(s, Placement{}), now)
	if refusal != nil {
		return 0
	}
	end := int64(0)
	for _, line := range lines {
		if line.Lease {
			return 0
		}
		end = max(end, now.UnixMilli()+line.RuntimeMS)
	}
	return end
}

func sameDevices(a, b map[string][]string) bool { return maps.EqualFunc(a, b, slices.Equal[[]string]) }
