package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// news is what is to be told to the hold of one job.
type news struct {
	// known is the hold as it was listed; a nil hold if it must be read.
	known            heldAt
	namespace, jobID string
	allocations      []nomadevents.Allocation
	// lost are the ids of allocations that gave GPUs to one of another job.
	lost []string

	// doubtful says that one of the allocations needs a second look, crowded that more
	// of them run than the job was admitted for.
	doubtful, crowded bool
}

// budget is that of the hold, "" if it is not known.
func (n *news) budget() string {
	if n.known.Hold == nil {
		return ""
	}
	return n.known.Budget
}

// observe takes in facts about allocations and posts what they used.
func (m *Meter) observe(ctx context.Context, fence ledger.Fence, allocations []nomadevents.Allocation) error {
	if len(allocations) == 0 {
		return nil
	}
	all := m.newsOf(allocations)
	errs := m.takeIn(ctx, fence, all)
	for i, n := range all {
		stray := errors.Is(errs[i], errNoHold)
		if errs[i] = ignore(errs[i], errNoHold); errs[i] != nil {
			continue
		}
		if n.crowded {
			m.duties.change(n.namespace, n.jobID)
		}
		ended := false
		for _, a := range n.allocations {
			if stray && !a.Terminal && !m.runs(ctx, a) {
				continue
			}
			m.note(a, stray)
			ended = ended || a.Terminal
		}
		if n.doubtful || ended && !stray {
			m.Touch(n.namespace, n.jobID) // it may have been the last one
		}
	}
	return jobErrors(all, errs)
}

// newsOf sorts facts by job, and adds the jobs whose allocations lost GPUs to one
// of these.
func (m *Meter) newsOf(allocations []nomadevents.Allocation) []*news {
	byJob := make(map[string]*news)
	var all []*news
	of := func(namespace, jobID string) *news {
		key := namespace + "\x00" + jobID
		if byJob[key] == nil {
			byJob[key] = &news{namespace: namespace, jobID: jobID}
			all = append(all, byJob[key])
		}
		return byJob[key]
	}
	var lost []string
	for _, a := range allocations {
		n := of(a.Namespace, a.JobID)
		n.allocations = append(n.allocations, a)
		if m.sights.stale(a) {
			continue
		}
		m.sights.see(a)
		lost = append(lost, m.gpus.See(a.ID, a.CreateIndex, a.Created.UnixMilli(), a.IDs())...)
	}
	for _, n := range m.losers(lost) {
		of(n.namespace, n.jobID).lost = n.lost
	}
	return all
}

// losers are the jobs of allocations that lost GPUs and are not known to have
// ended.
func (m *Meter) losers(lost []string) []*news {
	var all []*news
	if len(lost) == 0 {
		return all
	}
	m.takeWritten()
	for _, h := range m.open {
		n := &news{known: h, namespace: h.Namespace, jobID: h.JobID}
		for _, t := range h.Live() {
			if slices.Contains(lost, t.Alloc) {
				n.lost = append(n.lost, t.Alloc)
			}
		}
		if len(n.lost) > 0 {
			all = append(all, n)
		}
	}
	return all
}

// takeIn tells holds what is new about their allocations and posts what they
// used, all together: those of one budget behind one another, into which order it
// brings the news. It returns an error for each; errNoHold is one of a job without
// a hold.
func (m *Meter) takeIn(ctx context.Context, fence ledger.Fence, all []*news) []error {
	p := m.policy.State().Policy
	for _, n := range all {
		if n.known.Hold == nil {
			n.known = m.openHold(n.namespace, n.jobID)
		}
	}
	slices.SortStableFunc(all, func(a, b *news) int { return strings.Compare(a.budget(), b.budget()) })
	targets, calendar := make([]target, len(all)), ledger.CalendarOf(p)
	for i, n := range all {
		targets[i] = target{key: holdKey(n.namespace, n.jobID), calendar: calendar, known: n.known}
	}
	return m.books.updateAll(ctx, fence, targets, func(i int, v view) (change, error) {
		n := all[i]
		n.doubtful, n.crowded = false, false
		if v.hold.Hold == nil {
			return change{}, errNoHold
		}
		next, changed := m.observed(p, *v.hold.Hold, n)
		if !changed {
			return change{}, errNoChange
		}
		next, posted, entries := metering.Post(p, next, m.proven)
		n.crowded = crowded(next)
		return change{hold: &next, posted: posted, entries: entries}, nil
	})
}

// openHold is the hold of a job as it was listed; a nil hold if it is not known.
func (m *Meter) openHold(namespace, jobID string) heldAt {
	at, known := slices.BinarySearchFunc(m.open, heldAt{Hold: &ledger.Hold{Namespace: namespace, JobID: jobID}}, byJob)
	if !known {
		return heldAt{}
	}
	return m.open[at]
}

// crowded reports whether more allocations of a group run than the job has: they are of
// a version that came back without a word (see gate, stable), or those of the one before
// are still stopping.
func crowded(h ledger.Hold) bool {
	return h.Pending == nil && slices.ContainsFunc(h.Lines, func(line ledger.Line) bool {
		running := 0
		for _, t := range h.Live() {
			if t.Group == line.Group {
				running++
			}
		}
		return running > line.Count
	})
}

