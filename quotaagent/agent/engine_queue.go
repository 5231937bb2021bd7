package agent

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/queue"
)

// A job that does not fit now, and whose budget says admit = "queue", is
// registered with a gate constraint (jobspec.Gate) and gets a document in the
// queue. What Nomad has and the document relate like a hold and its job:
//
//	committed, on its way       JobModifyIndex 0 (or that of the submission before), ExpiresMS set
//	waiting                     JobModifyIndex of the gated registration, ExpiresMS 0
//	leaving (see releaser)      ReleasingMS set, and a hold beside it
//	taken back (see gangs)      RollbackMS set, and a hold until nothing of it runs
//
// The document goes when Nomad's job is not gated any more, or gone. Nothing is
// charged for it. Its need only decides about the order: when the job is released,
// everything is read from the job that Nomad has.

// lineFor is how long the list of waiting jobs is believed. It only decides whether
// a new job lets others go first: what others queue meanwhile it may overtake.
const lineFor = time.Second

// line remembers which jobs wait.
type line struct {
	mu   sync.Mutex
	at   time.Time
	jobs []ledger.Queued
	good bool
	// plans is how often the places may be computed for submissions.
	plans pace
}

// lineShort is how many waiting jobs are planned for every submission, however long the
// last plan took.
const lineShort = 16

// plan reports whether the places of so many jobs may be computed now.
func (l *line) plan(waiting int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return waiting <= lineShort || l.plans.due()
}

func (l *line) planned(begin time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plans = measure(begin)
}

// changed makes the next look at the line read the store.
func (l *line) changed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.good = false
}

// waitingJobs lists the jobs that wait, not older than lineFor.
func (e *Engine) waitingJobs(ctx context.Context) ([]ledger.Queued, error) {
	e.line.mu.Lock()
	defer e.line.mu.Unlock()
	if now := e.now(); e.line.good && now.Sub(e.line.at).Abs() < lineFor {
		return e.line.jobs, nil
	}
	jobs, err := e.allQueued(ctx)
	if err != nil {
		return nil, err
	}
	e.line.jobs, e.line.at, e.line.good = jobs, e.now(), true
	return jobs, nil
}

// places gives every waiting job its place, with the books as they are now. Jobs
// that have a hold by now are left out: they wait for Nomad only.
func (e *Engine) places(ctx context.Context, p *budget.Policy, waiting []ledger.Queued) ([]queue.Place, error) {
	open, unreadable, err := e.books.holds(ctx)
	if err != nil {
		return nil, err
	}
	if unreadable != nil {
		e.logger.Error("holds left out of the queue's plan", "error", unreadable)
	}
	in := queue.Input{Policy: p, Now: e.now()}
	holding := make(map[string]bool, len(open))
	for _, h := range open {
		hold := *h.Hold
		hold.Budget = p.Moved(hold.Budget)
		in.Holds = append(in.Holds, hold)
		holding[h.JobKey()] = true
	}
	for _, q := range waiting {
		if q.ReleasingMS == 0 && q.RollbackMS == 0 && !holding[q.Namespace+"\x00"+q.JobID] {
			q.Budget = p.Moved(q.Budget)
			in.Waiting = append(in.Waiting, q)
		}
	}
	if in.Books, _, err = e.books.allBalances(ctx); err != nil {
		return nil, err
	}
	in.Books = ledger.MoveBalances(in.Books, p.Moved)
	in.Use = shares(p, in)
	if in.Fits, err = e.fits(ctx, p, in.Waiting); err != nil {
		return nil, err
	}
	return queue.Plan(in), nil
}

// shares is what counts as used for the fair share of each budget: past use, and
// what is promised to running work, which is as good as used.
func shares(p *budget.Policy, in queue.Input) queue.Use {
	use, fair := make(queue.Use), false
	p.Walk(func(b *budget.Budget) {
		use[b.Path] = in.Books[b.Path].Use.At(in.Now, b.EffectiveHalfLife())
		fair = fair || b.EffectiveQueue().Order == budget.ByFairShare
	})
	if !fair {
		return nil
	}
	for _, h := range in.Holds {
		promised := heldNow(h).GPUTime[budget.AnyClass]
		for _, path := range ledger.Ancestors(h.Budget) {
			use[path] = use[path].Add(promised)
		}
	}
	return use
}

// fits reports of waiting jobs whether admission would let them run.
func (e *Engine) fits(ctx context.Context, p *budget.Policy, waiting []ledger.Queued) (queue.Fits, error) {
	decide, err := e.verdicts(ctx, p, waiting)
	if err != nil {
		return nil, err
	}
	return func(q ledger.Queued, books queue.Books, at time.Time) bool {
		d, _ := decide(q, books, at)
		return !blocked(d)
	}, nil
}

