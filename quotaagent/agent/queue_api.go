package agent

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/queue"
)

// QueueView is the queue in its order.
type QueueView struct {
	Time     time.Time    `json:"time"`
	Currency string       `json:"currency"`
	Jobs     []QueuedView `json:"jobs"`
}

// QueuedView is one job that waits for budget.
type QueuedView struct {
	Namespace string `json:"namespace"`
	JobID     string `json:"job_id"`
	Budget    string `json:"budget"`
	// State is registering (on its way to Nomad), waiting, starting, or stopping (a gang
	// that ran in part).
	State string `json:"state"`
	// Position among the Of jobs of its budget, and Overall among all; 0 for a job
	// that starts.
	Position int `json:"position"`
	Of       int `json:"of"`
	Overall  int `json:"overall"`
	// Aged says that it has waited long enough not to be overtaken any more.
	Aged bool `json:"aged,omitempty"`
	// Need is its worst case in words, Estimate in numbers, GPUs how many it holds at
	// once.
	Need      string       `json:"need"`
	Estimate  ledger.Usage `json:"estimate"`
	GPUs      int64        `json:"gpus"`
	Submitter string       `json:"submitter,omitempty"`
	Since     time.Time    `json:"since"`
	// Until is when it is given up; nil for never. Expected is when it is expected
	// to start; nil when that cannot be told. It is approximate: jobs that end before
	// their time make it earlier.
	Until    *time.Time `json:"until,omitempty"`
	Expected *time.Time `json:"expected,omitempty"`
	// Reason is the stable code of why it waits, Detail one sentence.
	Reason string `json:"reason"`
	Detail string `json:"detail"`
}

// judged is a waiting job with its place and what would be decided about it now.
type judged struct {
	queue.Place
	of       int
	decision admission.Decision
	state    admission.State
}

// judge gives every waiting job its place and decides about it as of now. Those
// that have a hold by now come last, without a place.
func (e *Engine) judge(ctx context.Context, p *budget.Policy) ([]judged, error) {
	waiting, err := e.allQueued(ctx)
	if err != nil || len(waiting) == 0 {
		return nil, err
	}
	places, err := e.places(ctx, p, waiting)
	if err != nil {
		return nil, err
	}
	decide, err := e.verdicts(ctx, p, waiting)
	if err != nil {
		return nil, err
	}
	balances, _, err := e.books.allBalances(ctx)
	if err != nil {
		return nil, err
	}
	of, before, placed := make(map[string]int), make(map[string]int), make(map[string]bool)
	for _, place := range places {
		of[place.Queued.Budget]++
	}
	out := make([]judged, 0, len(waiting))
	for _, place := range places {
		q, root := place.Queued, rootOf(place.Queued.Budget)
		placed[keyOf(q)] = true
		j := judged{Place: place, of: of[q.Budget]}
		j.decision, j.state = decide(q, balances, e.now())
		if !blocked(j.decision) && !place.Start && before[root] > 0 {
			j.decision = j.decision.AwaitTurn(before[root])
		}
		j.decision.Turn = &admission.Turn{Position: place.Position, Of: j.of, ExpectedMS: place.ExpectedMS}
		before[root]++
		out = append(out, j)
	}
	for _, q := range waiting {
		if !placed[keyOf(q)] {
			j := judged{Place: queue.Place{Queued: q}}
			j.decision, j.state = decide(q, balances, e.now())
			out = append(out, j)
		}
	}
	return out, nil
}

// Queue lists the jobs that wait in a budget and below it; "" for all.
func (e *Engine) Queue(ctx context.Context, path string) (QueueView, error) {
	p := e.policy.State().Policy
	if path != "" && p.Find(path) == nil {
		return QueueView{}, refusal(http.StatusNotFound, "there is no budget %.200q; `governor budget status` lists all", path)
	}
	jobs, err := e.judge(ctx, p)
	if err != nil {
		return QueueView{}, err
	}
	out := QueueView{Time: e.now().In(p.Location), Currency: p.Currency, Jobs: []QueuedView{}}
	for _, j := range jobs {
		if path == "" || inside(j.Queued.Budget, path) {
			out.Jobs = append(out.Jobs, j.view(p))
		}
	}
	return out, nil
}

