package ledger

import (
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// once is how long one start is held at most: an even share of the whole, which
// is Starts equal runs.
func (l Line) once() int64 {
	if l.Starts <= 1 {
		return max(0, l.RuntimeMS)
	}
	return max(0, l.RuntimeMS) / int64(l.Starts)
}

// need is the larger of the confirmed and the pending lines, group by group.
func (h Hold) need() []Line {
	if h.Pending == nil {
		return h.Lines
	}
	return mergeLines(h.Lines, h.Pending)
}

// mergeLines bounds both lists: each group's larger need. It is sorted by group.
func mergeLines(a, b []Line) []Line {
	byGroup := make(map[string]Line)
	for _, line := range slices.Concat(a, b) {
		if have, seen := byGroup[line.Group]; seen {
			line = largerLine(have, line)
		}
		byGroup[line.Group] = line
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
	return Line{
		Group: a.Group, Count: max(a.Count, b.Count), Canaries: min(a.Canaries, b.Canaries),
		RuntimeMS: max(a.RuntimeMS, b.RuntimeMS), OnceMS: max(a.OnceMS, b.OnceMS),
		Starts: min(a.Starts, b.Starts), // fewer starts are longer ones
		TailMS: max(a.tail(), b.tail()),
		Lease:  a.Lease || b.Lease, Needs: mergeNeeds(a.Needs, b.Needs),
		Overlap: max(a.Overlap, b.Overlap), OverlapMS: max(a.OverlapMS, b.OverlapMS), EveryNode: a.EveryNode || b.EveryNode,
	}
}

func mergeNeeds(a, b []Need) []Need {
	sums := func(needs []Need) map[string]Need {
		m := make(map[string]Need)
		for _, n := range needs {
			key := joinClasses(n.Classes)
			have := m[key]
			m[key] = Need{Classes: n.Classes, GPUs: have.GPUs + n.GPUs, PerGPUHour: max(have.PerGPUHour, n.PerGPUHour),
				Watts: max(have.Watts, n.Watts)}
		}
		return m
	}
	merged := sums(a)
	for key, n := range sums(b) {
		have := merged[key]
		merged[key] = Need{Classes: n.Classes, GPUs: max(have.GPUs, n.GPUs), PerGPUHour: max(have.PerGPUHour, n.PerGPUHour),
			Watts: max(have.Watts, n.Watts)}
	}
	out := make([]Need, 0, len(merged))
	for _, n := range merged {
		out = append(out, n)
	}
	sort.Slice(out, func(i, j int) bool { return joinClasses(out[i].Classes) < joinClasses(out[j].Classes) })
	return out
}

func joinClasses(classes []string) string { return strings.Join(classes, "\x00") }

// uncovered is what is left of needs after the GPUs that an allocation already
// holds are subtracted. Needs with fewer classes to choose from go first.
func uncovered(needs []Need, have []TrackGPUs) []Need {
	left := make(map[string]int64)
	for _, g := range have {
		left[g.Class] += int64(len(g.IDs))
	}
	ordered := slices.Clone(needs)
	slices.SortStableFunc(ordered, func(a, b Need) int { return len(a.Classes) - len(b.Classes) })
	var out []Need
	for _, n := range ordered {
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

// noIndex is the index of a name that has none.
const noIndex = math.MaxInt

// indexOf reads the index out of an allocation name, "job.group[3]".
func indexOf(name string) int {
	open := strings.LastIndexByte(name, '[')
	if open < 0 || !strings.HasSuffix(name, "]") {
		return noIndex
	}
	n, err := strconv.Atoi(name[open+1 : len(name)-1])
	if err != nil || n < 0 {
		return noIndex
	}
	return n
}