// verdicts decides about waiting jobs as admission would, with books and at a time
// of the caller's choice.
func (e *Engine) verdicts(ctx context.Context, p *budget.Policy, waiting []ledger.Queued) (func(q ledger.Queued, books queue.Books, at time.Time) (admission.Decision, admission.State), error) {
	grants, err := e.grants(ctx)
	if err != nil {
		return nil, err
	}
	runs := make(map[string]ledger.Run)
	if slices.ContainsFunc(waiting, func(q ledger.Queued) bool { return q.Run != "" }) {
		all, err := e.books.allRuns(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			runs[r.ID] = r.Run
		}
	}
	rules := e.rulesOf(p)
	return func(q ledger.Queued, books queue.Books, at time.Time) (admission.Decision, admission.State) {
		h, state := queue.Hold(q), admission.State{Balances: books, Grants: grants, Rules: rules, Accessor: q.Accessor}
		b := p.Find(p.Moved(q.Budget))
		if b == nil {
			return admission.Refuse(p, nil, admission.Refusal{Reason: admission.Unmatched, Fact: fmt.Sprintf("its budget %s is gone", q.Budget),
				Remedy: "submit it again, or stop it"}), state
		}
		if q.Run != "" {
			run, open := runs[q.Run]
			if !open {
				return admission.Refuse(p, b, admission.Refusal{Reason: admission.RunRequired, Fact: fmt.Sprintf("there is no agent run %.80q any more", q.Run),
					Remedy: "submit it again in an open run, or stop it"}), state
			}
			state.Run, h.Capped = &run, run.Capped()
		}
		return admission.Decide(p, b, state, h, q.Lines, at), state
	}, nil
}

// standing is where a submission would stand among the jobs that wait.
type standing struct {
	queue.Place
	// before is how many of those that come first draw from the same tree.
	before int
	of     int
	// rough says that it was not planned.
	rough bool
}

// turn is the admission package's word for it.
func (s *standing) turn() *admission.Turn {
	if s == nil {
		return nil
	}
	return &admission.Turn{Position: s.Position, Of: s.of, ExpectedMS: s.ExpectedMS, Rough: s.rough}
}

// standingOf gives a submission its place among those that wait; nil when nobody
// else does.
func (e *Engine) standingOf(ctx context.Context, p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line) (*standing, error) {
	waiting, err := e.waitingJobs(ctx)
	if err != nil {
		return nil, err
	}
	var own *ledger.Queued
	others := make([]ledger.Queued, 0, len(waiting)+1)
	for _, q := range waiting {
		if q.Namespace == s.Ask.Namespace && q.JobID == s.Ask.JobID {
			own = &q
			continue
		}
		others = append(others, q)
	}
	if len(others) == 0 {
		return nil, nil
	}
	mine := e.queuedAs(p, b, s, lines, admission.Decision{}, own)
	if !e.line.plan(len(others)) {
		return behind(others, mine), nil
	}
	begin := time.Now()
	at, err := e.standingAmong(ctx, p, others, mine)
	e.line.planned(begin)
	return at, err
}

// behind is the place at the end of the line, for when a long queue has kept this
// agent busy enough: the leader starts the job soon if nobody needs to go first.
func behind(others []ledger.Queued, mine ledger.Queued) *standing {
	at := &standing{Place: queue.Place{Queued: mine, Position: 1, Overall: len(others) + 1}, of: 1, rough: true}
	for _, q := range others {
		if q.ReleasingMS != 0 || q.RollbackMS != 0 {
			continue
		}
		if rootOf(q.Budget) == rootOf(mine.Budget) {
			at.before++
		}
		if q.Budget == mine.Budget {
			at.Position, at.of = at.Position+1, at.of+1
		}
	}
	return at
}

func (e *Engine) standingAmong(ctx context.Context, p *budget.Policy, others []ledger.Queued, mine ledger.Queued) (*standing, error) {
	places, err := e.places(ctx, p, append(others, mine))
	if err != nil {
		return nil, err
	}
	out, before := (*standing)(nil), 0
	for _, place := range places {
		switch q := place.Queued; {
		case q.Namespace == mine.Namespace && q.JobID == mine.JobID:
			out = &standing{Place: place, before: before}
		case rootOf(q.Budget) == rootOf(mine.Budget):
			before++
		}
	}
	if out != nil {
		for _, place := range places {
			if place.Queued.Budget == out.Queued.Budget {
				out.of++
			}
		}
	}
	return out, nil
}

func rootOf(path string) string {
	root, _, _ := strings.Cut(path, "/")
	return root
}

