package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
	"github.com/nomad-governor/governor/quotaagent/queue"
)

// registrar registers jobs with the agent's own token; *nomadctl.Client is one.
type registrar interface {
	JobSpec(ctx context.Context, namespace, jobID string) (nomadctl.Spec, error)
	Register(ctx context.Context, r nomadctl.Registration) (uint64, error)
	// ACLs reports whether Nomad checks tokens.
	ACLs(ctx context.Context) (bool, error)
	// JobsIndex is Nomad's index of the last change of any job.
	JobsIndex(ctx context.Context) (uint64, error)
}

// releaser is the leader's work on the queue: it keeps the documents in line with
// what Nomad has, and starts the jobs whose turn it is. It works beside the meter,
// which must not wait for a Nomad that is slow to register jobs.
//
// A job starts in two steps. One commit gives it a hold, decided with the books as
// they are then, and marks its document as leaving. Then it is registered without
// its gate, if it is still the job that was decided about. Whoever dies between
// the two leaves the mark, and the next leader looks at Nomad: a job that is still
// gated is registered again, one that is not is confirmed.
type releaser struct {
	e      *Engine
	nomad  registrar
	logger hclog.Logger
	now    func() time.Time

	mu sync.Mutex
	// touched are the jobs that changed since they were looked at, by the key of
	// their hold.
	touched map[string]bool

	// What follows belongs to the goroutine of lead.

	// looked is when Nomad was last asked about a job.
	looked map[string]time.Time
	// refused are the jobs that could not be started for a reason beside the books.
	refused map[string]backoff
	// gangs is when it may next be looked whether a job fits that waits for GPUs.
	gangs map[string]time.Time
	// noPlan are the gangs whose turn it was and for which no GPUs could be set aside.
	noPlan map[string]planless
	// planner is the gang that GPUs are set aside for, by the key of its hold, if it does
	// not fit; "" for none. planAfter is how long one has waited then, 0 for never.
	planner   string
	planAfter time.Duration
	// planned is what the last plan rested on, and when it was made.
	planned   uint64
	plannedAt time.Time
	// plans is how often that may be done.
	plans pace
}

// backoff is when to try again, less and less often.
type backoff struct {
	wait time.Duration
	next time.Time
}

const (
	// looksMax and startsMax bound one tick: the rest has its turn with the next.
	looksMax  = 16
	startsMax = 8
	// triesMax bounds how many jobs that wait for GPUs are tried in one.
	triesMax = 16
	// lookEvery is how often Nomad is asked about each waiting job without a cause:
	// what the event stream tells comes at once.
	lookEvery = 30 * time.Second
	// planEvery is how often the places are computed while nothing changes but time.
	planEvery = 5 * time.Second
	// refusedFor is the first pause after a job could not be started, refusedMax the
	// longest.
	refusedFor = 5 * time.Second
	refusedMax = 2 * time.Minute
)

func newReleaser(e *Engine, nomad registrar, planAfter time.Duration, logger hclog.Logger) *releaser {
	return &releaser{e: e, planAfter: planAfter, nomad: nomad, logger: logger.Named("queue"), now: e.now,
		touched: make(map[string]bool), looked: make(map[string]time.Time), refused: make(map[string]backoff), gangs: make(map[string]time.Time), noPlan: make(map[string]planless)}
}

// touch notes that a job changed. Any goroutine may call it.
func (r *releaser) touch(namespace, jobID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.touched[holdKey(namespace, jobID)] = true
}

func (r *releaser) isTouched(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.touched[key]
}

func (r *releaser) untouch(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.touched, key)
}

// lead works until ctx ends. A term begins with nothing believed.
func (r *releaser) lead(ctx context.Context, fence ledger.Fence) {
	r.looked, r.refused, r.planned = make(map[string]time.Time), make(map[string]backoff), 0
	r.gangs, r.noPlan = make(map[string]time.Time), make(map[string]planless)
	every(ctx, tickEvery, func() error { return r.tick(ctx, fence) }, func(err error) { r.logger.Warn("queue delayed", "error", err) })
}

