package agent

import (
	"slices"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
)

// factsOf is what the conditions of the policy may ask about a submission at
// now. Estimate, limit, forecast and burn rate are not known yet: who decides on
// amounts adds them.
func factsOf(s gate.Submission, now time.Time, p *budget.Policy) budget.Facts {
	return budget.Facts{
		Now:       now,
		Job:       s.Ask.Facts(),
		Submitter: budget.SubmitterFacts{Accessor: s.Identity.Accessor, Names: slices.Clone(s.Identity.Names)},
		Request:   budget.RequestFacts{Kind: s.Kind.String(), PolicyOverride: s.PolicyOverride},
		Schedules: p.SchedulesAt(now),
	}
}
