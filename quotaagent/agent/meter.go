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
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// nomadState is what the meter reads of Nomad; *nomadevents.Client is it.
type nomadState interface {
	Snapshot(ctx context.Context) ([]nomadevents.Allocation, error)
	JobAllocations(ctx context.Context, namespace, jobID string) ([]nomadevents.Allocation, error)
	Job(ctx context.Context, namespace, jobID string) (nomadevents.Job, error)
	Stream(ctx context.Context, ready func(), onAllocation func(nomadevents.Allocation), onJob func(namespace, jobID string)) error
}

// The meter's rhythm.
const (
	// tickEvery is how often open holds are looked at: jobs that ended,
	// submissions that were never confirmed, leases to renew.
	tickEvery = time.Second
	// postEvery is how often running work is posted. What is held and what is
	// posted move together, so this only bounds how coarse reports are.
	postEvery = 10 * time.Second
	// reconcileEvery is how often everything is compared with a full snapshot:
	// well within Nomad's garbage collection (an hour for evaluations).
	reconcileEvery = 30 * time.Second
	// doubtAfter is how long an unconfirmed submission is left to the agent that
	// admitted it before the meter asks Nomad about it.
	doubtAfter = 15 * time.Second
	// queueSize bounds the facts waiting for the meter; more are dropped, for the
	// next reconciliation finds them.
	queueSize = 4096
)

// Meter posts what really runs. One meter is active at a time, in the leader;
// its commits are fenced, so a deposed one cannot write.
type Meter struct {
	books   books
	policy  *PolicyKeeper
	nomad   nomadState
	placer  Placer
	logger  hclog.Logger
	now     func() time.Time
	facts   chan fact
	mu      sync.Mutex
	stray   map[string]nomadevents.Allocation // running GPU allocations without a hold, by id
	checked map[string]Verification           // placement checks, by allocation id
	leading bool
}

// Verification is the comparison of one allocation with its offer.
type Verification struct {
	Namespace, JobID, Group, Alloc, Node string
	IDs                                  []string
	// Difference is "" when the allocation got exactly what was offered.
	Difference string
}

// fact is one thing that happened: an allocation changed, or a job did.
type fact struct {
	alloc            *nomadevents.Allocation
	namespace, jobID string
	reconcile        bool
}

// NewMeter returns a meter; Lead runs it.
func NewMeter(store Store, policy *PolicyKeeper, nomad nomadState, placer Placer, now func() time.Time, logger hclog.Logger) *Meter {
	return &Meter{books: books{store: store, now: now}, policy: policy, nomad: nomad, placer: placer, now: now,
		logger: logger.Named("meter"), facts: make(chan fact, queueSize),
		stray: make(map[string]nomadevents.Allocation), checked: make(map[string]Verification)}
}

// Touch asks the meter to look at a job soon. Any goroutine may call it.
func (m *Meter) Touch(namespace, jobID string) { m.tell(fact{namespace: namespace, jobID: jobID}) }

// Rebuild asks for a full reconciliation, after the policy changed.
func (m *Meter) Rebuild() { m.tell(fact{reconcile: true}) }

func (m *Meter) tell(f fact) {
	if !m.Leading() {
		return // the leader has its own eyes
	}
	select {
	case m.facts <- f:
	default: // full: the next reconciliation sees it
	}
}

// Lead meters until ctx ends, which also happens when leadership is lost.
func (m *Meter) Lead(ctx context.Context, fence ledger.Fence) {
	m.setLeading(true)
	defer m.setLeading(false)
	ctx, cancel := context.WithCancel(ctx)
	var streams sync.WaitGroup
	streams.Go(func() { m.follow(ctx) })
	defer streams.Wait()
	defer cancel()
	m.loop(ctx, fence)
}

func (m *Meter) setLeading(leading bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leading = leading
	if !leading {
		m.stray = make(map[string]nomadevents.Allocation)
	}
}