func (j judged) view(p *budget.Policy) QueuedView {
	q, d := j.Queued, j.decision
	at := func(ms int64) *time.Time {
		if ms == 0 {
			return nil
		}
		t := time.UnixMilli(ms).In(p.Location)
		return &t
	}
	estimate := admission.Estimate(p, q.Lines)
	v := QueuedView{Namespace: q.Namespace, JobID: q.JobID, Budget: q.Budget, State: "waiting", Position: j.Position, Of: j.of, Overall: j.Overall,
		Aged: j.Aged, Need: admission.Decision{Lines: q.Lines, Estimate: estimate}.Asked(p), Estimate: estimate, GPUs: gpusOf(q.Lines),
		Submitter: q.Accessor, Since: *at(q.SinceMS), Until: at(q.UntilMS), Expected: at(j.ExpectedMS), Reason: string(d.Reason), Detail: d.Cause(p)}
	switch {
	case q.RollbackMS != 0:
		v.State, v.Reason, v.Detail = "stopping", q.Reason, q.Detail
	case j.Overall == 0:
		v.State, v.Reason, v.Detail = "starting", string(admission.Fits), "it has its budget, and Nomad is being told to start it"
	case q.JobModifyIndex == 0:
		v.State = "registering"
	}
	if v.State == "waiting" && !blocked(d) && admission.Reason(q.Reason).ForGPUs() {
		v.Reason, v.Detail, v.Expected = q.Reason, q.Detail, nil // it has its budget, and nobody knows when GPUs get free
		if q.Planned != nil {
			v.Expected = at(q.Planned.StartMS)
		}
		return v
	}
	if v.State == "waiting" && !blocked(d) {
		v.Detail = "it fits, and starts in a moment"
		if q.Reason == string(d.Reason) && q.Detail != "" {
			v.Detail = q.Detail // what kept it from starting lies outside the books
		}
	}
	return v
}

func gpusOf(lines []ledger.Line) int64 {
	n := int64(0)
	for _, line := range lines {
		for _, need := range line.Needs {
			n += need.GPUs * int64(line.Count)
		}
	}
	return n
}

// JobReason is why a job runs, waits, or is being ended.
type JobReason struct {
	Namespace string `json:"namespace"`
	JobID     string `json:"job_id"`
	Budget    string `json:"budget,omitempty"`
	// State is waiting, admitted (nothing of it runs yet), running, ending or unknown.
	State string `json:"state"`
	// Reason is a code of docs/reasons.md; "" where Governor knows nothing.
	Reason string `json:"reason,omitempty"`
	// Text says it with the evidence, for people; it may have several lines.
	Text string `json:"text"`
	// Decisions are the latest about its submissions, the youngest first.
	Decisions []DecisionRow `json:"decisions"`
	// Incomplete says in sentences whose decisions are missing.
	Incomplete []string `json:"incomplete"`
}

// decisionsShown bounds the past decisions of a JobReason.
const decisionsShown = 5

// unknownJob is a job of which the books say nothing.
func unknownJob(namespace, jobID string) JobReason {
	return JobReason{Namespace: namespace, JobID: jobID, State: "unknown", Decisions: []DecisionRow{}, Incomplete: []string{},
		Text: fmt.Sprintf("job %q in namespace %q neither waits for budget nor holds any", jobID, namespace)}
}

// Why explains the state of one job.
func (e *Engine) Why(ctx context.Context, namespace, jobID string) (JobReason, error) {
	p := e.policy.State().Policy
	out := unknownJob(namespace, jobID)
	waits, hold, err := e.standsOf(ctx, p, namespace, jobID)
	switch {
	case err != nil:
	case waits != nil:
		return e.whyWaiting(p, out, *waits), nil
	case hold != nil:
		return whyHolding(p, out, *hold), nil
	}
	return out, err
}