// queued applies the rules of the queue to a decision: a job that fits waits for
// its turn if it would delay others, a gang until all of it fits, another while the GPUs
// that it could have are set aside for a gang, and one that would wait is refused if it
// may not.
func (e *Engine) queued(p *budget.Policy, b *budget.Budget, s gate.Submission, v view, at *standing, d admission.Decision, placed Placement) admission.Decision {
	enforced := p.Enforcement != budget.Shadow && b.EffectiveLevel() != budget.Advisory && b.EffectiveAdmit() != budget.AdmitWarn
	overruled := s.PolicyOverride && len(d.Overrides) > 0
	if !blocked(d) && enforced && !overruled && at != nil && at.before > 0 && !at.Start && !running(s, v) {
		d = d.AwaitTurn(at.before)
	}
	switch gang := admission.IsGang(s.Ask.Meta); {
	case blocked(d) || placed.Waits == "" || running(s, v):
	case gang:
		d = d.AwaitGang(placed.Waits)
	case enforced && !overruled:
		d = d.AwaitPlanned(placed.Waits)
	}
	if d.Outcome != admission.Queue {
		return d
	}
	switch {
	case b.EffectiveAdmit() != budget.AdmitQueue && d.Reason == admission.WaitingTurn:
		return d.Unqueued("jobs of this budget do not wait")
	case !e.releases:
		return d.Unqueued("this agent cannot start it later")
	case !admission.MayWait(s.Ask):
		return d.Unqueued("meta " + admission.QueueMeta + ` = "no" says so`)
	case s.Kind.Launches() || s.Kind.Commits() && s.Kind != gate.Register:
		return d.Unqueued("only a job that is run can wait, not a " + s.Kind.String() + " of one that is registered")
	case running(s, v):
		return d.Unqueued("the job runs, or is about to: to wait it would have to be stopped")
	}
	return d
}

// running reports whether the job of a submission runs, or may start at any
// moment: the change of such a job never waits, for Nomad would stop what runs.
func running(s gate.Submission, v view) bool {
	if v.hold.Hold != nil && v.hold.Pending != nil {
		return true
	}
	return !idle(s.Stored)
}

// queueTicket is what a queued submission needs to settle itself later.
type queueTicket struct {
	before *ledger.Queued
	mine   ledger.Queued
}

// queuedAs is the document of a job that is to wait. was is the one that it has
// already: a submission that needs no more keeps its place.
func (e *Engine) queuedAs(p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line, d admission.Decision, was *ledger.Queued) ledger.Queued {
	now := e.now()
	q := ledger.Queued{Namespace: s.Ask.Namespace, JobID: s.Ask.JobID, Budget: b.Path, Accessor: s.Identity.Accessor, Identity: s.Identity.Names,
		SinceMS: now.UnixMilli(), Priority: s.Ask.Priority, Lines: lines, Facts: s.Ask.Facts(), Run: s.Ask.Meta[admission.RunMeta],
		ExpiresMS: now.Add(confirmWithin).UnixMilli(), Reason: string(d.Reason), Detail: d.Cause(p)}
	if was != nil {
		q.JobModifyIndex = was.JobModifyIndex
		if !grown(was.Lines, lines, e.rulesOf(p).Calendar) {
			q.SinceMS = was.SinceMS
		}
	}
	if timeout := b.EffectiveQueue().Timeout; timeout > 0 {
		q.UntilMS = q.SinceMS + quantity.Millis(timeout)
	}
	return q
}

// grown reports whether some amount of a need is larger than before.
func grown(was, is []ledger.Line, cal ledger.Calendar) bool {
	charges := func(lines []ledger.Line) ledger.Vector {
		return ledger.Charges(queue.Hold(ledger.Queued{Lines: lines}), cal)
	}
	for more := range charges(is).Minus(charges(was)).All() {
		if more.Amount > 0 {
			return true
		}
	}
	return false
}

// waits is the verdict for a job that was queued.
func (e *Engine) waits(ctx context.Context, p *budget.Policy, b *budget.Budget, s gate.Submission, t queueTicket, at *standing, d admission.Decision) gate.Verdict {
	e.line.changed()
	d = e.advise(ctx, p, b, s, d)
	if d.Turn = at.turn(); at == nil {
		d.Turn = e.turnOf(ctx, p, t.mine)
	}
	e.log(s, d)
	return gate.Verdict{Reason: string(d.Reason), Patch: gateOf(s, b, d.Reason), Warnings: []string{d.Waits(p, s.Ask)},
		Settle: func(ctx context.Context, o gate.Outcome) { e.settleQueued(ctx, s, t, o) }}
}

