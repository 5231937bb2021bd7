package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// factCollector asks what is true at the moment of a scrape.
type factCollector struct {
	facts Facts
	now   func() time.Time
	descs factDescs
}

type factDescs struct {
	leader, lag, ungoverned, drift, gpus, free, revision, reload, since, history *prometheus.Desc
}

func newFactDescs() factDescs {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return factDescs{
		leader:     desc("governor_leader", "Whether this agent leads: 1 or 0."),
		lag:        desc("governor_meter_lag_seconds", "Time since the last moment of which the leader knows what ran; only the leader has it."),
		ungoverned: desc("governor_ungoverned_gpus", "GPUs of running allocations without a hold; only the leader has it."),
		drift:      desc("governor_reconcile_drift", "Balances and runs that the last comparison with the open holds had to set right, 0 when all is well; only the leader has it."),
		gpus:       desc("governor_gpus", "GPUs of ready clients; only the leader has it.", "node_pool", "class"),
		free:       desc("governor_gpus_unallocated", "GPUs of ready clients that no allocation has; only the leader has it.", "node_pool", "class"),
		revision:   desc("governor_policy_revision_info", "The policy in force; always 1.", "revision", "enforcement", "currency"),
		reload:     desc("governor_policy_last_reload_successful", "Whether the policy files in the store are in force: 1, or 0 when they are broken and an earlier policy is."),
		since:      desc("governor_policy_last_reload_timestamp_seconds", "Since when the policy is in force, as this agent knows it."),
		history:    desc("governor_history_recording", "Whether usage is recorded in this agent's history: 1, or 0 when it waits in the ledger; absent for an agent that keeps none."),
	}
}

// Describe implements prometheus.Collector.
func (c *factCollector) Describe(to chan<- *prometheus.Desc) {
	d := c.descs
	for _, one := range []*prometheus.Desc{d.leader, d.lag, d.ungoverned, d.drift, d.gpus, d.free, d.revision, d.reload, d.since, d.history} {
		to <- one
	}
}

// Collect implements prometheus.Collector.
func (c *factCollector) Collect(to chan<- prometheus.Metric) {
	add := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	add(c.descs.leader, number(c.facts.Leader()))
	if lag, ok := c.facts.Lag(); ok {
		add(c.descs.lag, lag.Seconds())
	}
	if l, ok := c.facts.Local(); ok {
		add(c.descs.ungoverned, float64(l.Ungoverned))
		add(c.descs.drift, float64(l.Drift))
		for _, have := range l.Capacity {
			add(c.descs.gpus, float64(have.GPUs), have.Pool, have.Class)
			add(c.descs.free, float64(have.Free), have.Pool, have.Class)
		}
	}
	if p := c.facts.Policy(); p.Loaded {
		add(c.descs.revision, 1, p.Revision, p.Enforcement, p.Currency)
		add(c.descs.reload, number(!p.Broken))
		add(c.descs.since, float64(p.Since.UnixMilli())/1000)
	}
	if failing, kept := c.facts.HistoryFailing(); kept {
		add(c.descs.history, number(!failing))
	}
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
