package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
)

// replacer is the leader's work on pins that do not hold any more: the GPUs that a group
// was pinned to are somebody else's or gone by the time that Nomad places it (a race with
// a job that nobody pinned, a node that died with the others in use), and Nomad waits for
// exactly those while others are free. Such a group is pinned anew.
//
// That is a new version of the job, and decided like one. It restarts nothing: only
// groups of which nothing runs get other pins, and a batch job of which something has
// ended well is left alone, for Nomad would run that again.
type replacer struct {
	e      *Engine
	nomad  registrar
	logger hclog.Logger
	now    func() time.Time

	mu sync.Mutex
	// waiting are the holds of jobs that wait, as the meter knows them, and noted when
	// it was asked: reading all holds every few seconds would be most of what is read.
	waiting []heldAt
	noted   time.Time

	// What follows belongs to the goroutine of lead.

	// since is when a job was first seen to wait, by the key of its hold.
	since map[string]time.Time
	// tried is when it may be tried again.
	tried map[string]backoff
}

const (
	// replaceEvery is how often the jobs that wait for their GPUs are looked at.
	replaceEvery = 5 * time.Second
	// replaceAfter is how long Nomad has to place a job: an allocation that ends, and the
	// evaluation that it unblocks, take a second or two.
	replaceAfter = 10 * time.Second
	// replacedMax bounds one look; the others have their turn with the next.
	replacedMax = 4
)

func newReplacer(e *Engine, nomad registrar, logger hclog.Logger) *replacer {
	return &replacer{e: e, nomad: nomad, logger: logger.Named("placement"), now: e.now, since: make(map[string]time.Time), tried: make(map[string]backoff)}
}

// watch is the duty that notes which jobs wait.
func (r *replacer) watch(m *Meter) duty {
	return func(context.Context, ledger.Fence) error {
		r.note(m.open)
		return nil
	}
}

func (r *replacer) note(open []heldAt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now().Sub(r.noted) < replaceEvery {
		return
	}
	r.waiting, r.noted = nil, r.now()
	for _, h := range open {
		if len(waitingGroups(*h.Hold)) > 0 {
			r.waiting = append(r.waiting, h)
		}
	}
}

// lead works until ctx ends. A term begins with nothing believed.
func (r *replacer) lead(ctx context.Context, fence ledger.Fence) {
	r.since, r.tried = make(map[string]time.Time), make(map[string]backoff)
	every(ctx, replaceEvery, func() error { return r.look(ctx, fence) }, func(err error) { r.logger.Warn("placing jobs anew delayed", "error", err) })
}

// look tries the jobs that have waited long enough.
func (r *replacer) look(ctx context.Context, fence ledger.Fence) error {
	r.mu.Lock()
	noted := r.waiting
	r.mu.Unlock()
	waiting := make(map[string]bool, len(noted))
	failed, tried := error(nil), 0
	for _, h := range noted {
		groups := waitingGroups(*h.Hold)
		key, now := holdKey(h.Namespace, h.JobID), r.now()
		waiting[key] = true
		if _, known := r.since[key]; !known {
			r.since[key] = now
		}
		if now.Sub(r.since[key]) < replaceAfter || now.Before(r.tried[key].next) || tried == replacedMax || ctx.Err() != nil {
			continue
		}
		tried++
		r.pause(key)
		if err := r.replace(ctx, fence, h, groups); err != nil {
			failed = errors.Join(failed, fmt.Errorf("place job %q in namespace %q anew: %w", h.JobID, h.Namespace, err))
		}
	}
	for _, key := range sortedKeys(r.since) {
		if !waiting[key] {
			delete(r.since, key)
			delete(r.tried, key)
		}
	}
	return failed
}

// pause keeps a job for which there is no other place from being tried all the time.
func (r *replacer) pause(key string) {
	b := r.tried[key]
	b.wait = min(max(2*b.wait, replaceAfter), refusedMax)
	b.next = r.now().Add(b.wait)
	r.tried[key] = b
}

// waitingGroups are the groups of a placed job that should run, and of which nothing
// does; none where Nomad would start again what has ended.
func waitingGroups(h ledger.Hold) []string {
	if h.State != ledger.Active || h.Pending != nil || h.Ending != nil || h.Refused != "" || len(h.Placement) == 0 {
		return nil
	}
	live := map[string]bool{}
	for _, t := range h.Live() {
		live[t.Group] = true
	}
	for _, t := range h.Tracks {
		if t.EndMS != 0 && t.Done {
			return nil
		}
	}
	for _, s := range h.Slots {
		if s.Done {
			return nil
		}
	}
	var out []string
	for _, line := range h.Lines {
		if line.Count > 0 && !line.EveryNode && !live[line.Group] {
			out = append(out, line.Group)
		}
	}
	return out
}

// replace places the groups of one job anew, if its pins keep it from GPUs that are free.
func (r *replacer) replace(ctx context.Context, fence ledger.Fence, h heldAt, groups []string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*actWithin)
	defer cancel()
	spec, err := r.nomad.JobSpec(ctx, h.Namespace, h.JobID)
	if errors.Is(err, nomadctl.ErrNotFound) || err == nil && (spec.Stopped || spec.Index != h.JobModifyIndex) {
		return nil // it is not what is held for: the meter looks at that
	}
	if err != nil {
		return err
	}
	clean, s, err := r.submission(h, spec)
	if err != nil || clean == nil {
		r.logger.Debug("a job waits that has no pins", "namespace", h.Namespace, "job_id", h.JobID)
		return err
	}
	placed, again, err := r.e.placer.Replace(ctx, s, groups, r.e.clearOf(ctx, s, Placing{}))
	if err != nil || len(again) == 0 {
		r.logger.Debug("a job waits, and would wait elsewhere too", "namespace", h.Namespace, "job_id", h.JobID, "groups", groups)
		return err
	}
	target, held, err := r.hold(ctx, fence, h, s, spec.Index, placed, again)
	if err != nil || !held {
		placed.Release()
		return err
	}
	return r.register(ctx, fence, h, spec, *clean, placed, target)
}

