package ledger

import (
	"slices"
	"sort"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Calendar is how time divides into periods: the zone, and the windows in which
// some budget has a limit.
type Calendar struct {
	Location *time.Location
	Windows  []budget.Window
}

// Charges is what the hold contributes to the held amounts of its budgets:
// for every live allocation the time from its watermark to its latest end, in
// the periods where that falls; for every allocation still to come its whole
// time in any period; and the GPUs of both at once as gauges.
func Charges(h Hold, cal Calendar) Vector {
	v := Vector{}
	for _, t := range h.Tracks {
		if t.EndMS == 0 {
			chargeTrack(v, h, t, cal)
		} else if t.MarkMS < t.EndMS {
			chargePlaced(v, t.GPUs, t.MarkMS, t.EndMS, cal)
		}
	}
	for _, line := range h.need() {
		chargeUnplaced(v, h, line, cal)
	}
	return v
}

// need is the larger of the confirmed and the pending lines, group by group.
func (h Hold) need() []Line {
	byGroup := make(map[string]Line)
	for _, line := range slices.Concat(h.Lines, h.Pending) {
		have, seen := byGroup[line.Group]
		if !seen {
			byGroup[line.Group] = line
			continue
		}
		byGroup[line.Group] = largerLine(have, line)
	}
	lines := make([]Line, 0, len(byGroup))
	for _, line := range byGroup {
		lines = append(lines, line)
	}
	sort.Slice(lines, func(i, j int) bool { return lines[i].Group < lines[j].Group })
	return lines
}

// largerLine bounds both lines: the larger count and time, and for each set of
// classes the larger number of GPUs at the higher price.
func largerLine(a, b Line) Line {
	out := Line{Group: a.Group, Count: max(a.Count, b.Count), RuntimeMS: max(a.RuntimeMS, b.RuntimeMS),
		Lease: a.Lease || b.Lease}
	out.Needs = mergeNeeds(a.Needs, b.Needs)
	return out
}

func mergeNeeds(a, b []Need) []Need {
	sums := func(needs []Need) map[string]Need {
		m := make(map[string]Need)
		for _, n := range needs {
			key := joinClasses(n.Classes)
			have := m[key]
			m[key] = Need{Classes: n.Classes, GPUs: have.GPUs + n.GPUs, PerGPUHour: max(have.PerGPUHour, n.PerGPUHour)}
		}
		return m
	}
	merged := sums(a)
	for key, n := range sums(b) {
		have := merged[key]
		merged[key] = Need{Classes: n.Classes, GPUs: max(have.GPUs, n.GPUs), PerGPUHour: max(have.PerGPUHour, n.PerGPUHour)}
	}
	out := make([]Need, 0, len(merged))
	for _, n := range merged {
		out = append(out, n)
	}
	sort.Slice(out, func(i, j int) bool { return joinClasses(out[i].Classes) < joinClasses(out[j].Classes) })
	return out
}

func joinClasses(classes []string) string {
	key := ""
	for _, c := range classes {
		key += c + "\x00"
	}
	return key
}

// chargeTrack charges a running allocation: its GPUs as a gauge and its time up
// to its latest end. Past that end it charges only the gauge: what it uses then
// is posted as it happens.
func chargeTrack(v Vector, h Hold, t Track, cal Calendar) {
	for _, g := range t.GPUs {
		addGauge(v, g.Class, quantity.Amount(len(g.IDs)))
	}
	if end := h.latestEnd(t); t.MarkMS < end {
		chargePlaced(v, t.GPUs, t.MarkMS, end, cal)
	}
}

func addGauge(v Vector, class string, gpus quantity.Amount) {
	v.Add(ConcurrentKey, budget.GPUs(class), gpus)
	if class != budget.AnyClass {
		v.Add(ConcurrentKey, budget.GPUs(budget.AnyClass), gpus)
	}
}

// latestEnd is when a running allocation has used up the time of its slot.
func (h Hold) latestEnd(t Track) int64 {
	if t.LeaseMS > 0 {
		return t.LeaseMS
	}
	for _, line := range h.need() {
		if line.Group == t.Group {
			return t.StartMS + max(0, line.RuntimeMS-h.Slots[t.Name].UsedMS)
		}
	}
	return t.MarkMS
}

// chargePlaced charges GPUs over [fromMS, toMS) to the periods it overlaps.
func chargePlaced(v Vector, gpus []TrackGPUs, fromMS, toMS int64, cal Calendar) {
	from, to := time.UnixMilli(fromMS), time.UnixMilli(toMS)
	for _, w := range cal.Windows {
		for p := budget.PeriodAt(w, from, cal.Location); ; p = p.Next(cal.Location) {
			overlap := quantity.Amount(p.Overlap(from, to))
			for _, g := range gpus {
				n := int64(len(g.IDs))
				addTime(v, p.Key(), []string{g.Class}, overlap.Mul(n), g.PerGPUHour)
			}
			if w == budget.Total || !p.End.Before(to) {
				break
			}
		}
	}
}

// addTime charges GPU time to each candidate class, to any class once, and its
// price.
func addTime(v Vector, period string, classes []string, ms, perHour quantity.Amount) {
	if ms <= 0 {
		return
	}
	for _, class := range classes {
		v.Add(period, budget.GPUTime(class), ms)
	}
	v.Add(period, budget.GPUTime(budget.AnyClass), ms)
	v.Add(period, budget.Cost, quantity.Cost(ms, perHour))
}

// chargeUnplaced charges the allocations of a line that do not run yet, and the
// part of a running one's slot that a resubmission enlarges.
func chargeUnplaced(v Vector, h Hold, line Line, cal Calendar) {
	taken := 0
	for _, name := range h.slotNames(line.Group) {
		if taken == line.Count {
			return
		}
		taken++
		slot := h.Slots[name]
		if line.Lease || h.Pending != nil {
			slot = Slot{} // a changed job starts its finished allocations again
		}
		remaining := line.RuntimeMS - slot.UsedMS
		needs := line.Needs
		if live, ok := h.liveTrack(name); ok {
			needs = uncovered(line.Needs, live.GPUs)
		} else if slot.Done {
			continue
		}
		chargeAny(v, needs, 1, remaining, cal)
	}
	chargeAny(v, line.Needs, int64(line.Count-taken), line.RuntimeMS, cal)
}

// slotNames lists the allocation names of a group that are known, sorted.
func (h Hold) slotNames(group string) []string {
	names := make(map[string]bool)
	for _, t := range h.Tracks {
		if t.Group == group {
			names[t.Name] = true
		}
	}
	prefix := h.JobID + "." + group + "["
	for name := range h.Slots {
		if len(name) > len(prefix) && name[:len(prefix)] == prefix {
			names[name] = true
		}
	}
	out := make([]string, 0, len(names))
	for name := range names {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (h Hold) liveTrack(name string) (Track, bool) {
	for _, t := range h.Tracks {
		if t.Name == name && t.EndMS == 0 {
			return t, true
		}
	}
	return Track{}, false
}

// uncovered is what is left of needs after the GPUs that an allocation already
// holds are subtracted, class by class.
func uncovered(needs []Need, have []TrackGPUs) []Need {
	left := make(map[string]int64)
	for _, g := range have {
		left[g.Class] += int64(len(g.IDs))
	}
	var out []Need
	for _, n := range needs {
		for _, class := range n.Classes {
			covered := min(left[class], n.GPUs)
			left[class] -= covered
			n.GPUs -= covered
		}
		if n.GPUs > 0 {
			out = append(out, n)
		}
	}
	return out
}

// chargeAny charges count allocations that may start at any time: each counts
// min(its time, the period's length) in every period of every window.
func chargeAny(v Vector, needs []Need, count, runtimeMS int64, cal Calendar) {
	if count <= 0 {
		return
	}
	for _, n := range needs {
		gpus := quantity.Amount(n.GPUs).Mul(count)
		for _, class := range n.Classes {
			v.Add(ConcurrentKey, budget.GPUs(class), gpus)
		}
		v.Add(ConcurrentKey, budget.GPUs(budget.AnyClass), gpus)
		for _, w := range cal.Windows {
			share := max(0, runtimeMS)
			if longest := budget.LongestMillis(w); longest >= 0 {
				share = min(share, longest)
			}
			addTime(v, AnyPeriod(w), n.Classes, quantity.Amount(share).Mul(int64(gpus)), n.PerGPUHour)
		}
	}
}
