package agent

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
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
	// Deregistered is when a job was stopped or purged, by Nomad's clock, as far as
	// Nomad knows, the earliest first.
	Deregistered(ctx context.Context, namespace, jobID string) ([]time.Time, error)
	// Ahead is by how much our clock was ahead of Nomad's at its last answer, to the
	// second; 0 when it was not.
	Ahead() time.Duration
	Stream(ctx context.Context, w nomadevents.Watcher) error
}

// The meter's rhythm.
const (
	// tickEvery is how often open holds are looked at: jobs that ended,
	// submissions that were never confirmed, leases to renew, work to post.
	tickEvery = time.Second
	// reconcileEvery is how often everything is compared with a full snapshot at
	// the latest: well within Nomad's garbage collection (an hour for evaluations).
	// What is held and what is posted move together, so this only bounds how coarse
	// reports are.
	reconcileEvery = 30 * time.Second
	// doubtAfter is how long an unconfirmed submission of a job that runs is left to the
	// agent that admitted it before the meter asks Nomad about it without being told to.
	doubtAfter = 15 * time.Second
	// clockMargin is how far Nomad's clock may be behind ours. Running work is
	// posted no further than this before the moment at which Nomad was asked.
	clockMargin = 5 * time.Second
	// queueSize bounds the facts waiting for the meter; more are dropped, for the
	// next reconciliation finds them.
	queueSize = 4096
	// listShare is how much of its time the meter spends on listing holds at most:
	// one part in so many. A ledger of ten thousand holds takes a good part of a
	// second to list.
	listShare = 20
	// listQuick is how long a list takes that need not be rationed.
	listQuick = 50 * time.Millisecond
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
	// holdsChanged says that the store has newer holds than open and written, which others
	// have committed.
	holdsChanged atomic.Bool
	// provenMS is proven for who asks from outside, drift how many sums the last
	// comparison had to set right.
	provenMS, drift atomic.Int64
	// duties are what else the leader does.
	duties duties
	// gauges and lines are nil where nobody reads the clients' statistics.
	gauges *gauges
	lines  *lines

	mu      sync.Mutex
	leading bool
	stray   map[string]nomadevents.Allocation // running GPU allocations without a hold, by id
	checked map[string]Verification           // placement checks of running allocations, by id
	// followed are the namespaces that the event stream covers at least;
	// endStream ends it, so that it is opened anew.
	followed  map[string]bool
	endStream context.CancelFunc
	// written are the holds that this process has committed since the last tick.
	written map[jobAt]heldAt

	// missed says that facts may have been missed: those that come before the next
	// snapshot are not to be trusted to be all. streams says that they come.
	missed, streams atomic.Bool

	// What follows belongs to the goroutine of Lead.

	open []heldAt // the open holds as last listed, with what was written since
	// listed is the store's index of that list, lists how often there may be one.
	listed uint64
	lists  pace
	looks  map[string]look // when to ask about jobs of which nothing runs
	// young are those whose submission was on its way when something was heard of them,
	// told is up to which index changes of jobs were told that no answer has had, and
	// retries are of which the last question was in vain.
	young   map[string]bool
	told    map[string]uint64
	retries map[string]retry
	// unheard is when to ask about jobs of which something runs, and whose changes may have
	// been missed.
	unheard map[string]time.Time
	// gpus is which allocation has which GPU from when on, sights which of them Nomad
	// has shown.
	gpus   *metering.Timeline
	sights sights
	// tried is up to when the running work of a job was posted, or was found to be
	// nothing to post.
	tried map[string]int64
	// dead are the jobs that are dead and may run again, by JobKey.
	dead map[string]deadJob
	// repairs is how often the balances may be compared with all holds.
	repairs pace
	// level are the holds that charge what the policy wants.
	level levels
	// nextSnapshot is when everything is compared with a snapshot again.
	nextSnapshot time.Time
	// proven is the last moment of which Nomad has said what runs.
	proven time.Time
	// watchedTo is proven as of the last reconciliation that went through.
	watchedTo time.Time
	outage    outage
}

