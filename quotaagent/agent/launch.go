package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// launcher is the leader's work on what nobody asked the gate about: launches, and what
// came around the gate (outofband.go). Nomad starts a periodic job's children by itself. Each is decided like a
// submission of whoever submitted the template, and gets a hold; one that does not
// fit gets a hold as well, because what it uses must be paid, and is stopped by
// enforcement. All of it runs on the goroutine of the leader's duties.
type launcher struct {
	e      *Engine
	nomad  registrar
	actor  Actor // nil where nothing may be ended
	logger hclog.Logger
	now    func() time.Time

	// follow has the event stream cover a namespace.
	follow func(namespace string)
	// due are the jobs to look at, by the key of their hold.
	due     map[string]launch
	watched watched
	// since is when the first policy came, as Nomad's index; 0 until it is read.
	since uint64
	// cleaned is when templates were looked at last.
	cleaned time.Time
}

// launch is a job that may be one.
type launch struct {
	namespace, jobID string
	// first is below the creation of all its allocations that were seen running; 0 for
	// none.
	first uint64
	// changed says that it has a hold, which may not be of what runs.
	changed bool
	// tried says that it is in the audit log what is done about it.
	tried bool
	backoff
}

// watched is the stored form of how far launches were looked after: the creation of
// the newest allocation, on Nomad's clock. What ran between two leaders is found by
// it.
type watched struct {
	UntilMS int64 `json:"until_ms"`
	version uint64
}

const (
	watchedKey = "launches/watched"
	// launchesMax bounds one tick.
	launchesMax = 16
	// cleanEvery is how often templates are looked for that Nomad does not have any
	// more, templateKept how long one is kept at least: it may be on its way.
	cleanEvery   = 10 * time.Minute
	templateKept = time.Hour
)

func newLauncher(e *Engine, nomad registrar, actor Actor, follow func(namespace string), logger hclog.Logger) *launcher {
	return &launcher{e: e, nomad: nomad, actor: actor, logger: logger.Named("launches"), now: e.now, follow: follow, due: make(map[string]launch)}
}

// parentOf is the id of the job that a launch is of, by Nomad's way of naming them
// (structs.PeriodicLaunchSuffix, structs.DispatchLaunchSuffix); "" for other jobs.
func parentOf(jobID string) string {
	for _, suffix := range [...]string{api.JobPeriodicLaunchSuffix, "/dispatch-"} {
		if i := strings.LastIndex(jobID, suffix); i > 0 {
			return jobID[:i]
		}
	}
	return ""
}

// launchID names the hold of a launch. It is the same whoever makes it, so that it
// is made once.
func launchID(namespace, jobID string) string { return "h-l" + jobHash(namespace, jobID) }

// stray notes a job that runs without a hold.
func (l *launcher) stray(a nomadevents.Allocation) {
	key := holdKey(a.Namespace, a.JobID)
	one, known := l.due[key]
	if !known {
		one = launch{namespace: a.Namespace, jobID: a.JobID}
	}
	if before := a.CreateIndex - 1; one.first == 0 || before < one.first {
		one.first = before
	}
	l.due[key] = one
}

// look finds in a snapshot what was launched while nobody led, also if it has
// ended by now.
func (l *launcher) look(ctx context.Context, fence ledger.Fence, allocations []nomadevents.Allocation) error {
	if err := l.templates(ctx, fence); err != nil {
		return err
	}
	if err := l.lookAround(ctx, allocations); err != nil {
		return err
	}
	newest := int64(0)
	for _, a := range allocations {
		if parentOf(a.JobID) != "" {
			newest = max(newest, a.Created.UnixMilli())
		}
	}
	if newest == 0 {
		return nil
	}
	if err := l.readWatched(ctx); err != nil {
		return err
	}
	if newest <= l.watched.UntilMS {
		return nil
	}
	first := l.watched.UntilMS == 0 // what ran before Governor did is not its business
	for _, a := range allocations {
		if parentOf(a.JobID) != "" && (!first && a.Created.UnixMilli() > l.watched.UntilMS || !a.Terminal) {
			l.stray(a)
		}
	}
	if err := l.tick(ctx, fence); err != nil || len(l.due) > 0 {
		return err // the rest comes first
	}
	return l.writeWatched(ctx, fence, newest)
}