// standsOf is how a job waits, or else what it holds; both nil for neither.
func (e *Engine) standsOf(ctx context.Context, p *budget.Policy, namespace, jobID string) (*judged, *ledger.Hold, error) {
	jobs, err := e.judge(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	for _, j := range jobs {
		if q := j.Queued; q.Namespace == namespace && q.JobID == jobID && j.Overall != 0 {
			return &j, nil, nil
		}
	}
	hold, err := e.books.readHold(ctx, holdKey(namespace, jobID))
	return nil, hold.Hold, err
}

func (e *Engine) whyWaiting(p *budget.Policy, out JobReason, j judged) JobReason {
	view, d, ask := j.view(p), j.decision, askOf(j.Queued)
	out.State, out.Budget, out.Reason = "waiting", view.Budget, view.Reason
	if !blocked(d) {
		what := "budget"
		if admission.Reason(view.Reason).ForGPUs() {
			what = "GPUs"
		}
		out.Text = fmt.Sprintf("job %q in namespace %q waits for %s: %s (%s)", j.Queued.JobID, j.Queued.Namespace, what, view.Detail, view.Reason)
		return out
	}
	if b := p.Find(j.Queued.Budget); b != nil {
		before := ledger.Hold{Namespace: j.Queued.Namespace, JobID: j.Queued.JobID, Budget: b.Path, Run: j.Queued.Run, State: ledger.Held}
		d.Alternatives = admission.Alternatives(p, b, j.state, ask, before, d, e.now())
	}
	out.Text = strings.TrimPrefix(d.Waits(p, ask), "governor: ")
	return out
}

// askOf is what a queued job asked for, as far as its document says.
func askOf(q ledger.Queued) jobspec.Ask {
	f := q.Facts
	ask := jobspec.Ask{Namespace: q.Namespace, JobID: q.JobID, Name: f.Name, Region: f.Region, Type: f.Type, NodePool: f.NodePool,
		Priority: f.Priority, Datacenters: f.Datacenters, Meta: f.Meta}
	for _, line := range q.Lines {
		g := jobspec.GroupAsk{Name: line.Group, Count: line.Count}
		for i, d := range f.Devices {
			if d.Group == line.Group {
				g.Devices = append(g.Devices, jobspec.DeviceAsk{Task: d.Task, Index: i, Name: d.Name, Count: d.Count})
			}
		}
		ask.Groups = append(ask.Groups, g)
	}
	return ask
}

func whyHolding(p *budget.Policy, out JobReason, h ledger.Hold) JobReason {
	out.State, out.Budget, out.Reason = "running", h.Budget, string(admission.Fits)
	held := heldNow(h)
	money := func(u ledger.Usage, time string) string {
		return fmt.Sprintf("%s, %s", time, budget.Cost.Format(u.Cost, p.Currency))
	}
	hours := func(u ledger.Usage) string {
		return budget.GPUTime(budget.AnyClass).Format(u.GPUTime[budget.AnyClass], p.Currency)
	}
	posted := budget.GPUTime(budget.AnyClass).Format(h.Posted.Total(), p.Currency)
	rest := fmt.Sprintf("it was admitted with at most %s from budget %s; used %s; still held %s",
		money(h.Estimate, hours(h.Estimate)), h.Budget, money(h.Posted, posted), money(held, hours(held)))
	first := "runs"
	switch {
	case h.Ending != nil:
		out.State, out.Reason = "ending", h.Ending.Cause
		first = fmt.Sprintf("is being ended (%s) by the rule of budget %s (%s)", h.Ending.Action, h.Ending.Budget, h.Ending.Cause)
	case len(h.Live()) == 0:
		out.State, first = "admitted", "has its budget, and nothing of it runs: `nomad job status` says what Nomad waits for"
		if h.State == ledger.Held {
			first = "has its budget, and is on its way to Nomad"
		}
	}
	out.Text = fmt.Sprintf("job %q in namespace %q %s\n  %-11s %s", h.JobID, h.Namespace, first, "budget", rest)
	return out
}

func (a *Agent) serveQueue(ctx context.Context, c api.Call) (any, error) {
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	view, err := a.Engine.Queue(ctx, c.Query("budget"))
	view.Jobs = keep(s, view.Jobs, func(q *QueuedView) string { return q.Namespace })
	return view, err
}

func (a *Agent) serveWhy(ctx context.Context, c api.Call) (any, error) {
	namespace, jobID := jobOf(c)
	if jobID == "" {
		return nil, refusal(http.StatusBadRequest, "name the job in the query: ?job=<id>&namespace=<namespace>")
	}
	if err := a.mustRead(c, namespace); err != nil {
		return nil, err
	}
	why, err := a.Engine.Why(ctx, namespace, jobID)
	if err != nil {
		return nil, err
	}
	if a.history == nil {
		return why, nil
	}
	found, err := a.allDecisions(ctx, history.DecisionQuery{Namespace: namespace, Job: jobID, Limit: decisionsShown}, nil, c.Request().Header)
	why.Decisions, why.Incomplete = found.Decisions, found.Incomplete
	return why, err
}
