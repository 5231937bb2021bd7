package admission

import (
	"fmt"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// OpenRun checks whether all that an agent run may use fits its budget, now and in
// every later period: from the moment it is open the run holds its whole caps.
// Only State's Balances, Grants and Rules matter. A run does not queue: a decision
// of Queue says that it may fit later.
func OpenRun(p *budget.Policy, b *budget.Budget, state State, run ledger.Run, now time.Time) Decision {
	state.Run = nil
	x := decider{policy: p, state: state, now: now}
	x.prepare()
	x.d = Decision{Budget: b}
	x.growth = ledger.RunCharges(run, x.rules.Calendar)
	d := x.decide(b)
	d.Run, d.opens = &run, true
	return d
}

// RunDenial is the text for a person whose agent run is not opened; see Denial.
func (d Decision) RunDenial(p *budget.Policy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "the agent run was not opened: %s (%s)\n", d.headline(p), d.Reason)
	d.explain(&b, p)
	return strings.TrimRight(b.String(), "\n")
}

// capsText is what a run may use: "25.00 USD, 8 GPU-hours".
func capsText(p *budget.Policy, run ledger.Run) string {
	texts := make([]string, 0, len(run.Caps))
	for _, d := range run.Capped() {
		texts = append(texts, format(p, d, run.Caps[d]))
	}
	return strings.Join(texts, ", ")
}
