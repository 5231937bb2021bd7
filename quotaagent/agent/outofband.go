package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// Out of band is what reached Nomad around the gate: a job that somebody registered at
// Nomad itself, a job with a hold that became another one (scaled or changed there, or
// taken back by a deployment's auto_revert), and a system job that found more nodes. The
// leader decides about it as about a submission of whoever registered it. What fits is
// held and paid like any other work. What does not is ended: a job of which only the
// count has grown goes back to the count it had, everything else is stopped.
//
// What Nomad had before the first policy came is let be, and so is work that the policy
// of its time did not claim: the records under outsidePrefix say so.

// sinceKey is the record of when the first policy came.
const sinceKey = outsidePrefix + ".since"

// outside is the stored form of it, and of a job that is let be as long as it is what
// it is.
type outside struct {
	Namespace string `json:"namespace,omitempty"`
	JobID     string `json:"job_id,omitempty"`
	Index     uint64 `json:"index"`
	AtMS      int64  `json:"at_ms"`
}

// change notes a job that is not any more what its hold was made for.
func (l *launcher) change(namespace, jobID string) {
	key := holdKey(namespace, jobID)
	if one, known := l.due[key]; !known || !one.changed {
		l.due[key] = launch{namespace: namespace, jobID: jobID, changed: true}
	}
}

// outOfBand reports whether a job was changed, and nobody asked the gate. An older
// version that is marked as stable at Nomad comes back with its old index.
func outOfBand(h ledger.Hold, job nomadevents.Job) bool {
	return h.State == ledger.Active && h.Pending == nil && h.Ending == nil && h.Refused == "" &&
		job.Exists && !job.Dead && !job.Stopped && !job.Gated && job.ModifyIndex != h.JobModifyIndex
}

// forgetOutside drops the records of jobs that are let be and that Nomad does not have
// any more, or has in another version.
func (l *launcher) forgetOutside(ctx context.Context, fence ledger.Fence) error {
	records, _, err := l.e.books.store.List(ctx, outsidePrefix)
	if err != nil {
		return fmt.Errorf("list jobs that are let be: %w", err)
	}
	for _, r := range records {
		var o outside
		if r.Key == sinceKey || json.Unmarshal(r.Value, &o) != nil {
			continue
		}
		spec, err := l.nomad.JobSpec(ctx, o.Namespace, o.JobID)
		if err == nil && spec.Index == o.Index {
			continue
		}
		if err = ignore(err, nomadctl.ErrNotFound); err != nil {
			return err
		}
		err = l.e.books.commit(ctx, fence, []ledger.Write{{Key: r.Key, Version: r.Version}})
		if err = ignore(err, ledger.ErrConflict); err != nil {
			return fmt.Errorf("forget %s: %w", r.Key, err)
		}
	}
	return nil
}

// lookAround looks at system jobs again, whose size follows the cluster.
func (l *launcher) lookAround(ctx context.Context, allocations []nomadevents.Allocation) error {
	open, _, err := l.e.books.holds(ctx)
	if err != nil {
		return err
	}
	running := make(map[string]int, len(open))
	for _, a := range allocations {
		if !a.Terminal {
			running[holdKey(a.Namespace, a.JobID)]++
		}
	}
	for _, h := range open {
		held := 0
		for _, line := range h.Lines {
			if line.EveryNode {
				held += line.Count
			}
		}
		if held > 0 && running[holdKey(h.Namespace, h.JobID)] > held {
			l.change(h.Namespace, h.JobID)
		}
	}
	return nil
}

// begin reads when the first policy came, or writes that it has come.
func (l *launcher) begin(ctx context.Context, fence ledger.Fence) error {
	if l.since != 0 || len(l.e.policy.State().Policy.Roots) == 0 {
		return nil
	}
	records, err := l.e.books.store.Read(ctx, sinceKey)
	if err != nil {
		return fmt.Errorf("read %s: %w", sinceKey, err)
	}
	var o outside
	if records[0].Version != 0 {
		if err := json.Unmarshal(records[0].Value, &o); err != nil {
			return fmt.Errorf("decode %s: %w", sinceKey, err)
		}
		l.since = max(o.Index, 1)
		return nil
	}
	if o.Index, err = l.nomad.JobsIndex(ctx); err != nil {
		return err
	}
	o.AtMS = l.now().UnixMilli()
	if err := l.write(ctx, fence, sinceKey, 0, o); err != nil {
		return err
	}
	l.since = max(o.Index, 1)
	return nil
}

func (l *launcher) write(ctx context.Context, fence ledger.Fence, key string, version uint64, o outside) error {
	value, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	return l.e.books.commit(ctx, fence, []ledger.Write{{Key: key, Value: value, Version: version}})
}

