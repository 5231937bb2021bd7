package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
)

// PlanEffect says what applying a policy would change.
type PlanEffect struct {
	// Diagnostics are warnings of the new files.
	Diagnostics string `json:"diagnostics,omitempty"`
	// Refused says why the files cannot be applied although they are valid: each
	// is a sentence that begins with file and line. Empty when they can.
	Refused []string `json:"refused"`
	// Changes are the settings that differ.
	Changes []budget.Change `json:"changes"`
	// Effects are what the changes would do to running and waiting work.
	Effects []Effect `json:"effects"`
	// Same says that the files are those in force, letter by letter.
	Same bool `json:"same"`
	// Version is what the apply must name.
	Version string `json:"version"`
}

// Effect is one thing that a policy would do to running or waiting work.
type Effect struct {
	// Kind is over, moved, other_budget, orphaned, price, would_start, never_fits or
	// unclaimed.
	Kind   string `json:"kind"`
	Budget string `json:"budget,omitempty"`
	// Job is "namespace/id".
	Job string `json:"job,omitempty"`
	// Text is one sentence for people.
	Text string `json:"text"`
}

// Plan compares files with the policy in force and says what applying them
// would do to the settings, to running work and to the queue, as somebody may see it.
func (e *Engine) Plan(ctx context.Context, files []budgetspec.File, sees clearance) (PlanEffect, error) {
	files, err := checkUpload(files)
	if err != nil {
		return PlanEffect{}, err
	}
	next, diags := budgetspec.Parse(files)
	if diags.HasErrors() {
		return PlanEffect{}, &DiagnosticsError{Text: renderDiagnostics(files, diags)}
	}
	state := e.policy.State()
	effect := PlanEffect{Changes: budget.Compare(state.Policy, next), Version: state.Version,
		Same: state.Broken == "" && next.Revision == state.Policy.Revision, Refused: []string{}}
	for _, r := range budget.Retroactive(state.Policy, next, e.now()) {
		effect.Refused = append(effect.Refused, r.String())
	}
	if len(diags) > 0 {
		effect.Diagnostics = renderDiagnostics(files, diags)
	}
	planner, err := e.planner(ctx, state.Policy, next)
	if err != nil {
		return PlanEffect{}, err
	}
	planner.sees = sees
	effect.Effects = slices.Concat([]Effect{}, planner.moves(), planner.over(), planner.holdings(), planner.prices(), planner.waiting())
	return effect, nil
}

// planner knows two policies and the state of the ledger, as it would be after
// the moves of the new one.
type planner struct {
	old, next *budget.Policy
	now       time.Time
	holds     []heldAt
	queued    []ledger.Queued
	grants    []ledger.Grant
	balances  map[string]ledger.Balance
	rules     *admission.Rules
	// sees says which jobs are named.
	sees clearance
}

func (e *Engine) planner(ctx context.Context, old, next *budget.Policy) (*planner, error) {
	pl := &planner{old: old, next: next, now: e.now(), rules: admission.RulesOf(next)}
	holds, unreadable, err := e.books.holds(ctx)
	if err != nil {
		return nil, err
	}
	if unreadable != nil {
		e.logger.Error("holds left out of a plan", "error", unreadable)
	}
	balances, _, err := e.books.allBalances(ctx)
	if err != nil {
		return nil, err
	}
	if pl.queued, err = e.allQueued(ctx); err != nil {
		return nil, err
	}
	if pl.grants, err = e.grants(ctx); err != nil {
		return nil, err
	}
	pl.holds, pl.balances = holds, ledger.MoveBalances(balances, next.Moved)
	return pl, nil
}

// allQueued lists the jobs that wait, by namespace and id.
func (e *Engine) allQueued(ctx context.Context) ([]ledger.Queued, error) {
	records, _, err := e.books.store.List(ctx, queuePrefix)
	if err != nil {
		return nil, fmt.Errorf("list queue: %w", err)
	}
	var out []ledger.Queued
	for _, r := range records {
		q, err := ledger.Decode[ledger.Queued](r.Value)
		if err != nil {
			e.logger.Error("queued job left out of a plan", "key", r.Key, "error", err)
			continue
		}
		out = append(out, q)
	}
	slices.SortFunc(out, func(a, b ledger.Queued) int {
		return strings.Compare(a.Namespace+"\x00"+a.JobID, b.Namespace+"\x00"+b.JobID)
	})
	return out, nil
}