// submission is the job as if its author submitted it now, without its pins; nil when
// it has none.
func (r *replacer) submission(h heldAt, spec nomadctl.Spec) (*jobspec.Stored, gate.Submission, error) {
	stored, err := jobspec.ParseStored(spec.Job)
	if err != nil || jobspec.Gated(stored.Job) {
		return nil, gate.Submission{}, err
	}
	clean, pinned, err := stored.Unpinned()
	if err != nil || !pinned {
		return nil, gate.Submission{}, err
	}
	job, err := jobspec.Canonicalize(clean.Job)
	if err != nil {
		return nil, gate.Submission{}, err
	}
	ask, err := jobspec.Extract(clean.Job, jobspec.Defaults{Namespace: h.Namespace})
	if err != nil {
		return nil, gate.Submission{}, err
	}
	return &clean, gate.Submission{Kind: gate.Register, Ask: ask, Job: job, Stored: stored.Job,
		Identity: gate.Identity{Accessor: h.Accessor, Names: h.Identity}}, nil
}

// hold holds for the new version, as far as that is more than what is held; false when
// there is no budget for it, or the job is another one by now.
func (r *replacer) hold(ctx context.Context, fence ledger.Fence, h heldAt, s gate.Submission, index uint64, placed Placement, again []string) (t target, held bool, err error) {
	p := r.e.policy.State().Policy
	b := p.Find(p.Moved(h.Budget))
	if b == nil {
		return t, false, nil // it is moved or ended by the policy
	}
	_, lines, refusal := r.e.appraiseIn(p, b, s, placed)
	lines = notRunning(lines, again)
	t = r.e.targetOf(p, b, s)
	var decision admission.Decision
	err = r.e.books.update(ctx, fence, t, func(v view) (change, error) {
		held = false
		now := v.hold.Hold
		if now == nil || now.ID != h.ID || now.Pending != nil || now.JobModifyIndex != index || v.queued != nil {
			return change{}, errNoChange
		}
		d, next, err := r.e.decide(p, b, s, lines, false, v)
		if err != nil {
			return change{}, err
		}
		if refusal != nil {
			d = admission.Refuse(p, b, *refusal)
		}
		if decision = d; blocked(d) {
			return change{}, errNoChange
		}
		next.Placement, held = placed.Record, true
		return change{hold: &next, audit: []AuditEvent{jobEvent(r.now(), "placement.replaced", actorOf(s), b, s,
			fmt.Sprintf("waits for GPUs that others have or that are gone, and others are free: group %s is placed anew", strings.Join(again, ", ")))}}, nil
	})
	if err == nil && decision.Budget != nil {
		r.e.log(s, decision)
	}
	return t, held, err
}

// register registers the new version that is held for.
func (r *replacer) register(ctx context.Context, fence ledger.Fence, h heldAt, spec nomadctl.Spec, clean jobspec.Stored, placed Placement, t target) error {
	index := uint64(0)
	raw, err := clean.With(placed.Patch)
	if err == nil {
		index, err = r.nomad.Register(ctx, nomadctl.Registration{Namespace: h.Namespace, JobID: h.JobID, Job: raw, Index: spec.Index, Submission: spec.Submission})
	}
	switch {
	case err == nil:
		r.logger.Info("job placed anew, because others have the GPUs that it was pinned to", "namespace", h.Namespace, "job_id", h.JobID, "job_modify_index", index)
		delete(r.since, holdKey(h.Namespace, h.JobID))
		return r.settle(ctx, fence, t, h, index)
	case errors.Is(err, nomadctl.ErrUnknown):
		return err // the meter finds out
	case errors.Is(err, nomadctl.ErrConflict), errors.Is(err, nomadctl.ErrNotFound):
		err = nil // somebody else was faster
	}
	placed.Release()
	return errors.Join(err, r.settle(ctx, fence, t, h, 0))
}

// settle confirms the new version, or with index 0 gives back what was held for it.
func (r *replacer) settle(ctx context.Context, fence ledger.Fence, t target, before heldAt, index uint64) error {
	return r.e.books.update(ctx, fence, t, func(v view) (change, error) {
		if v.hold.Hold == nil || v.hold.ID != before.ID || v.hold.Pending == nil {
			return change{}, errNoChange
		}
		next := *v.hold.Hold
		if index != 0 {
			next = confirm(next, index)
			return change{hold: &next}, nil
		}
		next, remains := ledger.Void(next)
		if !remains {
			return change{}, nil
		}
		next.Placement = before.Placement // its pins are still those
		return change{hold: &next}, nil
	})
}

// notRunning is what a new version needs of groups of which nothing runs: nothing of
// them is updated, so that neither canaries nor allocations beside old ones come.
func notRunning(lines []ledger.Line, groups []string) []ledger.Line {
	out := slices.Clone(lines)
	for i := range out {
		if slices.Contains(groups, out[i].Group) {
			out[i].Count -= out[i].Canaries
			out[i].Canaries, out[i].Overlap, out[i].OverlapMS = 0, 0, 0
		}
	}
	return out
}
