package agent

import (
	"context"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// What the web pages show comes from here: the same as the API answers, as values.

// Status is everything that an operator asks for first, with the ways around the gate.
func (a *Agent) Status(ctx context.Context) (Status, error) {
	status, err := a.Engine.Status(ctx, a.Meter)
	if said, ok := a.observed(ctx); ok && err == nil {
		said.add(&status)
	}
	if err == nil && a.bypasses != nil {
		status.Bypasses, err = a.bypasses.status(ctx, status.Leader)
	}
	return status, err
}

// Forecast is what is to be expected at the rate of the last whole days.
func (a *Agent) Forecast(ctx context.Context) (Capacity, error) {
	return a.capacity(ctx, capacityDays, nil)
}

// Statement is the account of usage that a query asks for. A zero time is the present
// period of the window "month".
func (a *Agent) Statement(ctx context.Context, q report.Query) (report.Statement, error) {
	if h, err := a.historyOf(); err == nil && q.From.IsZero() {
		if q.From, q.To, err = report.ParseTime("", "", h.now(), h.store.Location()); err != nil {
			return report.Statement{}, err
		}
	}
	return a.statement(ctx, q, nil)
}

// Receipts are those of a job's holds that were closed, the latest first.
func (a *Agent) Receipts(ctx context.Context, namespace, jobID string, limit int) ([]report.Receipt, error) {
	h, err := a.historyOf()
	if err != nil {
		return nil, err
	}
	return h.store.Receipts(ctx, namespace, jobID, limit)
}

// Decisions are those of all agents about one job, or about all for an empty id.
func (a *Agent) Decisions(ctx context.Context, namespace, jobID string, limit int) (DecisionList, error) {
	return a.allDecisions(ctx, history.DecisionQuery{Namespace: namespace, Job: jobID, Limit: limit}, nil, nil)
}

// AuditLog is the audit log from a record on; from the latest ones for 0.
func (a *Agent) AuditLog(ctx context.Context, from uint64) (AuditLog, error) {
	if from == 0 {
		head, _, err := a.chain.head(ctx)
		if err != nil {
			return AuditLog{}, err
		}
		from = 1
		if head.Seq > auditLatest {
			from = head.Seq - auditLatest + 1
		}
	}
	return a.chain.log(ctx, from)
}

// auditLatest is how many records the end of the audit log has.
const auditLatest = 100

// JobNow is everything that is known of one job at present.
type JobNow struct {
	JobReason
	// Hold is nil for a job that holds nothing, Queued for one that does not wait.
	Hold   *HoldStatus
	Queued *QueuedView
	// Asked is its worst case in words, Lines the same by task group.
	Asked string
	Lines []ledger.Line
	// Allocations that hold GPUs.
	Allocations []AllocationNow
}

// AllocationNow is one allocation with its GPUs.
type AllocationNow struct {
	ID, Name, Group string
	// Node is the id of the node.
	Node string
	// Start is when Nomad made it, Posted until when it is paid for, and End when it
	// ended; a zero End while it runs.
	Start, Posted, End time.Time
	GPUs               []GPUNow
}

// GPUNow is one GPU of an allocation.
type GPUNow struct {
	ID, Class string
	// PerGPUHour is its price, in micro-units.
	PerGPUHour quantity.Amount
	// Percent is the share of time in which a kernel ran, as read last; -1 where that is
	// not known.
	Percent int64
}

// JobNow reads everything that is known of one job.
func (a *Agent) JobNow(ctx context.Context, namespace, jobID string) (JobNow, error) {
	e := a.Engine
	p := e.policy.State().Policy
	out := JobNow{JobReason: unknownJob(namespace, jobID)}
	waits, hold, err := e.standsOf(ctx, p, namespace, jobID)
	if err != nil {
		return out, err
	}
	if waits != nil {
		out.JobReason = e.whyWaiting(p, out.JobReason, *waits)
		view := waits.view(p)
		out.Queued, out.Asked, out.Lines = &view, view.Need, waits.Queued.Lines
	}
	if hold != nil {
		out.JobReason = whyHolding(p, out.JobReason, *hold)
		status := holdStatus(*hold, a.verified(ctx, namespace, jobID))
		out.Hold, out.Lines = &status, linesOf(*hold)
		out.Asked = admission.Decision{Lines: out.Lines, Estimate: hold.Estimate}.Asked(p)
		out.Allocations = a.allocationsNow(ctx, *hold)
	}
	if a.history == nil {
		return out, nil
	}
	found, err := a.Decisions(ctx, namespace, jobID, decisionsShown)
	out.Decisions, out.Incomplete = found.Decisions, found.Incomplete
	return out, err
}

func (a *Agent) allocationsNow(ctx context.Context, h ledger.Hold) []AllocationNow {
	used := a.Utilization(ctx)
	at := func(ms int64) time.Time {
		if ms == 0 {
			return time.Time{}
		}
		return time.UnixMilli(ms)
	}
	out := make([]AllocationNow, 0, len(h.Tracks))
	for _, t := range h.Tracks {
		one := AllocationNow{ID: t.Alloc, Name: t.Name, Group: t.Group, Node: t.Node, Start: at(t.StartMS), Posted: at(t.MarkMS), End: at(t.EndMS)}
		for _, g := range t.GPUs {
			for _, id := range g.IDs {
				percent, known := used[id]
				if !known {
					percent = -1
				}
				one.GPUs = append(one.GPUs, GPUNow{ID: id, Class: g.Class, PerGPUHour: g.PerGPUHour, Percent: percent})
			}
		}
		out = append(out, one)
	}
	return out
}

// used is the utilisation of GPUs in percent that was read lately, by their ids.
func (m *Meter) used() map[string]int64 {
	out := make(map[string]int64)
	if m.gauges == nil {
		return out
	}
	g := m.gauges
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, r := range g.read {
		if r.gauge.Watched && g.now().Sub(r.at) <= fresh(m.interval()) {
			out[id] = r.gauge.Percent
		}
	}
	return out
}