// tick does what is due now.
func (r *releaser) tick(ctx context.Context, fence ledger.Fence) error {
	waiting, err := r.e.allQueued(ctx)
	if err != nil {
		return err
	}
	r.forget(waiting)
	failed, looks := error(nil), 0
	for _, q := range waiting {
		if ctx.Err() != nil || looks == looksMax {
			break
		}
		if r.lookDue(q) {
			looks++
			failed = errors.Join(failed, aboutJob(q, r.look(ctx, fence, q)))
		}
	}
	if looks > 0 {
		if waiting, err = r.e.allQueued(ctx); err != nil {
			return errors.Join(failed, err)
		}
	}
	return errors.Join(failed, r.start(ctx, fence, waiting))
}

func aboutJob(q ledger.Queued, err error) error {
	if err != nil {
		return fmt.Errorf("queued job %q in namespace %q: %w", q.JobID, q.Namespace, err)
	}
	return nil
}

// forget drops what is remembered of jobs that do not wait any more.
func (r *releaser) forget(waiting []ledger.Queued) {
	known := make(map[string]bool, len(waiting))
	for _, q := range waiting {
		known[keyOf(q)] = true
	}
	r.mu.Lock()
	forgetOthers(r.touched, known)
	r.mu.Unlock()
	forgetOthers(r.looked, known)
	forgetOthers(r.refused, known)
	forgetOthers(r.gangs, known)
	forgetOthers(r.noPlan, known)
}

func forgetOthers[T any](of map[string]T, known map[string]bool) {
	maps.DeleteFunc(of, func(key string, _ T) bool { return !known[key] })
}

func keyOf(q ledger.Queued) string { return holdKey(q.Namespace, q.JobID) }

// lookDue reports whether Nomad must be asked about a job: it changed, it is
// leaving or has waited too long, nobody said what became of its registration, or
// it was not looked at for a while.
func (r *releaser) lookDue(q ledger.Queued) bool {
	key, now := keyOf(q), r.now()
	since := now.Sub(r.looked[key])
	switch {
	case r.isTouched(key):
		return true
	case !r.ready(key):
		return false
	case q.ReleasingMS != 0, q.RollbackMS != 0, overdue(q, now):
		return true
	case q.ExpiresMS != 0:
		sent := time.UnixMilli(q.ExpiresMS).Add(-confirmWithin)
		return now.Sub(sent) >= doubtAfter && since >= tickEvery
	}
	return since >= lookEvery
}

// overdue reports whether a job has waited as long as its queue allows.
func overdue(q ledger.Queued, now time.Time) bool {
	return q.UntilMS != 0 && now.UnixMilli() >= q.UntilMS
}

// ready reports whether a job that was refused may be tried again.
func (r *releaser) ready(key string) bool { return !r.now().Before(r.refused[key].next) }

// pause keeps a job that Nomad did not take from being tried all the time.
func (r *releaser) pause(key string) {
	b := r.refused[key]
	b.wait = min(max(2*b.wait, refusedFor), refusedMax)
	b.next = r.now().Add(b.wait)
	r.refused[key] = b
}

// start releases the jobs whose turn it is.
func (r *releaser) start(ctx context.Context, fence ledger.Fence, waiting []ledger.Queued) error {
	var ready []ledger.Queued
	for _, q := range waiting {
		if r.ready(keyOf(q)) && q.RollbackMS == 0 && r.now().UnixMilli() >= q.NotBeforeMS {
			ready = append(ready, q)
		}
	}
	state := r.e.policy.State()
	if len(ready) == 0 || !state.Loaded || !r.plans.due() {
		return nil
	}
	begin := time.Now()
	changed, err := r.changed(ctx, ready, state.Policy.Revision)
	var places []queue.Place
	if err == nil && changed {
		places, err = r.e.places(ctx, state.Policy, ready)
	}
	r.plans = measure(begin)
	if err != nil || !changed {
		return err // without places nobody starts, and what is set aside for whom stays
	}
	next := starters(places)
	if err := r.plan(ctx, fence, waiting, next); err != nil {
		return err
	}
	return r.startAll(ctx, fence, next)
}

