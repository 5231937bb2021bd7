package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metering"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// Verification is the comparison of one allocation with its offer.
type Verification struct {
	Namespace, JobID, Group, Alloc, Node string
	IDs                                  []string
	// Difference is "" when the allocation got exactly what was offered.
	Difference string
}

// errNoHold means that the job has no open hold.
var errNoHold = errors.New("no open hold")

// mutate changes one hold by a function of it and posts what the change says.
// The function may run several times. No open hold is errNoHold.
func (m *Meter) mutate(ctx context.Context, fence ledger.Fence, namespace, jobID string, f func(p *budget.Policy, h heldAt) (change, error)) error {
	policy := m.policy.State().Policy
	t := target{key: holdKey(namespace, jobID), calendar: ledger.CalendarOf(policy)}
	return m.books.update(ctx, fence, t, func(v view) (change, error) {
		if v.hold.Hold == nil {
			return change{}, errNoHold
		}
		return f(policy, v.hold)
	})
}

// observe takes in a fact about one allocation and posts what it used.
func (m *Meter) observe(ctx context.Context, fence ledger.Fence, a nomadevents.Allocation) error {
	doubtful := false
	err := m.mutate(ctx, fence, a.Namespace, a.JobID, func(p *budget.Policy, h heldAt) (change, error) {
		if doubtful = dated(*h.Hold, a); doubtful {
			return change{}, errNoChange
		}
		m.verify(*h.Hold, a)
		next, changed := ledger.Observe(*h.Hold, m.observation(p, a), m.now().UnixMilli())
		if !changed {
			return change{}, errNoChange
		}
		next, posted, entries := metering.Post(p, next, m.proven)
		return change{hold: &next, posted: posted, entries: entries}, nil
	})
	if err != nil && !errors.Is(err, errNoHold) {
		return fmt.Errorf("observe allocation %s: %w", a.ID, err)
	}
	stray := errors.Is(err, errNoHold)
	if stray && !a.Terminal && !m.runs(ctx, a) {
		return nil
	}
	m.note(a, stray)
	if doubtful || (a.Terminal && err == nil) {
		m.Touch(a.Namespace, a.JobID) // it may have been the last one
	}
	return nil
}

// runs asks Nomad whether an allocation without a hold is still there. A new
// event stream begins with what Nomad's buffer still has, so that old news come
// again (nomad/stream/event_broker.go, Subscribe); for a hold the ledger knows
// what it has seen, but without one nothing else tells old news from a stray.
func (m *Meter) runs(ctx context.Context, a nomadevents.Allocation) bool {
	m.mu.Lock()
	_, known := m.stray[a.ID]
	m.mu.Unlock()
	if known {
		return true
	}
	now, err := m.nomad.JobAllocations(ctx, a.Namespace, a.JobID)
	return err == nil && slices.ContainsFunc(now, func(b nomadevents.Allocation) bool { return b.ID == a.ID && !b.Terminal })
}

// dated reports whether a fact needs a second look: an allocation that is said
// to run and is older than the hold. It may be work that was there before
// Governor, or news from an earlier life of the job id that came late: posting
// that again would count it twice.
func dated(h ledger.Hold, a nomadevents.Allocation) bool {
	return !a.Terminal && a.CreateIndex <= h.FirstIndex && !tracked(h, a.ID)
}

func tracked(h ledger.Hold, alloc string) bool {
	return slices.ContainsFunc(h.Tracks, func(t ledger.Track) bool { return t.Alloc == alloc })
}

// unclassified is the class of GPUs that no gpu_class names: their time is
// posted, without a price.
const unclassified = "unclassified"

func (m *Meter) observation(p *budget.Policy, a nomadevents.Allocation) ledger.Observation {
	o := ledger.Observation{Alloc: a.ID, Name: a.Name, Group: a.Group, Node: a.NodeID, CreateIndex: a.CreateIndex,
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

// proof is the moment up to which running work may be posted when Nomad was
// asked at began: whatever ended before it, on Nomad's clock, was in the answer.
// A watermark that never passes it needs no correction when the end is known.
func proof(began time.Time) time.Time { return began.Add(-clockMargin) }

// verify compares an allocation with the offer that its job was pinned to, once.
func (m *Meter) verify(h ledger.Hold, a nomadevents.Allocation) {
	// What was placed under an earlier specification had another offer.
	if a.Terminal || len(h.Placement) == 0 || a.CreateIndex <= h.JobModifyIndex {
		return
	}
	m.mu.Lock()
	_, seen := m.checked[a.ID]
	m.mu.Unlock()
	if seen {
		return
	}
	difference, known := m.placer.Verify(h.Placement, a.Group, a.NodeID, a.ByTask)
	if !known {
		return
	}
	m.mu.Lock()
	m.checked[a.ID] = Verification{Namespace: a.Namespace, JobID: a.JobID, Group: a.Group, Alloc: a.ID, Node: a.NodeName,
		IDs: a.IDs(), Difference: difference}
	m.mu.Unlock()
	if difference != "" {
		m.logger.Warn("placement differs from offer", "namespace", a.Namespace, "job_id", a.JobID, "alloc_id", a.ID, "difference", difference)
		return
	}
	m.logger.Info("placement verified", "namespace", a.Namespace, "job_id", a.JobID, "alloc_id", a.ID)
}

// note remembers whether a running allocation is a stray, and forgets all about
// one that ended.
func (m *Meter) note(a nomadevents.Allocation, stray bool) {
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

// forget drops what is remembered of allocations that Nomad no longer lists.
func (m *Meter) forget(listed map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.stray {
		if !listed[id] {
			delete(m.stray, id)
		}
	}
	for id := range m.checked {
		if !listed[id] {
			delete(m.checked, id)
		}
	}
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