// registered is a job as Nomad has it, as a submission of whoever registered it.
func (l *launcher) registered(ctx context.Context, one launch) (s gate.Submission, spec nomadctl.Spec, err error) {
	spec, err = l.nomad.JobSpec(ctx, one.namespace, one.jobID)
	if err != nil {
		return s, spec, err
	}
	job := &api.Job{}
	if err := json.Unmarshal(spec.Job, job); err != nil {
		return s, spec, fmt.Errorf("decode the job: %w", err)
	}
	ask, err := jobspec.Extract(job, jobspec.Defaults{Namespace: one.namespace})
	if err != nil {
		return s, spec, err
	}
	s = gate.Submission{Kind: gate.Register, Ask: ask, Job: job}
	if s.Identity.Accessor = submitterOf(job); s.Identity.Accessor != "" {
		return s, spec, nil
	}
	on, err := l.nomad.ACLs(ctx) // with ACLs on it was a task, of which Nomad keeps nothing
	if s.Identity.Names = []string{gate.NameACLDisabled}; on {
		s.Identity.Names = []string{gate.NameWorkload}
	}
	return s, spec, err
}

// errSinceUnknown means that it could not be read or written yet when the first policy
// came.
var errSinceUnknown = errors.New("it is not known yet what was there before the first policy")

// govern decides about a job that runs without a hold.
func (l *launcher) govern(ctx context.Context, fence ledger.Fence, one launch) error {
	p := l.e.policy.State().Policy
	switch {
	case p.OutOfBand == budget.OutOfBandReport || len(p.Roots) == 0:
		return nil
	case l.since == 0:
		return errSinceUnknown
	}
	s, spec, err := l.registered(ctx, one)
	if errors.Is(err, nomadctl.ErrNotFound) || err == nil && (spec.Stopped || spec.Index <= l.since || s.Ask.GPUs() == 0 || jobspec.Gated(s.Job)) {
		return nil
	}
	if err != nil {
		return err
	}
	id := outsideID(one.namespace, one.jobID, spec.Index)
	records, err := l.e.books.store.Read(ctx, outsidePrefix+jobHash(one.namespace, one.jobID), settledPrefix+id)
	if err != nil || records[1].Version != 0 {
		return err // it had its hold
	}
	var known outside
	if records[0].Version != 0 && json.Unmarshal(records[0].Value, &known) == nil && known.Index == spec.Index {
		return nil
	}
	placed, err := l.count(ctx, s)
	if err != nil {
		return err
	}
	b, lines, refusal := l.e.appraise(p, s, placed)
	switch {
	case b == nil && (refusal == nil || p.Enforcement == budget.Shadow):
		return l.write(ctx, fence, records[0].Key, records[0].Version,
			outside{Namespace: one.namespace, JobID: one.jobID, Index: spec.Index, AtMS: l.now().UnixMilli()})
	case b == nil:
		return l.stop(ctx, fence, one, s, *refusal)
	}
	err = l.e.books.update(ctx, fence, l.e.targetOf(p, b, s), func(v view) (change, error) {
		if v.hold.Hold != nil {
			return change{}, errNoChange
		}
		return l.heldOutside(p, b, s, lines, refusal, launch{first: one.first}, spec.Index, v)
	})
	if err == nil {
		l.e.settled(one.namespace, one.jobID)
	}
	return err
}

// outsideID names the hold of a job that somebody registered around the gate: the same
// whoever makes it, so that it is made once.
func outsideID(namespace, jobID string, index uint64) string {
	return "h-o" + jobHash(namespace, jobID+"\x00"+strconv.FormatUint(index, 10))
}

// count is what placement knows of a job whose size follows the cluster.
func (l *launcher) count(ctx context.Context, s gate.Submission) (Placement, error) {
	if !s.Ask.EveryNode() {
		return Placement{Release: func() {}}, nil
	}
	placed, err := l.e.placer.Place(ctx, s, Placing{})
	if err != nil {
		return Placement{}, fmt.Errorf("count the nodes: %w", err)
	}
	placed.Release()
	return Placement{Eligible: placed.Eligible, Release: func() {}}, nil
}