// startAll releases jobs in their order, as long as the books are what the plan took
// them for. A gang that does not fit as a whole is passed over; one that has waited for
// long is not overtaken by other gangs.
func (r *releaser) startAll(ctx context.Context, fence ledger.Fence, next []queue.Place) error {
	started, tried, overtake := 0, 0, true
	for _, place := range next {
		gang := admission.IsGang(place.Queued.Facts.Meta)
		if gang && !overtake || !r.gangDue(place.Queued) {
			overtake = overtake && (!gang || !r.blocks(place))
			continue
		}
		if started == startsMax || tried == triesMax {
			r.planned = 0 // the rest has its turn with the next tick
			return nil
		}
		outcome, err := r.release(ctx, fence, place.Queued)
		switch {
		case err != nil || outcome == waitsOn:
			r.planned = 0
			return aboutJob(place.Queued, err)
		case outcome == misfits:
			tried++
			overtake = overtake && (!gang || !r.blocks(place))
		default:
			started++
		}
	}
	return nil
}

// blocks reports whether other gangs wait for one that does not fit now: it has waited
// for long, and it is not known that what it waits for has no end.
func (r *releaser) blocks(place queue.Place) bool { return place.Aged && !r.hopeless(place.Queued) }

// released is what came of the attempt to start a job.
type released uint8

const (
	waitsOn released = iota // the books have no room, or the job is another one
	misfits                 // it has no GPUs, as a gang or beside one
	starts
)

// starters are the places of the jobs that may start and are known to be
// registered.
func starters(places []queue.Place) []queue.Place {
	var out []queue.Place
	for _, p := range places {
		if p.Start && p.Queued.JobModifyIndex != 0 && p.Queued.ExpiresMS == 0 {
			out = append(out, p)
		}
	}
	return out
}

// changed reports whether the places must be computed again: the queue, the holds
// or the policy changed, or some time has passed.
func (r *releaser) changed(ctx context.Context, ready []ledger.Queued, revision string) (bool, error) {
	open, _, err := r.e.books.holds(ctx)
	if err != nil {
		return false, err
	}
	sum := fnv.New64a()
	for _, h := range open {
		_, _ = sum.Write([]byte(h.ID + strconv.FormatUint(h.version, 16) + "\n"))
	}
	for _, q := range ready {
		text, err := ledger.Encode(q)
		if err != nil {
			return false, fmt.Errorf("encode queued job: %w", err)
		}
		_, _ = sum.Write(text)
	}
	_, _ = sum.Write([]byte(revision))
	if r.planned == sum.Sum64() && r.now().Sub(r.plannedAt) < planEvery {
		return false, nil
	}
	r.planned, r.plannedAt = sum.Sum64(), r.now()
	return true, nil
}

// candidate is a waiting job as Nomad has it, read as if its author submitted it
// now.
type candidate struct {
	queued ledger.Queued
	spec   nomadctl.Spec
	stored jobspec.Stored
	s      gate.Submission
}

// read reads a job that Nomad has gated.
func (r *releaser) read(q ledger.Queued, spec nomadctl.Spec) (candidate, error) {
	stored, err := jobspec.ParseStored(spec.Job)
	if err != nil {
		return candidate{}, err
	}
	open, _ := jobspec.Ungated(stored.Job)
	job, err := jobspec.Canonicalize(open)
	if err != nil {
		return candidate{}, fmt.Errorf("read a job of Nomad: %w", err)
	}
	ask, err := jobspec.Extract(open, jobspec.Defaults{Namespace: q.Namespace})
	if err != nil {
		return candidate{}, fmt.Errorf("read a job of Nomad: %w", err)
	}
	return candidate{queued: q, spec: spec, stored: stored, s: gate.Submission{Kind: gate.Register, Ask: ask, Job: job, Stored: stored.Job,
		Identity: gate.Identity{Accessor: q.Accessor, Names: q.Identity}}}, nil
}

