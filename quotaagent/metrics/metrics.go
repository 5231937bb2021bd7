package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// scrapesMax is how many scrapes are answered at once; more get 503.
const scrapesMax = 8

// Metrics are those of one agent process. Its methods may be called concurrently.
type Metrics struct {
	registry *prometheus.Registry
	now      func() time.Time

	decisions    *prometheus.CounterVec
	undecided    prometheus.Counter
	duration     *prometheus.HistogramVec
	waited       prometheus.Histogram
	commits      *prometheus.CounterVec
	commitTime   prometheus.Histogram
	conflicts    prometheus.Counter
	enforcements *prometheus.CounterVec
	audited      *prometheus.CounterVec
	overdrafts   *prometheus.CounterVec
	notices      *prometheus.CounterVec

	usage usage
	// board is the ledger as shown; places has one for each scrape under way.
	board  guarded[Board]
	places chan struct{}
}

// Facts are what is asked at the moment of a scrape. None may block.
type Facts struct {
	// Leader says whether this agent leads.
	Leader func() bool
	// Lag is by how much what is metered is behind; false where this agent does not
	// meter.
	Lag func() (time.Duration, bool)
	// Local are the gauges that only the leader has.
	Local func() (Local, bool)
	// Policy is what is in force.
	Policy func() Policy
	// HistoryFailing says that history cannot be recorded; kept is false for an agent
	// that keeps none.
	HistoryFailing func() (failing, kept bool)
}

// Local is what the leading agent sees beside the ledger.
type Local struct {
	// Ungoverned are the GPUs of allocations without a hold, Drift how many sums the
	// last comparison with the open holds had to set right.
	Ungoverned, Drift int
	Capacity          []Capacity
}

// Capacity is how many GPUs of a class a node pool has, and how many of them no
// allocation has.
type Capacity struct {
	Pool, Class string
	GPUs, Free  int
}

// Policy is the policy in force.
type Policy struct {
	Revision, Enforcement, Currency string
	// Broken says that the files in the store are others, which cannot be used.
	Broken bool
	Loaded bool
	Since  time.Time
}

// New returns the metrics of an agent that has done nothing yet.
func New(now func() time.Time, version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), now: now, places: make(chan struct{}, scrapesMax)}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m.decisions = counter("governor_decisions_total", "Decisions about submissions by this agent.", "verdict", "reason", "request", "shadow")
	m.undecided = prometheus.NewCounter(prometheus.CounterOpts{Name: "governor_decisions_failed_total",
		Help: "Submissions about which this agent could not decide, answered with 503."})
	m.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "governor_decision_duration_seconds",
		Help: "Time that a decision took, with placement and the hold, without Nomad's registration.", Buckets: decisionBuckets()}, []string{"request"})
	m.waited = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "governor_queue_wait_seconds",
		Help: "Time that jobs released by this agent had waited in the queue.", Buckets: waitBuckets()})
	m.commits = counter("governor_ledger_commits_total", "Transactions of this agent with the ledger's store, by result.", "result")
	m.commitTime = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "governor_ledger_commit_duration_seconds",
		Help: "Time that the store took for one transaction.", Buckets: decisionBuckets()})
	m.conflicts = prometheus.NewCounter(prometheus.CounterOpts{Name: "governor_ledger_conflicts_total",
		Help: "Transactions of this agent that lost a compare-and-set and were made again."})
	m.enforcements = counter("governor_enforcements_total", "Steps of enforcement on running work, taken by this agent.", "action")
	m.audited = counter("governor_audit_entries_total", "Audit records written by this agent.", "kind")
	m.overdrafts = counter("governor_overdraft_total", "Stretches of usage beyond what was held for them, posted by this agent.", "cause")
	m.notices = counter("governor_notifications_total", "Attempts of this agent to deliver events to notifiers.", "notifier", "result")
	m.usage.begin()
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.decisions, m.undecided, m.duration, m.waited, m.commits, m.commitTime, m.conflicts, m.enforcements, m.audited, m.overdrafts, m.notices,
		&m.usage)
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "governor_build_info", Help: "The release of this agent; always 1.",
		ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	m.registry.MustRegister(build)
	return m
}

// decisionBuckets are from half a millisecond to ten seconds.
func decisionBuckets() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}

// waitBuckets are from a second to a week.
func waitBuckets() []float64 {
	return []float64{1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 3 * 24 * 3600, 7 * 24 * 3600}
}

// Watch adds what is asked at each scrape. Call it once, before Handler.
func (m *Metrics) Watch(f Facts) {
	m.registry.MustRegister(&factCollector{facts: f, now: m.now, descs: newFactDescs()})
}

// Decision is one decision.
type Decision struct {
	Verdict, Reason, Request string
	Shadow                   bool
}

// Decided counts a decision.
func (m *Metrics) Decided(d Decision) {
	shadow := "false"
	if d.Shadow {
		shadow = "true"
	}
	m.decisions.WithLabelValues(d.Verdict, d.Reason, d.Request, shadow).Inc()
}

// Took notes how long a submission of a kind was decided about, and whether that came
// to nothing. trace is the id of a sampled trace, "" for none.
func (m *Metrics) Took(request string, d time.Duration, failed bool, trace string) {
	if failed {
		m.undecided.Inc()
	}
	histogram := m.duration.WithLabelValues(request)
	if with, ok := histogram.(prometheus.ExemplarObserver); ok && trace != "" {
		with.ObserveWithExemplar(d.Seconds(), prometheus.Labels{"trace_id": trace})
		return
	}
	histogram.Observe(d.Seconds())
}

// Released notes how long a job had waited.
func (m *Metrics) Released(waited time.Duration) { m.waited.Observe(waited.Seconds()) }

// Committed counts a transaction; result is ok, conflict, unavailable or error.
func (m *Metrics) Committed(d time.Duration, result string) {
	m.commits.WithLabelValues(result).Inc()
	m.commitTime.Observe(d.Seconds())
}

// Conflicted counts a transaction that is made again.
func (m *Metrics) Conflicted() { m.conflicts.Inc() }

// Enforced counts a step on running work.
func (m *Metrics) Enforced(action string) { m.enforcements.WithLabelValues(action).Inc() }

// Audited counts an audit record.
func (m *Metrics) Audited(kind string) { m.audited.WithLabelValues(kind).Inc() }

// Notified counts an attempt to deliver; result is ok or failed.
func (m *Metrics) Notified(notifier, result string) {
	m.notices.WithLabelValues(notifier, result).Inc()
}

// Posted counts entries that this agent has posted, or recorded as a line of their
// own.
func (m *Metrics) Posted(entries []ledger.Entry, p Posting) {
	for i := range entries {
		if e := &entries[i]; e.Kind == ledger.OverdraftEntry {
			m.overdrafts.WithLabelValues(e.Cause).Inc()
		}
	}
	m.usage.add(entries, p)
}

// guarded is a value with a lock.
type guarded[T any] struct {
	mu sync.Mutex
	v  T
}

func (g *guarded[T]) do(f func(v *T)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.v)
}