// templates has the event stream cover the namespaces of all templates, whose
// launches come without a notice, and forgets templates that Nomad does not have
// any more.
func (l *launcher) templates(ctx context.Context, fence ledger.Fence) error {
	records, _, err := l.e.books.store.List(ctx, templatePrefix)
	if err != nil {
		return fmt.Errorf("list templates: %w", err)
	}
	now := l.now()
	since := now.Sub(l.cleaned)
	clean := since < 0 || since >= cleanEvery
	for _, r := range records {
		t, err := ledger.Decode[ledger.Template](r.Value)
		if err != nil {
			continue // it says nothing about anybody
		}
		l.follow(t.Namespace)
		if !clean || now.UnixMilli()-t.AtMS < templateKept.Milliseconds() {
			continue
		}
		if _, err := l.nomad.JobSpec(ctx, t.Namespace, t.JobID); !errors.Is(err, nomadctl.ErrNotFound) {
			continue
		}
		err = l.e.books.commit(ctx, fence, []ledger.Write{{Key: r.Key, Version: r.Version}})
		if err = ignore(err, ledger.ErrConflict); err != nil {
			return fmt.Errorf("forget template: %w", err)
		}
	}
	if !clean {
		return nil
	}
	if err := l.forgetOutside(ctx, fence); err != nil {
		return err
	}
	l.cleaned = now
	return nil
}

func (l *launcher) readWatched(ctx context.Context) error {
	records, err := l.e.books.store.Read(ctx, watchedKey)
	if err != nil {
		return fmt.Errorf("read %s: %w", watchedKey, err)
	}
	w := watched{version: records[0].Version}
	if w.version != 0 {
		if err := json.Unmarshal(records[0].Value, &w); err != nil {
			return fmt.Errorf("decode %s: %w", watchedKey, err)
		}
	}
	l.watched = w
	return nil
}

func (l *launcher) writeWatched(ctx context.Context, fence ledger.Fence, untilMS int64) error {
	value, err := json.Marshal(watched{UntilMS: untilMS})
	if err != nil {
		return fmt.Errorf("encode %s: %w", watchedKey, err)
	}
	err = l.e.books.commit(ctx, fence, []ledger.Write{{Key: watchedKey, Value: value, Version: l.watched.version}})
	return ignore(err, ledger.ErrConflict)
}

// tick decides about the launches that are due.
func (l *launcher) tick(ctx context.Context, fence ledger.Fence) error {
	failed := l.begin(ctx, fence)
	looked := 0
	for _, key := range slices.Sorted(maps.Keys(l.due)) {
		if ctx.Err() != nil || looked == launchesMax {
			break
		}
		one := l.due[key]
		if l.now().Before(one.next) {
			continue
		}
		looked++
		err := l.adopt(ctx, fence, one)
		if err == nil {
			delete(l.due, key)
			continue
		}
		one = l.due[key] // it may be on record now what is done about it
		failed = errors.Join(failed, fmt.Errorf("launch %q in namespace %q: %w", one.jobID, one.namespace, err))
		one.wait = min(max(2*one.wait, tickEvery), reconcileEvery)
		one.next = l.now().Add(one.wait)
		l.due[key] = one
	}
	return failed
}