// wouldWait is the verdict for a submission without effect of a job that would be
// queued.
func (e *Engine) wouldWait(ctx context.Context, p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line, was *ledger.Queued, at *standing, d admission.Decision, placed Placement) gate.Verdict {
	d = e.advise(ctx, p, b, s, d)
	if d.Turn = at.turn(); at == nil {
		d.Turn = e.turnOf(ctx, p, e.queuedAs(p, b, s, lines, d, was))
	}
	e.log(s, d)
	return gate.Verdict{Reason: string(d.Reason), Patch: gateOf(s, b, d.Reason), Warnings: []string{d.WouldWait(p, s.Ask)}, Account: accountOf(p, s, d, placed)}
}

// gateOf keeps a job from starting. The text depends on nothing but the budget and for
// what it waits, so that the same job submitted again is no new version for Nomad.
func gateOf(s gate.Submission, b *budget.Budget, why admission.Reason) jobspec.Patch {
	if why == admission.GangWaits {
		return jobspec.Gate(s.Job, gangText(s.Ask)+" waits until all of it fits at once")
	}
	if why == admission.PlannedForGang {
		return jobspec.Gate(s.Job, "waits for GPUs that are set aside for a gang")
	}
	return jobspec.Gate(s.Job, "waits for budget "+b.Path)
}

// turnOf is the place of a job in the queue as it is now. The verdict stands
// without it.
func (e *Engine) turnOf(ctx context.Context, p *budget.Policy, mine ledger.Queued) *admission.Turn {
	waiting, err := e.waitingJobs(ctx)
	if err == nil {
		others := slices.DeleteFunc(slices.Clone(waiting), func(q ledger.Queued) bool { return q.Namespace == mine.Namespace && q.JobID == mine.JobID })
		if !e.line.plan(len(others)) {
			return behind(others, mine).turn()
		}
		var at *standing
		begin := time.Now()
		at, err = e.standingAmong(ctx, p, others, mine)
		e.line.planned(begin)
		if err == nil {
			return at.turn()
		}
	}
	e.logger.Warn("place in the queue not computed", "namespace", mine.Namespace, "job_id", mine.JobID, "error", err)
	return nil
}

// settleQueued ends a queued submission: it waits from now on, or Nomad refused
// it and what was before is put back. A lost answer is left to the leader.
func (e *Engine) settleQueued(ctx context.Context, s gate.Submission, t queueTicket, o gate.Outcome) {
	defer e.settled(s.Ask.Namespace, s.Ask.JobID)
	defer e.line.changed()
	if !o.Known {
		e.logger.Warn("answer lost, reconciling", "job_id", s.Ask.JobID, "namespace", s.Ask.Namespace)
		return
	}
	err := e.books.update(ctx, ledger.Fence{}, target{key: holdKey(s.Ask.Namespace, s.Ask.JobID), budget: t.mine.Budget, calendar: ledger.CalendarOf(e.policy.State().Policy)},
		func(v view) (change, error) {
			want := change{hold: v.hold.Hold}
			switch have := v.queued; {
			case have == nil:
				return change{}, errNoChange
			case o.Accepted && (have.JobModifyIndex > o.JobModifyIndex || have.JobModifyIndex == o.JobModifyIndex && have.ExpiresMS == 0):
				return change{}, errNoChange // a later one was confirmed, or this one was
			case o.Accepted:
				next := t.mine
				next.JobModifyIndex, next.ExpiresMS = o.JobModifyIndex, 0
				want.queued = &next
			case !sameQueued(*have, t.mine):
				return change{}, errNoChange // another submission, or the leader's finding
			case t.before == nil:
				want.unqueue = true
			default:
				want.queued = t.before
			}
			return want, nil
		})
	if err != nil {
		e.logger.Warn("queued submission not settled yet, reconciling", "job_id", s.Ask.JobID, "namespace", s.Ask.Namespace, "error", err)
	}
}

// refuseHeld refuses to start work from a job that waits in a way that leaves no
// room for a decision: Nomad would make it from what is registered, gate and all.
func (e *Engine) refuseHeld(s gate.Submission) gate.Verdict {
	d := admission.Refuse(e.policy.State().Policy, nil, admission.Refusal{Reason: admission.JobWaits,
		Fact:   fmt.Sprintf("the job waits for budget, and a %s of it would too", s.Kind),
		Remedy: "change the job file and run it again (nomad job run); `governor queue list` shows its place"})
	e.log(s, d)
	return gate.Verdict{Denied: true, Reason: string(d.Reason), Message: d.DenialOf(e.policy.State().Policy, s.Ask, done[s.Kind])}
}

func sameQueued(a, b ledger.Queued) bool {
	x, err := ledger.Encode(a)
	y, err2 := ledger.Encode(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}