func newMeter(b *books, policy *PolicyKeeper, nomad nomadState, placer Placer, logger hclog.Logger) *Meter {
	m := &Meter{books: b, policy: policy, nomad: nomad, placer: placer, now: b.now, logger: logger.Named("meter"),
		facts: make(chan fact, queueSize), rebuild: make(chan struct{}, 1), gpus: metering.NewTimeline(),
		stray: make(map[string]nomadevents.Allocation), checked: make(map[string]Verification)}
	b.wrote, b.unsure = m.wrote, func() { m.holdsChanged.Store(true) }
	return m
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
	if err := m.refresh(ctx, true); err != nil {
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
	m.proven, m.watchedTo, m.nextSnapshot = time.Time{}, time.Time{}, time.Time{}
	m.gpus, m.level, m.tried = metering.NewTimeline(), levels{}, make(map[string]int64)
	m.lists, m.repairs, m.dead, m.young = pace{}, pace{}, make(map[string]deadJob), make(map[string]bool)
	m.told, m.retries, m.unheard = make(map[string]uint64), make(map[string]retry), make(map[string]time.Time)
	m.sights = sights{listed: make(map[string]bool), ended: make(map[string]bool)}
	m.holdsChanged.Store(true)
	m.missed.Store(true)
	m.provenMS.Store(0)
	m.drift.Store(0)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leading, m.followed, m.written = true, make(map[string]bool), make(map[jobAt]heldAt)
}

func (m *Meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leading, m.endStream, m.written = false, nil, nil
	m.stray = make(map[string]nomadevents.Allocation)
	m.checked = make(map[string]Verification)
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

// follows has the event stream cover a namespace from now on.
func (m *Meter) follows(namespace string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.followed != nil && !m.followed[namespace] {
		m.followed[namespace] = true
		if m.endStream != nil {
			m.endStream()
		}
	}
}

// wrote notes a hold that this process has committed; a nil one has ended.
func (m *Meter) wrote(namespace, jobID string, h heldAt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leading {
		m.written[jobAt{namespace, jobID}] = h
	}
}

// restored forgets what is remembered of a store that was set back: it is of
// another past, even where the versions are the same.
func (m *Meter) restored() {
	m.books.doubt.Store(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leading {
		m.written = make(map[jobAt]heldAt)
	}
}

// pace bounds how much of the time something takes that may be long.
type pace struct {
	took time.Duration
	last time.Time
}

// due reports whether it may be done again.
func (p pace) due() bool { return p.took < listQuick || time.Since(p.last) >= listShare*p.took }

// measure returns the pace after it was done since begin.
func measure(begin time.Time) pace {
	now := time.Now()
	return pace{took: now.Sub(begin), last: now}
}

// refresh brings the open holds up to date: with what this process wrote, and
// with a list of all if others may have written and a list is not too dear now.
// must is for what cannot do with less than a list.
func (m *Meter) refresh(ctx context.Context, must bool) error {
	var failed error
	if (must || m.lists.due()) && m.holdsChanged.Swap(false) {
		begin := time.Now()
		holds, index, unreadable, err := m.books.listHolds(ctx)
		if err != nil {
			m.holdsChanged.Store(true)
			return err
		}
		m.open, m.listed, failed = holds, index, unreadable
		m.lists = measure(begin)
	}
	m.takeWritten()
	m.prune()
	return failed
}

// takeWritten puts into the open holds what this process wrote since they were
// listed.
func (m *Meter) takeWritten() {
	m.mu.Lock()
	written := m.written
	m.written = make(map[jobAt]heldAt)
	m.mu.Unlock()
	for job, h := range written {
		at, known := slices.BinarySearchFunc(m.open, heldAt{Hold: &ledger.Hold{Namespace: job.namespace, JobID: job.jobID}}, byJob)
		switch {
		case h.version <= m.listed || known && h.version <= m.open[at].version:
		case known && h.Hold == nil:
			m.open = slices.Delete(m.open, at, at+1)
		case known:
			m.open[at] = h
		case h.Hold != nil:
			m.open = slices.Insert(m.open, at, h)
		}
	}
}

// prune forgets what is noted of holds that have ended.
func (m *Meter) prune() {
	if len(m.looks)+len(m.tried)+len(m.dead)+len(m.young)+len(m.told)+len(m.retries)+len(m.unheard) <= len(m.open) {
		return
	}
	known := make(map[string]bool, len(m.open))
	for _, h := range m.open {
		known[h.JobKey()] = true
	}
	maps.DeleteFunc(m.looks, func(key string, _ look) bool { return !known[key] })
	maps.DeleteFunc(m.tried, func(key string, _ int64) bool { return !known[key] })
	maps.DeleteFunc(m.dead, func(key string, _ deadJob) bool { return !known[key] })
	maps.DeleteFunc(m.young, func(key string, _ bool) bool { return !known[key] })
	maps.DeleteFunc(m.told, func(key string, _ uint64) bool { return !known[key] })
	maps.DeleteFunc(m.retries, func(key string, _ retry) bool { return !known[key] })
	maps.DeleteFunc(m.unheard, func(key string, _ time.Time) bool { return !known[key] })
}

func (m *Meter) loop(ctx context.Context, fence ledger.Fence) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		var err error
		select { // a snapshot that is due comes before news that it may contain
		case <-m.rebuild:
			err = m.reconcile(ctx, fence)
		default:
			select {
			case <-ctx.Done():
				return
			case f := <-m.facts:
				err = m.handle(ctx, fence, m.drain(f))
			case <-m.rebuild:
				err = m.reconcile(ctx, fence)
			case <-tick.C:
				err = m.beat(ctx, fence)
			}
		}
		if err != nil {
			m.failed(ctx, err)
		}
	}
}

// beat is what happens every second.
func (m *Meter) beat(ctx context.Context, fence ledger.Fence) error {
	now := m.now()
	if !now.Before(m.nextSnapshot) || m.outage.due(now) {
		m.nextSnapshot = now.Add(min(reconcileEvery, m.interval()))
		m.Rebuild()
	}
	err := m.tick(ctx, fence)
	m.duties.tick(ctx, fence, func(err error) { m.failed(ctx, err) })
	return err
}

// interval is how often running work is posted by the policy, as far as the
// rotation allows.
func (m *Meter) interval() time.Duration {
	return cmp.Or(m.policy.State().Policy.Meter.Interval, budget.DefaultInterval)
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
