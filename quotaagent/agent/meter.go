package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/ledger"
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
	// reconcileEvery is how often everything is compared with a full snapshot and
	// running work is posted: well within Nomad's garbage collection (an hour for
	// evaluations). What is held and what is posted move together, so this only
	// bounds how coarse reports are.
	reconcileEvery = 30 * time.Second
	// doubtAfter is how long an unconfirmed submission is left to the agent that
	// admitted it before the meter asks Nomad about it without being told to.
	doubtAfter = 15 * time.Second
	// lookAtMost is the longest pause between two questions to Nomad about a job
	// of which nothing runs; the first comes at once, and the pause doubles.
	lookAtMost = 15 * time.Second
	// clockMargin is how far Nomad's clock may be behind ours. Running work is
	// posted no further than this before the moment at which Nomad was asked.
	clockMargin = 5 * time.Second
	// queueSize bounds the facts waiting for the meter; more are dropped, for the
	// next reconciliation finds them.
	queueSize = 4096
)

// Meter posts what really runs. One meter is active at a time, in the leader;
// its commits are fenced, so a deposed one cannot write.
type Meter struct {
	books  *books
	policy *PolicyKeeper
	nomad  nomadState
	placer Placer
	logger hclog.Logger
	now    func() time.Time
	facts  chan fact
	// rebuild has room for one request for a reconciliation.
	rebuild chan struct{}
	// holdsChanged says that the store has newer holds than open.
	holdsChanged atomic.Bool
	// duties are what else the leader does.
	duties duties

	mu      sync.Mutex
	leading bool
	stray   map[string]nomadevents.Allocation // running GPU allocations without a hold, by id
	checked map[string]Verification           // placement checks of running allocations, by id
	// followed are the namespaces that the event stream covers at least;
	// endStream ends it, so that it is opened anew.
	followed  map[string]bool
	endStream context.CancelFunc

	// What follows belongs to the goroutine of Lead.

	open  []heldAt        // the open holds as last listed
	looks map[string]look // when to ask about jobs of which nothing runs
	// proven is the last moment of which Nomad has said what runs.
	proven time.Time
	// watchedTo is proven as of the last reconciliation that went through.
	watchedTo time.Time
	outage    outage
}

// fact is one thing that happened: an allocation changed, or a job did.
type fact struct {
	alloc            *nomadevents.Allocation
	namespace, jobID string
}

func newMeter(b *books, policy *PolicyKeeper, nomad nomadState, placer Placer, logger hclog.Logger) *Meter {
	return &Meter{books: b, policy: policy, nomad: nomad, placer: placer, now: b.now, logger: logger.Named("meter"),
		facts: make(chan fact, queueSize), rebuild: make(chan struct{}, 1),
		stray: make(map[string]nomadevents.Allocation), checked: make(map[string]Verification)}
}

// Touch asks the meter to look at a job soon. Any goroutine may call it.
func (m *Meter) Touch(namespace, jobID string) { m.tell(fact{namespace: namespace, jobID: jobID}) }

func (m *Meter) tell(f fact) {
	if !m.Leading() {
		return // the leader has its own eyes
	}
	select {
	case m.facts <- f:
	default: // full: the next reconciliation sees it
	}
}

// Rebuild asks for a full reconciliation: the policy changed, or something was
// missed. Any goroutine may call it.
func (m *Meter) Rebuild() {
	select {
	case m.rebuild <- struct{}{}:
	default: // one is due already
	}
}

// Leading reports whether this agent is the leader.
func (m *Meter) Leading() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leading
}

// Lead meters until ctx ends, which also happens when leadership is lost.
func (m *Meter) Lead(ctx context.Context, fence ledger.Fence) {
	ctx, cancel := context.WithCancel(ctx)
	m.begin()
	defer m.end()
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel()
	if err := m.refresh(ctx); err != nil {
		m.failed(ctx, err)
	}
	m.followNamespaces()
	watchers.Go(func() { m.follow(ctx) })
	watchers.Go(func() { m.watchHolds(ctx) })
	for _, run := range m.duties.beside {
		watchers.Go(func() { run(ctx, fence) })
	}
	m.loop(ctx, fence)
}