// moves are the budgets whose path changes and that have something to move.
func (pl *planner) moves() []Effect {
	var out []Effect
	for _, m := range pl.next.Moves {
		jobs := 0
		for _, h := range pl.holds {
			if inside(h.Budget, m.From) && pl.next.Moved(h.Budget) != h.Budget {
				jobs++
			}
		}
		if jobs > 0 {
			out = append(out, Effect{Kind: "moved", Budget: m.From, Text: fmt.Sprintf("%s becomes %s: %s and what was used move with it", m.From, pl.next.Moved(m.From), plural(jobs, "running job"))})
		}
	}
	return out
}

func inside(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

// over are the limits that holds and usage exceed at once, and what the budget's
// rule would do to which jobs.
func (pl *planner) over() []Effect {
	var out []Effect
	pl.next.Walk(func(b *budget.Budget) {
		for _, s := range ledger.Standings(pl.next, b, pl.balances[b.Path], pl.grants, ledger.CohortOf(pl.next, b, pl.balances), pl.now) {
			limit, finite := s.Limit.Total().Finite()
			d := s.Limit.Dimension
			short := s.Posted.Add(s.Held).Sub(limit)
			if !finite || short <= 0 {
				continue
			}
			text := fmt.Sprintf("%s: %s %s would be over by %s (%s used, %s held, limit %s); new work is %s, and running work %s", b.Path, s.Limit.Window,
				d.Name(), d.Format(short, pl.next.Currency), d.Number(s.Posted), d.Number(s.Held), d.Number(limit), admitText(b.EffectiveAdmit()), pl.runningText(b, s))
			out = append(out, Effect{Kind: "over", Budget: b.Path, Text: text})
		}
	})
	return out
}

func admitText(a budget.Admit) string {
	switch a {
	case budget.AdmitWarn:
		return "admitted with a warning"
	case budget.AdmitQueue:
		return "queued"
	case budget.AdmitDeny, budget.AdmitInherit:
	}
	return "refused"
}

// jobsShown bounds the jobs that a sentence names.
const jobsShown = 10

// runningText says what becomes of the running work of a budget.
func (pl *planner) runningText(b *budget.Budget, s ledger.Standing) string {
	var jobs []string
	for _, h := range pl.holds {
		if inside(pl.next.Moved(h.Budget), b.Path) && len(h.Live()) > 0 {
			jobs = append(jobs, pl.sees.named(h.Namespace, h.JobID))
		}
	}
	named := ""
	if len(jobs) > 0 {
		named = ": " + listText(jobs)
	}
	if s.Excess() <= 0 {
		return "goes on, for what is used is within the limit" + named
	}
	switch b.EffectiveRunning() {
	case budget.ThrottleRunning:
		return fmt.Sprintf("is throttled (%s), the lowest priority and the newest first%s", b.EffectiveThrottle(), named)
	case budget.StopRunning:
		return fmt.Sprintf("is stopped (%s), the lowest priority and the newest first, until what runs fits%s", b.EffectiveStop(), named)
	case budget.LetFinish, budget.RunningInherit:
	}
	return "goes on to its end" + named
}

func listText(items []string) string {
	if len(items) <= jobsShown {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:jobsShown], ", "), len(items)-jobsShown)
}

// holdings are the jobs whose budget would be gone, or that another budget would
// claim if they were submitted again.
func (pl *planner) holdings() []Effect {
	var out []Effect
	for _, h := range pl.holds {
		job, path := pl.sees.named(h.Namespace, h.JobID), pl.next.Moved(h.Budget)
		if pl.next.Find(path) == nil {
			out = append(out, Effect{Kind: "orphaned", Budget: h.Budget, Job: job, Text: fmt.Sprintf("%s holds budget %s, which would be gone; its hold stays there until it ends", job, h.Budget)})
			continue
		}
		facts := h.Facts
		facts.ID, facts.Namespace = h.JobID, h.Namespace
		before, _ := pl.claim(pl.old, facts, h.Accessor, h.Identity)
		after, why := pl.claim(pl.next, facts, h.Accessor, h.Identity)
		switch {
		case pl.next.Moved(before) == after || after == path:
		case after == "":
			out = append(out, Effect{Kind: "unclaimed", Budget: path, Job: job, Text: fmt.Sprintf("%s keeps its hold on %s, but if it is submitted again %s", job, path, why)})
		default:
			out = append(out, Effect{Kind: "other_budget", Budget: after, Job: job, Text: fmt.Sprintf("%s holds budget %s; if it is submitted again it draws from %s", job, path, after)})
		}
	}
	return out
}