// heldOutside is the hold of a job that runs. One that should not holds nothing ahead:
// what it uses until it has been stopped is posted as it happens.
func (l *launcher) heldOutside(p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line, refusal *admission.Refusal, one launch, index uint64, v view) (change, error) {
	d, next, err := l.e.decide(p, b, s, lines, false, v)
	if err != nil {
		return change{}, err
	}
	if refusal != nil {
		d = admission.Refuse(p, b, *refusal)
	}
	event := AuditEvent{At: l.now(), Kind: "out_of_band.governed", Actor: actorOf(s), Budget: b.Path, Subject: s.Ask.Namespace + "/" + s.Ask.JobID,
		Text: fmt.Sprintf("job %q in namespace %q reached Nomad around Governor, and is held in budget %s", s.Ask.JobID, s.Ask.Namespace, b.Path)}
	if blocked(d) {
		if _, next, err = l.e.decide(p, b, s, nil, false, v); err != nil {
			return change{}, err
		}
		next.Reason, next.Refused, next.RefusedWhy = string(d.Reason), string(d.Reason), d.Cause(p)
		event.Kind = "out_of_band.refused"
		event.Text = fmt.Sprintf("job %q in namespace %q, which reached Nomad around Governor, is stopped: %s (%s)", s.Ask.JobID, s.Ask.Namespace, d.Cause(p), d.Reason)
	}
	l.e.log(s, d)
	next.ID = outsideID(s.Ask.Namespace, s.Ask.JobID, index)
	next = ledger.Confirm(next, index)
	if one.first != 0 {
		next.FirstIndex = min(index, one.first)
	}
	return change{hold: &next, audit: []AuditEvent{event}}, nil
}

// actorOf is who registered a job, for the audit log.
func actorOf(s gate.Submission) string {
	return cmp.Or(s.Identity.Accessor, strings.Join(s.Identity.Names, " "))
}

// stop ends a job that no budget claims, in a policy that denies such work. It has no
// hold, and what it used is in the lines of ungoverned work.
func (l *launcher) stop(ctx context.Context, fence ledger.Fence, one launch, s gate.Submission, r admission.Refusal) error {
	if l.actor == nil {
		return nil
	}
	reason := fmt.Sprintf("%s (%s)", r.Fact, r.Reason)
	l.logger.Warn("stopping a job that no budget claims", "namespace", s.Ask.Namespace, "job_id", s.Ask.JobID, "submitter", s.Identity.Accessor, "reason", reason)
	if err := l.record(ctx, fence, one, AuditEvent{At: l.now(), Kind: "out_of_band.refused", Actor: actorOf(s), Subject: s.Ask.Namespace + "/" + s.Ask.JobID,
		Text: fmt.Sprintf("job %q in namespace %q, which reached Nomad around Governor, is stopped: %s", s.Ask.JobID, s.Ask.Namespace, reason)}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, actWithin)
	defer cancel()
	return ignore(l.actor.StopJob(ctx, s.Ask.Namespace, s.Ask.JobID, "governor: "+reason), nomadctl.ErrNotFound)
}

// record writes what is about to be done into the audit log, and not again when it is
// tried again.
func (l *launcher) record(ctx context.Context, fence ledger.Fence, one launch, e AuditEvent) error {
	if one.tried {
		return nil
	}
	if err := l.e.chain.commit(ctx, fence, nil, e); err != nil {
		return err
	}
	one.tried = true
	l.due[holdKey(one.namespace, one.jobID)] = one
	return nil
}

// reexamine decides about a job that was changed around the gate.
func (l *launcher) reexamine(ctx context.Context, fence ledger.Fence, one launch) error {
	p := l.e.policy.State().Policy
	s, spec, err := l.registered(ctx, one)
	if errors.Is(err, nomadctl.ErrNotFound) || err == nil && (spec.Stopped || jobspec.Gated(s.Job)) || p.OutOfBand == budget.OutOfBandReport {
		return nil
	}
	if err != nil {
		return err
	}
	seen, err := l.e.books.readHold(ctx, holdKey(one.namespace, one.jobID))
	if err != nil || seen.Hold == nil {
		return err
	}
	b := p.Find(p.Moved(seen.Budget))
	if b == nil {
		return nil // it is moved or ended by the policy
	}
	placed, err := l.count(ctx, s)
	if err != nil {
		return err
	}
	_, lines, refusal := l.e.appraiseIn(p, b, s, placed)
	by := actorOf(s)
	s.Identity = gate.Identity{Accessor: seen.Accessor, Names: seen.Identity}
	var back []nomadctl.Scaling
	err = l.e.books.update(ctx, fence, l.e.targetOf(p, b, s), func(v view) (change, error) {
		back = nil
		h := v.hold.Hold
		if h == nil || h.ID != seen.ID || h.Pending != nil || h.Ending != nil || h.Refused != "" || !l.different(*h, spec.Index, lines, p) {
			return change{}, errNoChange
		}
		d, _, err := l.e.decide(p, b, s, lines, false, l.promised(v, spec.Index))
		if err != nil {
			return change{}, err
		}
		_, next, err := l.e.decide(p, b, s, lines, false, v)
		if err != nil {
			return change{}, err
		}
		if refusal != nil {
			d = admission.Refuse(p, b, *refusal)
		}
		if !blocked(d) {
			next = ledger.Confirm(next, spec.Index)
			return change{hold: &next, audit: []AuditEvent{l.event("out_of_band.governed", by, b, s, "was changed around Governor, and is held as it is now")}}, nil
		}
		if back = backTo(*h, s, spec.Index); len(back) > 0 && l.actor != nil {
			return change{}, errNoChange
		}
		next = *h
		next.Refused, next.RefusedWhy, next.JobModifyIndex = string(d.Reason), d.Cause(p), max(h.JobModifyIndex, spec.Index)
		return change{hold: &next, audit: []AuditEvent{l.event("out_of_band.refused", by, b, s,
			fmt.Sprintf("was changed around Governor, and is stopped: %s (%s)", d.Cause(p), d.Reason))}}, nil
	})
	if err != nil {
		return err
	}
	l.e.settled(one.namespace, one.jobID)
	return l.scaleBack(ctx, fence, one, by, b, s, back)
}

