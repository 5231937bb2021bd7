package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Estimate is what would become of a job if it were submitted now. Nothing is held
// for it, and no GPUs are spared.
type Estimate struct {
	Namespace string    `json:"namespace"`
	JobID     string    `json:"job_id"`
	Time      time.Time `json:"time"`
	Currency  string    `json:"currency"`
	// Outcome is admit, warn, queue or deny, Reason a code of docs/reasons.md.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
	// Budget that it would draw from; "" where none claims it, or none is needed.
	Budget string `json:"budget,omitempty"`
	// Text is what its author would be told; it may have several lines.
	Text string `json:"text"`
	// Asked is its worst case in words, Need by task group, Cost over all of them: GPU
	// time by class in GPU-milliseconds, cost in micro-units, energy in joules.
	Asked string        `json:"asked,omitempty"`
	Need  []ledger.Line `json:"need"`
	Cost  ledger.Usage  `json:"estimate"`
	// Limits on the way from its budget to the root, each once, in the period that it
	// leaves least of.
	Limits []EstimatedLimit `json:"limits"`
	// Alternatives are other ways to get the work done, the cheapest first.
	Alternatives []string `json:"alternatives"`
	// Placement is where it would run.
	Placement EstimatedPlacement `json:"placement"`
}

// EstimatedLimit is a limit as a job meets it.
type EstimatedLimit struct {
	Budget string `json:"budget"`
	// Kind is limit, cohort (what the other members leave), job or run (a cap of the
	// single job, or of its agent run).
	Kind string `json:"kind"`
	LimitStatus
	// Need is what the job adds to what is held, and After what is left then: below
	// zero is what it lacks.
	Need  quantity.Amount `json:"need"`
	After quantity.Amount `json:"after"`
}

// EstimatedPlacement is what placement says of a job.
type EstimatedPlacement struct {
	// Text is for people, "" where placement says nothing.
	Text string `json:"text"`
	// Nodes is the account of every node (scheduler/place.Explanation); absent where
	// the job was refused before it was placed.
	Nodes json.RawMessage `json:"nodes,omitempty"`
}

// accountOf is a decision as an Estimate; nil unless the submission asks for it.
func accountOf(p *budget.Policy, s gate.Submission, d admission.Decision, placed Placement) any {
	if !s.Explain {
		return nil
	}
	e := Estimate{Outcome: d.Outcome.String(), Reason: string(d.Reason), Need: d.Lines, Cost: d.Estimate,
		Placement: EstimatedPlacement{Text: strings.TrimPrefix(placed.Notice, "governor: placement: "), Nodes: placed.Account}}
	if text := d.LoadingNotice(p, placed.Loads); text != "" {
		e.Placement.Text += "\n" + strings.TrimPrefix(text, "governor: ")
	}
	if d.Budget != nil {
		e.Budget = d.Budget.Path
	}
	if len(d.Lines) > 0 {
		e.Asked = d.Asked(p)
	}
	for _, a := range d.Alternatives {
		e.Alternatives = append(e.Alternatives, a.Text(p))
	}
	e.Limits = tightest(d.Checks)
	return e
}

// tightest is every limit that was checked, each once.
func tightest(checks []admission.Check) []EstimatedLimit {
	type key struct {
		budget, kind, window, dimension string
	}
	var out []EstimatedLimit
	at := make(map[key]int)
	for _, c := range checks {
		l := estimatedLimit(c)
		k := key{l.Budget, l.Kind, l.Window, l.Dimension}
		i, seen := at[k]
		switch {
		case !seen:
			at[k] = len(out)
			out = append(out, l)
		case l.After < out[i].After:
			out[i] = l
		}
	}
	return out
}

var checkKinds = map[admission.CheckKind]string{admission.LimitCheck: "limit", admission.PoolCheck: "cohort", admission.JobCap: "job", admission.RunCap: "run"}

func estimatedLimit(c admission.Check) EstimatedLimit {
	l := EstimatedLimit{Budget: c.Budget.Path, Kind: checkKinds[c.Kind], Need: c.Need, After: -c.ShortBy(), LimitStatus: LimitStatus{
		Window: c.Window.String(), Dimension: string(c.Dimension), Limit: c.Limit, Posted: c.Posted, Held: c.Held, Available: c.Available(), Source: c.Source.String()}}
	if c.Kind == admission.JobCap {
		l.Window = "job"
	}
	if !c.Period.Start.IsZero() {
		l.Start, l.End = &c.Period.Start, &c.Period.End
	}
	return l
}

// account completes the account of a verdict; it makes one for a verdict that no
// decision stands behind.
func (e *Engine) account(ctx context.Context, s gate.Submission, v gate.Verdict) (any, error) {
	p := e.policy.State().Policy
	out, _ := v.Account.(Estimate)
	out.Namespace, out.JobID, out.Time, out.Currency = s.Ask.Namespace, s.Ask.JobID, e.now().In(p.Location), p.Currency
	texts := slices.Clone(v.Warnings)
	if v.Denied {
		texts = append([]string{v.Message}, texts...)
	}
	for i := range texts {
		texts[i] = strings.TrimPrefix(texts[i], "governor: ")
	}
	texts = slices.DeleteFunc(texts, func(text string) bool { // what placement says stands there
		return strings.Contains(out.Placement.Text, strings.TrimPrefix(text, "placement: "))
	})
	out.Text = strings.Join(texts, "\n")
	if out.Text == "" && s.Ask.GPUs() == 0 {
		out.Text = "the job asks for no GPUs: it needs no budget, and Nomad places it"
	}
	out.Outcome, out.Reason = cmp.Or(out.Outcome, admission.Admit.String()), cmp.Or(out.Reason, v.Reason)
	if out.Budget != "" && len(out.Limits) == 0 {
		var err error
		if out.Limits, err = e.standingLimits(ctx, p, out.Budget); err != nil {
			return nil, err
		}
	}
	if out.Need == nil {
		out.Need = []ledger.Line{}
	}
	if out.Limits == nil {
		out.Limits = []EstimatedLimit{}
	}
	if out.Alternatives == nil {
		out.Alternatives = []string{}
	}
	return out, nil
}

// standingLimits are the limits above a job that was refused before they were looked
// at, without what it needs of them.
func (e *Engine) standingLimits(ctx context.Context, p *budget.Policy, path string) ([]EstimatedLimit, error) {
	balances, _, err := e.books.allBalances(ctx)
	if err != nil {
		return nil, err
	}
	var out []EstimatedLimit
	for b := p.Find(path); b != nil; b = b.Parent {
		for _, l := range budgetStatus(p, b, balances[b.Path], e.now()).Limits {
			if !l.Unlimited {
				out = append(out, EstimatedLimit{Budget: b.Path, Kind: "limit", LimitStatus: l, After: l.Available})
			}
		}
	}
	return out, nil
}