// claim is the path of the budget that would claim a job, or "" and why none does.
func (pl *planner) claim(p *budget.Policy, job budget.JobFacts, accessor string, names []string) (path, why string) {
	b, result := p.Claim(budget.Facts{Now: pl.now, Job: job, Submitter: budget.SubmitterFacts{Accessor: accessor, Names: names},
		Request: budget.RequestFacts{Kind: "register"}, Schedules: p.SchedulesAt(pl.now)}, job.Meta[admission.BudgetMeta])
	switch result.Outcome {
	case budget.Claimed:
		return b.Path, ""
	case budget.Ambiguous:
		return "", "several budgets claim it: " + strings.Join(result.Candidates, ", ")
	case budget.NarrowRefused:
		return "", fmt.Sprintf("it may not draw from %s, which it names", result.Narrow)
	case budget.MatchFailed:
		return "", fmt.Sprintf("the match rule of %s cannot be decided for it: %s", result.Failed, result.Error)
	case budget.Unclaimed:
	}
	if p.Unmatched == budget.UnmatchedAllow {
		return "", "no budget claims it, and it runs ungoverned"
	}
	return "", "no budget claims it, and it is refused"
}

// prices are the running jobs whose GPUs would cost something else, now or until
// the end of what they hold.
func (pl *planner) prices() []Effect {
	var out []Effect
	for _, h := range pl.holds {
		until := pl.now
		for _, line := range h.Lines {
			until = latest(until, pl.now.Add(time.Duration(line.RuntimeMS)*time.Millisecond))
		}
		classes := map[string]bool{}
		for _, t := range h.Live() {
			for _, g := range t.GPUs {
				classes[g.Class] = true
			}
		}
		for _, class := range slices.Sorted(maps.Keys(classes)) {
			was, priced := metering.DearestRate(pl.old, class, h.Facts, pl.now, until)
			is, stays := metering.DearestRate(pl.next, class, h.Facts, pl.now, until)
			if was == is && priced == stays {
				continue
			}
			job, becomes := pl.sees.named(h.Namespace, h.JobID), "have no price"
			if stays {
				becomes = "cost at most " + budget.Cost.Format(is, pl.next.Currency) + " per GPU-hour"
			}
			before := "no price"
			if priced {
				before = budget.Cost.Format(was, pl.old.Currency)
			}
			out = append(out, Effect{Kind: "price", Budget: h.Budget, Job: job, Text: fmt.Sprintf("%s: its %s GPUs would %s (before: %s)", job, class, becomes, before)})
		}
	}
	return out
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// waiting are the queued jobs that would start, could never start, or would have
// no budget.
func (pl *planner) waiting() []Effect {
	var out []Effect
	for _, q := range pl.queued {
		job := pl.sees.named(q.Namespace, q.JobID)
		facts := q.Facts
		facts.ID, facts.Namespace = q.JobID, q.Namespace
		path, why := pl.claim(pl.next, facts, q.Accessor, q.Identity)
		if path == "" {
			out = append(out, Effect{Kind: "unclaimed", Budget: q.Budget, Job: job, Text: fmt.Sprintf("%s waits for %s, but %s", job, q.Budget, why)})
			continue
		}
		hold := ledger.Submit(ledger.Hold{Namespace: q.Namespace, JobID: q.JobID, Budget: path, State: ledger.Held, Facts: q.Facts}, q.Lines, pl.now.UnixMilli())
		d := pl.decide(pl.next.Find(path), hold, q.Lines)
		switch {
		case d.Outcome == admission.Admit || d.Outcome == admission.Warn && !d.Shadow:
			out = append(out, Effect{Kind: "would_start", Budget: path, Job: job, Text: fmt.Sprintf("%s waits and would now fit budget %s", job, path)})
		case d.Reason == admission.ExceedsBudget || d.Reason == admission.ExceedsJobCap:
			out = append(out, Effect{Kind: "never_fits", Budget: path, Job: job, Text: fmt.Sprintf("%s waits and would never fit budget %s (%s)", job, path, d.Reason)})
		}
	}
	return out
}

func (pl *planner) decide(b *budget.Budget, hold ledger.Hold, lines []ledger.Line) admission.Decision {
	return admission.Decide(pl.next, b, admission.State{Balances: pl.balances, Grants: pl.grants, Rules: pl.rules}, hold, lines, pl.now)
}