// promised is a view as if the allocations of the change at index were not there: what
// runs counts, but it was not promised, and must not pass for that.
func (l *launcher) promised(v view, index uint64) view {
	h := *v.hold.Hold
	h.Tracks = slices.DeleteFunc(slices.Clone(h.Tracks), func(t ledger.Track) bool { return t.CreateIndex > index })
	h.Charged = ledger.Charges(h, l.e.rulesOf(l.e.policy.State().Policy).Calendar)
	v.balances = maps.Clone(v.balances)
	for _, path := range ledger.Ancestors(h.Budget) {
		if balance, ok := v.balances[path]; ok {
			balance = balance.Clone()
			balance.Held.AddAll(v.hold.Charged, -1)
			balance.Held.AddAll(h.Charged, 1)
			v.balances[path] = balance
		}
	}
	v.hold.Hold = &h
	return v
}

// different reports whether a job is another one than its hold is of, or needs more.
func (l *launcher) different(h ledger.Hold, index uint64, lines []ledger.Line, p *budget.Policy) bool {
	return index > h.JobModifyIndex || grown(h.Lines, lines, l.e.rulesOf(p).Calendar)
}

// backTo is how a job gets the counts again that it has in its hold; none where more
// than counts has grown.
func backTo(h ledger.Hold, s gate.Submission, index uint64) []nomadctl.Scaling {
	var back []nomadctl.Scaling
	if s.Ask.EveryNode() {
		return nil
	}
	for _, g := range s.Ask.Groups {
		at := slices.IndexFunc(h.Lines, func(line ledger.Line) bool { return line.Group == g.Name })
		if at < 0 || gpusOf([]ledger.Line{{Count: 1, Needs: h.Lines[at].Needs}}) != int64(g.GPUs()) {
			return nil
		}
		if had := h.Lines[at].Count - h.Lines[at].Canaries; g.Count > had {
			back = append(back, nomadctl.Scaling{Namespace: s.Ask.Namespace, JobID: s.Ask.JobID, Group: g.Name, Count: had, Index: index})
		}
	}
	return back
}

// scaleBack gives the groups of a job the counts that they had. Each makes a new
// version, so that the next one is done when the job is looked at again.
func (l *launcher) scaleBack(ctx context.Context, fence ledger.Fence, one launch, by string, b *budget.Budget, s gate.Submission, back []nomadctl.Scaling) error {
	if len(back) == 0 || l.actor == nil {
		return nil
	}
	first := back[0]
	first.Message = "governor: scaled around the budgets, which have no room for it"
	text := fmt.Sprintf("was scaled around Governor, and group %q goes back to %d: budget %s has no room for more", first.Group, first.Count, b.Path)
	if err := l.record(ctx, fence, one, l.event("out_of_band.scaled", by, b, s, text)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, actWithin)
	defer cancel()
	if _, err := l.actor.Scale(ctx, first); err != nil {
		return fmt.Errorf("scale back: %w", err)
	}
	return nil
}

func (l *launcher) event(kind, by string, b *budget.Budget, s gate.Submission, what string) AuditEvent {
	return jobEvent(l.now(), kind, by, b, s, what)
}

// jobEvent is the record of something that happened to a job.
func jobEvent(at time.Time, kind, by string, b *budget.Budget, s gate.Submission, what string) AuditEvent {
	return AuditEvent{At: at.Round(time.Millisecond), Kind: kind, Actor: by, Budget: b.Path, Subject: s.Ask.Namespace + "/" + s.Ask.JobID,
		Text: fmt.Sprintf("job %q in namespace %q %s", s.Ask.JobID, s.Ask.Namespace, what)}
}