// adopt gives a launch its hold.
func (l *launcher) adopt(ctx context.Context, fence ledger.Fence, one launch) error {
	if one.changed {
		return l.reexamine(ctx, fence, one)
	}
	p := l.e.policy.State().Policy
	s, index, err := l.submission(ctx, one)
	if err != nil {
		return err
	}
	if s == nil {
		return l.govern(ctx, fence, one)
	}
	placed := Placement{Release: func() {}}
	if s.Ask.EveryNode() {
		if placed, err = l.e.placer.Place(ctx, *s, Placing{}); err != nil {
			return fmt.Errorf("count the nodes: %w", err)
		}
		defer placed.Release()
	}
	if done, err := l.e.adoptPending(ctx, fence, *s, placed, index); err != nil || done {
		return err
	}
	b, lines, refusal := l.e.appraise(p, *s, placed)
	if b == nil {
		if refusal != nil {
			l.logger.Warn("no budget pays for a launch", "namespace", one.namespace, "job_id", one.jobID, "reason", string(refusal.Reason), "fact", refusal.Fact)
		}
		return nil // it stays in the list of ungoverned work
	}
	t := l.e.targetOf(p, b, *s)
	remains := settledPrefix + launchID(one.namespace, one.jobID)
	if records, err := l.e.books.store.Read(ctx, remains); err != nil || records[0].Version != 0 {
		return err // it had its hold
	}
	err = l.e.books.update(ctx, fence, t, func(v view) (change, error) {
		if v.hold.Hold != nil {
			return change{}, errNoChange
		}
		return l.held(p, b, *s, lines, refusal, index, v)
	})
	if err == nil {
		l.e.settled(one.namespace, one.jobID)
	}
	return err
}

// held is the hold that a launch gets. One that should not run holds nothing ahead:
// what it uses until it has been stopped is posted as it happens.
func (l *launcher) held(p *budget.Policy, b *budget.Budget, s gate.Submission, lines []ledger.Line, refusal *admission.Refusal, index uint64, v view) (change, error) {
	d, next, err := l.e.decide(p, b, s, lines, false, v)
	if err != nil {
		return change{}, err
	}
	if refusal != nil {
		d = admission.Refuse(p, b, *refusal)
	}
	out := change{}
	if blocked(d) {
		if _, next, err = l.e.decide(p, b, s, nil, false, v); err != nil {
			return change{}, err
		}
		next.Reason = string(d.Reason)
	}
	if over := s.Job.Status != nil && *s.Job.Status == statusDead; blocked(d) && !over {
		next.Refused, next.RefusedWhy = string(d.Reason), d.Cause(p)
		out.audit = []AuditEvent{{At: l.now(), Kind: "launch.refused", Actor: actorGovernor, Budget: b.Path, Subject: s.Ask.Namespace + "/" + s.Ask.JobID,
			Text: fmt.Sprintf("job %q in namespace %q, which Nomad launched by itself, is stopped: %s (%s)", s.Ask.JobID, s.Ask.Namespace, d.Cause(p), d.Reason)}}
	}
	l.e.log(s, d)
	next.ID = launchID(s.Ask.Namespace, s.Ask.JobID)
	next = ledger.Confirm(next, index)
	next.FirstIndex = 0 // all its allocations are its own: the id is new
	out.hold = &next
	return out, nil
}

// submission is a launch as if its author had submitted it; nil when it is none,
// or is gone.
func (l *launcher) submission(ctx context.Context, one launch) (*gate.Submission, uint64, error) {
	parent := parentOf(one.jobID)
	if parent == "" {
		return nil, 0, nil
	}
	spec, err := l.nomad.JobSpec(ctx, one.namespace, one.jobID)
	if errors.Is(err, nomadctl.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	job := &api.Job{}
	if err := json.Unmarshal(spec.Job, job); err != nil {
		return nil, 0, fmt.Errorf("decode the job: %w", err)
	}
	if job.ParentID == nil || *job.ParentID != parent {
		return nil, 0, nil // a job with such a name
	}
	ask, err := jobspec.Extract(job, jobspec.Defaults{Namespace: one.namespace})
	if err != nil {
		return nil, 0, err
	}
	kind := gate.PeriodicForce
	if job.Dispatched {
		kind = gate.Dispatch
	}
	ask.Periodic, ask.Parameterized = false, false // it is a launch itself
	template, err := l.e.template(ctx, one.namespace, parent)
	if err != nil {
		return nil, 0, err
	}
	return &gate.Submission{Kind: kind, Ask: ask, Job: job, Identity: gate.Identity{Accessor: template.Accessor, Names: template.Identity}}, spec.Index, nil
}