// begin starts a term with nothing believed: facts from an earlier term are
// history by now.
func (m *Meter) begin() {
	for len(m.facts) > 0 {
		<-m.facts
	}
	m.open, m.looks, m.outage = nil, make(map[string]look), outage{}
	m.proven, m.watchedTo = time.Time{}, time.Time{}
	m.holdsChanged.Store(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leading, m.followed = true, make(map[string]bool)
}

func (m *Meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leading, m.endStream = false, nil
	m.stray = make(map[string]nomadevents.Allocation)
	m.checked = make(map[string]Verification)
}

// follow keeps an event stream open. Each time it stands, a snapshot is due:
// what happened in between was missed.
func (m *Meter) follow(ctx context.Context) {
	lost := false
	for ctx.Err() == nil {
		stream, end := context.WithCancel(ctx)
		m.mu.Lock()
		m.endStream = end
		m.mu.Unlock()
		ready := func() { lost = false; m.Rebuild() }
		err := m.nomad.Stream(stream, ready, func(a nomadevents.Allocation) { m.tell(fact{alloc: &a}) }, m.Touch)
		reopen := stream.Err() != nil
		end()
		if reopen {
			continue // ended by us
		}
		if !lost {
			m.logger.Warn("event stream lost, reconciling with snapshots until it is back", "error", err)
			lost = true
		}
		pause(ctx, time.Second)
	}
}

// followNamespaces opens the event stream anew when there are holds in a
// namespace that it may not cover: Nomad resolves "all namespaces" once, when a
// stream is opened (nomad/event_endpoint.go, validateACL).
func (m *Meter) followNamespaces() {
	m.mu.Lock()
	defer m.mu.Unlock()
	missing := false
	for _, h := range m.open {
		if !m.followed[h.Namespace] {
			m.followed[h.Namespace], missing = true, true
		}
	}
	if missing && m.endStream != nil {
		m.endStream()
	}
}

// watchHolds notes that holds changed, so that a quiet ledger is not listed
// every second.
func (m *Meter) watchHolds(ctx context.Context) {
	for index := uint64(0); ctx.Err() == nil; {
		next, err := m.books.store.Watch(ctx, holdPrefix, index)
		m.holdsChanged.Store(true)
		if err != nil {
			pause(ctx, tickEvery)
			continue
		}
		index = next
	}
}

// refresh lists the open holds if they changed since the last time.
func (m *Meter) refresh(ctx context.Context) error {
	if !m.holdsChanged.Swap(false) {
		return nil
	}
	holds, unreadable, err := m.books.holds(ctx)
	if err != nil {
		m.holdsChanged.Store(true)
		return err
	}
	m.open = holds
	known := make(map[string]bool, len(holds))
	for _, h := range holds {
		known[h.JobKey()] = true
	}
	for key := range m.looks {
		if !known[key] {
			delete(m.looks, key)
		}
	}
	return unreadable
}

func (m *Meter) loop(ctx context.Context, fence ledger.Fence) {
	tick, reconcile := time.NewTicker(tickEvery), time.NewTicker(reconcileEvery)
	defer tick.Stop()
	defer reconcile.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case f := <-m.facts:
			err = m.handle(ctx, fence, f)
		case <-m.rebuild:
			err = m.reconcile(ctx, fence)
		case <-reconcile.C:
			err = m.reconcile(ctx, fence)
		case <-tick.C:
			if m.outage.due(m.now()) {
				m.Rebuild()
			}
			err = m.tick(ctx, fence)
			m.duties.tick(ctx, fence, func(err error) { m.failed(ctx, err) })
		}
		if err != nil {
			m.failed(ctx, err)
		}
	}
}

func (m *Meter) handle(ctx context.Context, fence ledger.Fence, f fact) error {
	if f.alloc != nil {
		return m.observe(ctx, fence, *f.alloc)
	}
	return m.settleJob(ctx, fence, f.namespace, f.jobID)
}

// outage is a time in which something could not be metered. What was missed is
// found by a reconciliation, tried less and less often.
type outage struct {
	open bool
	wait time.Duration
	next time.Time
}

func (o *outage) due(now time.Time) bool {
	if !o.open || now.Before(o.next) {
		return false
	}
	o.wait = min(2*o.wait, reconcileEvery)
	o.next = now.Add(o.wait)
	return true
}

// failed notes that facts were missed, and says so once.
func (m *Meter) failed(ctx context.Context, err error) {
	if ctx.Err() != nil || m.outage.open {
		return
	}
	m.logger.Warn("metering delayed", "error", err)
	m.outage = outage{open: true, wait: tickEvery, next: m.now().Add(tickEvery)}
}

// recovered ends an outage, after a reconciliation without an error.
func (m *Meter) recovered() {
	if m.outage.open {
		m.logger.Info("metering caught up")
		m.outage = outage{}
	}
}

// each calls f for every hold. One that fails does not keep the others from
// their turn, unless nothing can be written at all.
func each(ctx context.Context, holds []heldAt, f func(h heldAt) error) error {
	var failed error
	for _, h := range holds {
		err := f(h)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("job %q in namespace %q: %w", h.JobID, h.Namespace, err))
		}
		if ctx.Err() != nil || errors.Is(err, ledger.ErrUnavailable) {
			break
		}
	}
	return failed
}