// follow keeps an event stream open. Each time it stands, a snapshot is due:
// what happened in between was missed.
func (m *Meter) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := m.nomad.Stream(ctx, m.Rebuild,
			func(a nomadevents.Allocation) { m.tell(fact{alloc: &a}) }, m.Touch)
		if ctx.Err() == nil && err != nil {
			m.logger.Warn("event stream lost", "error", err)
		}
		pause(ctx, time.Second)
	}
}

func (m *Meter) loop(ctx context.Context, fence ledger.Fence) {
	tick, reconcile := time.NewTicker(tickEvery), time.NewTicker(reconcileEvery)
	defer tick.Stop()
	defer reconcile.Stop()
	lastPost := m.now()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case f := <-m.facts:
			err = m.handle(ctx, fence, f)
		case <-reconcile.C:
			err = m.reconcile(ctx, fence)
		case <-tick.C:
			post := m.now().Sub(lastPost) >= postEvery
			if post {
				lastPost = m.now()
			}
			err = m.tick(ctx, fence, post)
		}
		if err != nil && ctx.Err() == nil {
			m.logger.Warn("metering delayed", "error", err)
			pause(ctx, time.Second)
		}
	}
}

func (m *Meter) handle(ctx context.Context, fence ledger.Fence, f fact) error {
	switch {
	case f.alloc != nil:
		return m.observe(ctx, fence, *f.alloc)
	case f.reconcile:
		return m.reconcile(ctx, fence)
	}
	return m.settleJob(ctx, fence, f.namespace, f.jobID)
}

// mutate changes one hold by a function of it and posts what the change says.
func (m *Meter) mutate(ctx context.Context, fence ledger.Fence, namespace, jobID string, f func(p *budget.Policy, h ledger.Hold) (change, error)) error {
	policy := m.policy.State().Policy
	return m.books.update(ctx, fence, holdKey(namespace, jobID), nil, func() ledger.Calendar { return calendar(policy) },
		func(hold *ledger.Hold, _ map[string]ledger.Balance) (change, error) {
			if hold == nil {
				return change{}, errNoHold
			}
			return f(policy, *hold)
		})
}

// errNoHold means that the job has no open hold.
var errNoHold = errors.New("no open hold")

// observe takes in a fact about one allocation and posts what it used.
func (m *Meter) observe(ctx context.Context, fence ledger.Fence, a nomadevents.Allocation) error {
	err := m.mutate(ctx, fence, a.Namespace, a.JobID, func(p *budget.Policy, h ledger.Hold) (change, error) {
		next, changed := ledger.Observe(h, m.observation(p, a), m.now().UnixMilli())
		if !changed {
			return change{}, errNoChange
		}
		m.verify(h, a)
		next, posted := metering.Post(p, next, m.now())
		return change{hold: &next, posted: posted}, nil
	})
	m.noteStray(a, errors.Is(err, errNoHold))
	if err != nil && !errors.Is(err, errNoHold) {
		return fmt.Errorf("observe allocation %s: %w", a.ID, err)
	}
	if a.Terminal && err == nil {
		m.Touch(a.Namespace, a.JobID) // it may have been the last one
	}
	return nil
}

// unclassified is the class of GPUs that no gpu_class names: their time is
// posted, without a price.
const unclassified = "unclassified"

func (m *Meter) observation(p *budget.Policy, a nomadevents.Allocation) ledger.Observation {
	o := ledger.Observation{Alloc: a.ID, Name: a.Name, Group: a.Group, CreateIndex: a.CreateIndex,
		StartMS: a.Created.UnixMilli(), Done: a.Done, Estimated: a.Estimated}
	if a.Terminal {
		o.EndMS = a.Ended.UnixMilli()
	}
	card, _ := p.RateAt(a.Created)
	for _, d := range a.Devices {
		class, ok := p.ClassOf(d.Name)
		if !ok {
			class = unclassified
		}
		o.GPUs = append(o.GPUs, ledger.TrackGPUs{Class: class, IDs: d.IDs, PerGPUHour: card.PerGPUHour[class]})
	}
	return o
}