// release starts one job, if it can start now.
func (r *releaser) release(ctx context.Context, fence ledger.Fence, q ledger.Queued) (released, error) {
	r.looked[keyOf(q)] = r.now()
	spec, err := r.spec(ctx, q)
	gone := errors.Is(err, nomadctl.ErrNotFound)
	if err != nil && !gone {
		return waitsOn, err
	}
	if gone || spec.Stopped || spec.Index != q.JobModifyIndex {
		r.touch(q.Namespace, q.JobID) // it is not what the document says: look at it first
		return waitsOn, nil
	}
	c, err := r.read(q, spec)
	if err != nil {
		r.pause(keyOf(q)) // it stays as it is, and the others have their turn
		return waitsOn, err
	}
	ends, err := r.ends(ctx, q)
	if err != nil {
		return waitsOn, err
	}
	begin := time.Now()
	placed := r.e.placeOr(ctx, c.s, ends)
	if placed.Waits != "" {
		placed.Release()
		return misfits, r.misfit(ctx, fence, c, placed, time.Since(begin))
	}
	id, err := r.promise(ctx, fence, c, placed)
	if err != nil || id == "" {
		placed.Release()
		return waitsOn, err
	}
	return starts, r.register(ctx, fence, c, placed, id)
}

// spec and put ask Nomad, and do not wait for ever.
func (r *releaser) spec(ctx context.Context, q ledger.Queued) (nomadctl.Spec, error) {
	ctx, cancel := context.WithTimeout(ctx, actWithin)
	defer cancel()
	return r.nomad.JobSpec(ctx, q.Namespace, q.JobID)
}

func (r *releaser) put(ctx context.Context, registration nomadctl.Registration) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, actWithin)
	defer cancel()
	return r.nomad.Register(ctx, registration)
}

// promise gives the job a hold, if it fits, and marks it as leaving the queue. It
// returns the id of the hold; "" when the job goes on waiting.
func (r *releaser) promise(ctx context.Context, fence ledger.Fence, c candidate, placed Placement) (string, error) {
	p := r.e.policy.State().Policy
	b, lines, refusal := r.e.appraise(p, c.s, placed)
	if refusal == nil && b == nil {
		refusal = &admission.Refusal{Reason: admission.Unmatched, Fact: "no budget claims it any more", Remedy: "submit it again"}
	}
	if refusal != nil {
		d := admission.Refuse(p, b, *refusal)
		if d.Outcome == admission.Deny || len(lines) == 0 {
			r.pause(keyOf(c.queued))
			return "", r.wait(ctx, fence, c, c.queued.Lines, d, p)
		}
	}
	id, decision := "", admission.Decision{}
	err := r.e.books.update(ctx, fence, r.e.targetOf(p, b, c.s), func(v view) (change, error) {
		id = ""
		if v.hold.Hold != nil || v.queued == nil || !sameQueued(*v.queued, c.queued) {
			return change{}, errNoChange
		}
		d, next, err := r.e.decide(p, b, c.s, lines, false, v)
		if decision = d; err != nil || blocked(d) {
			return change{}, errors.Join(err, errNoChange)
		}
		next.Placement = placed.Record
		if c.queued.Rollbacks > 0 {
			next.Gang = &ledger.Gang{Rollbacks: c.queued.Rollbacks}
		}
		leaving := c.queued
		leaving.ReleasingMS = r.now().UnixMilli()
		id = next.ID
		return change{hold: &next, queued: &leaving}, nil
	})
	if err == nil && id == "" && blocked(decision) {
		err = r.wait(ctx, fence, c, lines, decision, p)
	}
	return id, err
}

// stopped reports whether a job starts nothing: it was stopped or has ended.
func stopped(job *api.Job) bool {
	return job.Stop != nil && *job.Stop || job.Status != nil && *job.Status == statusDead
}