// observed is the hold after the news, and whether it is another one.
func (m *Meter) observed(p *budget.Policy, h ledger.Hold, n *news) (next ledger.Hold, changed bool) {
	next = h
	take := func(o ledger.Observation) {
		after, moved := ledger.Observe(next, o, m.now().UnixMilli())
		next, changed = after, changed || moved
	}
	for _, a := range n.allocations {
		if m.dated(h, a) {
			n.doubtful = true
			continue
		}
		if m.sights.stale(a) && !tracked(h, a.ID) || m.former(h, a) {
			continue
		}
		m.verify(h, a)
		take(m.observation(p, a))
	}
	for _, t := range h.Live() {
		if slices.Contains(n.lost, t.Alloc) {
			take(ledger.Observation{Alloc: t.Alloc, Unknown: t.Unknown, Given: m.gpus.Given(t.Alloc, idsOf(t), 0)})
		}
	}
	return next, changed
}

// idsOf are the devices of an allocation, those that it lost included.
func idsOf(t ledger.Track) []string {
	var ids []string
	for _, g := range t.GPUs {
		ids = append(ids, g.IDs...)
	}
	return ids
}

// jobErrors joins what went wrong, job by job.
func jobErrors(all []*news, errs []error) error {
	var failed []error
	for i, err := range errs {
		if err != nil {
			failed = append(failed, fmt.Errorf("job %q in namespace %q: %w", all[i].jobID, all[i].namespace, err))
		}
	}
	return joinSome(failed)
}

// joinedMost is how many errors are told of one kind of work: when nothing can be
// written, all of them say the same.
const joinedMost = 5

// joinSome joins the first of many errors and says how many there are.
func joinSome(errs []error) error {
	if more := len(errs) - joinedMost; more > 0 {
		errs = append(errs[:joinedMost:joinedMost], fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
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

// dated reports whether a fact needs a second look: an allocation that is older than
// the hold. It may be work that was there before Governor, or news from an earlier life
// of the job id that came late: posting that again would count it twice.
func (m *Meter) dated(h ledger.Hold, a nomadevents.Allocation) bool {
	return m.older(h, a) || !a.Terminal && !tracked(h, a.ID) && a.CreateIndex <= h.FirstIndex
}

// older reports whether an allocation that the hold would take in is older than it. A
// process that is stopped between reading the job and deciding about it takes a life
// that has ended meanwhile for the present one.
func (m *Meter) older(h ledger.Hold, a nomadevents.Allocation) bool {
	_, posted := slices.BinarySearch(h.Finished, a.ID)
	return !posted && !tracked(h, a.ID) && a.CreateIndex > h.FirstIndex && a.Created.Before(m.byNomad(time.UnixMilli(h.CreatedMS)))
}

// former reports whether an allocation ended so long before the hold was made that it
// is of an earlier life of the job id, whatever the clocks show.
func (m *Meter) former(h ledger.Hold, a nomadevents.Allocation) bool {
	return a.Terminal && !tracked(h, a.ID) && a.Ended.Before(m.byNomad(time.UnixMilli(h.CreatedMS)).Add(-confirmWithin))
}

func tracked(h ledger.Hold, alloc string) bool {
	return slices.ContainsFunc(h.Tracks, func(t ledger.Track) bool { return t.Alloc == alloc })
}

// unclassified is the class of GPUs that no gpu_class names: their time is
// posted, without a price.
const unclassified = "unclassified"

func (m *Meter) observation(p *budget.Policy, a nomadevents.Allocation) ledger.Observation {
	o := ledger.Observation{Alloc: a.ID, Name: a.Name, Group: a.Group, Node: a.NodeID, CreateIndex: a.CreateIndex,
		StartMS: a.Created.UnixMilli(), Done: a.Done, Estimated: a.Estimated, Unknown: a.Unknown, RunMS: milliOf(a.Began), RanMS: milliOf(a.Left)}
	if a.Terminal {
		o.EndMS = a.Ended.UnixMilli()
	}
	o.Given = m.gpus.Given(a.ID, a.IDs(), o.EndMS)
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

// milliOf is an instant in Unix milliseconds; 0 for none.
func milliOf(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixMilli()
}

// byNomad is a moment of our clock on Nomad's, where ours is ahead; one that is
// behind only proves less. To be called after Nomad has answered.
func (m *Meter) byNomad(at time.Time) time.Time { return at.Add(-m.nomad.Ahead()) }

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
	if m.noted(a, stray) {
		m.logger.Warn("GPU allocation without a hold", "namespace", a.Namespace, "job_id", a.JobID, "alloc_id", a.ID, "gpus", len(a.IDs()))
		m.duties.stray(a)
	}
}

// strayAgain tells of the strays of a job that has changed.
func (m *Meter) strayAgain(namespace, jobID string) {
	var again []nomadevents.Allocation
	m.mu.Lock()
	for _, a := range m.stray {
		if a.Namespace == namespace && a.JobID == jobID {
			again = append(again, a)
		}
	}
	m.mu.Unlock()
	for _, a := range again {
		m.duties.stray(a)
	}
}

// noted is note, and reports whether it is a stray that was not known.
func (m *Meter) noted(a nomadevents.Allocation, stray bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.Terminal {
		delete(m.checked, a.ID)
	}
	if !stray || a.Terminal {
		delete(m.stray, a.ID)
		return false
	}
	_, known := m.stray[a.ID]
	m.stray[a.ID] = a
	return !known
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
	slices.SortFunc(out, byAlloc)
	return out
}

func byAlloc(a, b Verification) int { return strings.Compare(a.Alloc, b.Alloc) }

// verifications are those of all jobs.
func (m *Meter) verifications() []Verification {
	m.mu.Lock()
	out := slices.Collect(maps.Values(m.checked))
	m.mu.Unlock()
	slices.SortFunc(out, byAlloc)
	return out
}

// placedBy are verifications by the key of the hold.
func placedBy(all []Verification) map[string][]Verification {
	out := make(map[string][]Verification)
	for _, v := range all {
		key := holdKey(v.Namespace, v.JobID)
		out[key] = append(out[key], v)
	}
	return out
}