// verify compares a new allocation with the offer that its job was pinned to.
func (m *Meter) verify(h ledger.Hold, a nomadevents.Allocation) {
	if a.Terminal || len(h.Placement) == 0 {
		return
	}
	difference, known := m.placer.Verify(h.Placement, a.Group, a.NodeID, a.ByTask)
	if !known {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, seen := m.checked[a.ID]; seen {
		return
	}
	m.checked[a.ID] = Verification{Namespace: a.Namespace, JobID: a.JobID, Group: a.Group, Alloc: a.ID, Node: a.NodeName,
		IDs: a.IDs(), Difference: difference}
	if difference != "" {
		m.logger.Warn("placement differs from offer", "namespace", a.Namespace, "job_id", a.JobID, "alloc_id", a.ID, "difference", difference)
		return
	}
	m.logger.Info("placement verified", "namespace", a.Namespace, "job_id", a.JobID, "alloc_id", a.ID)
}

func (m *Meter) noteStray(a nomadevents.Allocation, stray bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.Terminal {
		delete(m.checked, a.ID)
	}
	if !stray || a.Terminal {
		delete(m.stray, a.ID)
		return
	}
	if _, known := m.stray[a.ID]; !known {
		m.logger.Warn("GPU allocation without a hold", "namespace", a.Namespace, "job_id", a.JobID, "alloc_id", a.ID, "gpus", len(a.IDs()))
	}
	m.stray[a.ID] = a
}

// reconcile compares everything with a snapshot. Holds are read after it, so
// that an allocation can only be older than the hold it is matched with.
func (m *Meter) reconcile(ctx context.Context, fence ledger.Fence) error {
	allocations, err := m.nomad.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	holds, _, err := m.books.holds(ctx)
	if err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	open := make(map[string]bool, len(holds))
	for _, h := range holds {
		open[h.JobKey()] = true
	}
	m.forgetStrays(allocations)
	for _, a := range allocations {
		if !open[a.Namespace+"\x00"+a.JobID] {
			m.noteStray(a, true)
			continue
		}
		if err := m.observe(ctx, fence, a); err != nil {
			return err
		}
	}
	for _, h := range holds {
		if err := m.recharge(ctx, fence, h); err != nil {
			return err
		}
	}
	return nil
}

// forgetStrays drops strays that Nomad no longer lists.
func (m *Meter) forgetStrays(allocations []nomadevents.Allocation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.stray {
		if !slices.ContainsFunc(allocations, func(a nomadevents.Allocation) bool { return a.ID == id }) {
			delete(m.stray, id)
		}
	}
}

// recharge recomputes what a hold charges: the windows in use may have changed
// with the policy.
func (m *Meter) recharge(ctx context.Context, fence ledger.Fence, h ledger.Hold) error {
	err := m.mutate(ctx, fence, h.Namespace, h.JobID, func(p *budget.Policy, h ledger.Hold) (change, error) {
		if len(ledger.Charges(h, calendar(p)).Minus(h.Charged)) == 0 {
			return change{}, errNoChange
		}
		return change{hold: &h}, nil
	})
	if errors.Is(err, errNoHold) {
		return nil
	}
	return err
}

// tick looks at every open hold.
func (m *Meter) tick(ctx context.Context, fence ledger.Fence, post bool) error {
	holds, _, err := m.books.holds(ctx)
	if err != nil {
		return err
	}
	for _, h := range holds {
		if err := m.tickHold(ctx, fence, h, post); err != nil {
			return err
		}
	}
	return nil
}

func (m *Meter) tickHold(ctx context.Context, fence ledger.Fence, h ledger.Hold, post bool) error {
	doubtful := h.Pending != nil && m.now().UnixMilli()-(h.ExpiresMS-confirmWithin.Milliseconds()) > doubtAfter.Milliseconds()
	if doubtful || len(h.Live()) == 0 {
		return m.settleJob(ctx, fence, h.Namespace, h.JobID)
	}
	_, renew := ledger.Renew(h, m.now().UnixMilli())
	if !post && !renew {
		return nil
	}
	err := m.mutate(ctx, fence, h.Namespace, h.JobID, func(p *budget.Policy, h ledger.Hold) (change, error) {
		next, _ := ledger.Renew(h, m.now().UnixMilli())
		next, posted := metering.Post(p, next, m.now())
		return change{hold: &next, posted: posted}, nil
	})
	if errors.Is(err, errNoHold) {
		return nil
	}
	return err
}

// settleJob brings one hold in line with what Nomad says about its job: confirms
// or expires a submission whose answer was lost, and ends the hold of a job of
// which nothing runs or will run.
func (m *Meter) settleJob(ctx context.Context, fence ledger.Fence, namespace, jobID string) error {
	hold, _, err := m.books.readHold(ctx, holdKey(namespace, jobID))
	if err != nil || hold == nil {
		return err
	}
	job, err := m.nomad.Job(ctx, namespace, jobID)
	if err != nil {
		return err
	}
	allocations, err := m.nomad.JobAllocations(ctx, namespace, jobID)
	if err != nil {
		return err
	}
	var ended *ledger.Hold
	err = m.mutate(ctx, fence, namespace, jobID, func(p *budget.Policy, h ledger.Hold) (change, error) {
		ended = nil
		if h.ID != hold.ID || h.JobModifyIndex != hold.JobModifyIndex {
			return change{}, errNoChange // a newer submission: job may be older than it
		}
		next, changed := m.resolve(h, job)
		if next == nil {
			return change{}, nil
		}
		for _, a := range allocations {
			observed, moved := ledger.Observe(*next, m.observation(p, a), m.now().UnixMilli())
			next, changed = &observed, changed || moved
		}
		posted, usage := metering.Post(p, *next, m.now())
		if m.over(posted, job) {
			ended = &posted
			return change{posted: usage}, nil
		}
		if !changed {
			return change{}, errNoChange
		}
		return change{hold: &posted, posted: usage}, nil
	})
	if errors.Is(err, errNoHold) {
		return nil
	}
	if err == nil && ended != nil {
		m.logger.Info("job settled", "namespace", namespace, "job_id", jobID, "budget", ended.Budget, "hold_id", ended.ID,
			"receipt", admission.Receipt(m.policy.State().Policy, *ended))
	}
	return err
}

// resolve settles an unconfirmed submission by what Nomad has: a job newer than
// the one stored at submission is the submission (or one that it covers); an
// unchanged one means that it never arrived, once its time is up. A nil hold
// means that nothing remains.
func (m *Meter) resolve(h ledger.Hold, job nomadevents.Job) (*ledger.Hold, bool) {
	if h.Pending == nil {
		return &h, false
	}
	if job.Exists && job.ModifyIndex > h.StoredIndex {
		next := ledger.Confirm(h, job.ModifyIndex)
		return &next, true
	}
	if m.now().UnixMilli() < h.ExpiresMS {
		return &h, false
	}
	m.logger.Info("submission expired unconfirmed", "namespace", h.Namespace, "job_id", h.JobID, "hold_id", h.ID)
	next, remains := ledger.Void(h)
	if !remains {
		return nil, true
	}
	return &next, true
}

// over reports whether the job of a confirmed hold has ended for good.
func (m *Meter) over(h ledger.Hold, job nomadevents.Job) bool {
	return h.State == ledger.Active && h.Pending == nil && job.Dead && len(h.Tracks) == 0
}

// Strays are the running GPU allocations that no hold covers, ordered by id.
func (m *Meter) Strays() []nomadevents.Allocation {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]nomadevents.Allocation, 0, len(m.stray))
	for _, a := range m.stray {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b nomadevents.Allocation) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Verified are the placement checks of running allocations of one job.
func (m *Meter) Verified(namespace, jobID string) []Verification {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Verification
	for _, v := range m.checked {
		if v.Namespace == namespace && v.JobID == jobID {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b Verification) int { return strings.Compare(a.Alloc, b.Alloc) })
	return out
}

// Leading reports whether this agent is the leader.
func (m *Meter) Leading() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leading
}
