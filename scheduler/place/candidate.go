package place

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/index"
)

// candidate is one node that can run one allocation of a group now.
type candidate struct {
	node *cluster.Node
	// reserved says that it needs GPUs that were promised to another job.
	reserved bool
	// choices, one for each device ask, in the order of the ask.
	choices []choice
	// standing over all asks: what they cost is added up.
	standing index.Standing
	// freeLeft counts the devices of the node that stay free.
	freeLeft int
	// fits is how many allocations the node could run, at most as many as asked.
	fits int
	// loading is what the node loads first, where the job names state; weighs says that
	// it does.
	loading cluster.Loading
	weighs  bool
}

// newCandidate adds the choices up; free are the devices of the node that they leave.
func newCandidate(n *cluster.Node, choices []choice, free []uint64) candidate {
	c := candidate{node: n, choices: choices, standing: choices[0].standing, fits: 1}
	for _, ch := range choices[1:] {
		c.standing.Cost += ch.standing.Cost
		c.standing.Loss += ch.standing.Loss
		c.standing.FreeGPUs += ch.standing.FreeGPUs
		c.standing.Class += "," + ch.standing.Class
	}
	for _, left := range free {
		c.freeLeft += bits.OnesCount64(left)
	}
	return c
}

// ringMBps is that of all its sets together.
func (c *candidate) ringMBps() int {
	total := 0
	for _, ch := range c.choices {
		total += ch.quality.RingMBps
	}
	return total
}

// networkMBps is what each of its GPUs has to other hosts, the slowest; 0 without NICs.
func (c *candidate) networkMBps() int {
	least := c.choices[0].quality.NetworkMBps
	for _, ch := range c.choices[1:] {
		least = min(least, ch.quality.NetworkMBps)
	}
	return least
}

// compare orders candidates; negative when c is better: one that takes nothing from
// other jobs, one that can run more of the allocations, for a job that names state the
// one with the faster ring and then the one that loads it sooner, then by the policy of
// index.Standing.
func (c *candidate) compare(o *candidate) int {
	return cmp.Or(
		falseFirst(c.reserved, o.reserved),
		cmp.Compare(o.fits, c.fits),
		c.compareLoading(o),
		c.standing.Compare(&o.standing),
	)
}

// compareTalking is compare for jobs whose allocations talk to each other, as far as it
// differs: where two cost the same, the faster network counts.
func (c *candidate) compareTalking(o *candidate) int {
	return cmp.Or(
		falseFirst(c.reserved, o.reserved),
		cmp.Compare(o.fits, c.fits),
		c.compareLoading(o),
		cmp.Compare(c.standing.Cost, o.standing.Cost),
		cmp.Compare(o.networkMBps(), c.networkMBps()),
	)
}

// compareLoading is about jobs that name state: they wait for it once, and have the ring
// for as long as they run.
func (c *candidate) compareLoading(o *candidate) int {
	if !c.weighs {
		return 0
	}
	return cmp.Or(cmp.Compare(o.ringMBps(), c.ringMBps()), cmp.Compare(c.loading.Takes, o.loading.Takes))
}

// equal reports whether nothing but the names of the nodes tells two apart.
func (c *candidate) equal(o *candidate) bool {
	other := o.standing
	other.Key, other.Node = c.standing.Key, c.standing.Node
	return c.reserved == o.reserved && c.fits == o.fits && c.compareLoading(o) == 0 && c.standing.Compare(&other) == 0
}

// falseFirst compares as cmp.Compare would if it knew false < true.
func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// sortCandidates puts the best first.
func sortCandidates(cs []candidate) {
	slices.SortFunc(cs, func(a, b candidate) int { return a.compare(&b) })
}

// taken is what earlier groups of the same job were given: masks by node id
// and index of the device group.
type taken map[string]map[int]uint64

func (t taken) add(c *candidate) {
	masks := t[c.node.ID]
	if masks == nil {
		masks = map[int]uint64{}
		t[c.node.ID] = masks
	}
	for _, ch := range c.choices {
		masks[ch.group] |= ch.set
	}
}

// unsuitable says why Nomad would not consider the node for the group at all,
// GPUs aside; empty when it would.
func unsuitable(n *cluster.Node, a *cluster.Ask, g *cluster.GroupAsk) (reason string, uncertain bool) {
	if reason, uncertain = unfit(n, a, g); reason == "" {
		reason = tooLittle(n, g)
	}
	return reason, uncertain
}

// unfit is unsuitable whatever CPU and memory is free.
func unfit(n *cluster.Node, a *cluster.Ask, g *cluster.GroupAsk) (reason string, uncertain bool) {
	switch {
	case !n.InDatacenter(a.Datacenters):
		return "another datacenter", false
	case !n.InPool(a.Pool):
		return "another node pool", false
	case !n.Ready:
		return "not ready for new work", false
	}
	if n.Drivers != nil {
		for _, driver := range g.Drivers {
			if !slices.Contains(n.Drivers, driver) {
				return fmt.Sprintf("driver %s is missing", driver), false
			}
		}
	}
	for _, c := range g.Constraints {
		switch c.OnNode(n) {
		case cluster.Fails:
			return "constraint " + strings.TrimSpace(c.LTarget+" "+c.Operand+" "+c.RTarget), false
		case cluster.Unknown:
			uncertain = true
		case cluster.Holds:
		}
	}
	return "", uncertain
}

// What a node has too little of.
const (
	littleCPU    = "too little free CPU"
	littleMemory = "too little free memory"
)

// tooLittle says which of CPU and memory a node has too little of; empty when it has
// enough.
func tooLittle(n *cluster.Node, g *cluster.GroupAsk) string {
	switch {
	case n.CPU.Free < g.CPU:
		return littleCPU
	case n.MemoryMiB.Free < g.MemoryMiB:
		return littleMemory
	}
	return ""
}

// matching lists the device groups of the node that can serve the ask.
func matching(n *cluster.Node, d *cluster.DeviceAsk) []int {
	var groups []int
	for i := range n.Groups {
		g := &n.Groups[i]
		if !gpu.MatchesName(d.Name, g.Vendor, g.Type, g.Model) {
			continue
		}
		if !slices.ContainsFunc(d.Constraints, func(c cluster.Constraint) bool { return c.OnGroup(g) == cluster.Fails }) {
			groups = append(groups, i)
		}
	}
	return groups
}

// freeMasks gives for each device group of the node the devices that the
// predicate accepts.
func freeMasks(n *cluster.Node, accept func(*cluster.Device) bool) []uint64 {
	masks := make([]uint64, len(n.Groups))
	for i := range n.Groups {
		for j := range min(len(n.Groups[i].Devices), cluster.MaxDevices) {
			if accept(&n.Groups[i].Devices[j]) {
				masks[i] |= 1 << j
			}
		}
	}
	return masks
}

// usable reports whether a device is free for the group. A single allocation
// that runs is replaced by the new one, so what it holds counts as free.
func usable(d *cluster.Device, a *cluster.Ask, g *cluster.GroupAsk) bool {
	if !d.Healthy {
		return false
	}
	if !d.Use.Held() {
		return true
	}
	own := d.Use.Namespace == a.Namespace && d.Use.JobID == a.JobID && d.Use.Group == g.Name
	return own && !d.Use.Stopping && g.Allocations() == 1
}

// specificFirst is the order in which the device asks of a group choose: an
// ask that few device groups can serve must not find them taken by one that any
// could serve.
func specificFirst(asks []cluster.DeviceAsk) []int {
	order := make([]int, len(asks))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		a, b := &asks[i], &asks[j]
		return cmp.Or(
			cmp.Compare(strings.Count(b.Name, "/"), strings.Count(a.Name, "/")),
			cmp.Compare(len(b.Constraints), len(a.Constraints)),
			cmp.Compare(b.Count, a.Count),
		)
	})
	return order
}

// assignStepsMax bounds the search of assign. Real jobs have one or two device
// blocks and need as many steps; without a bound a job with dozens of blocks
// could occupy the placer for minutes.
const assignStepsMax = 1000

// assigned is how a search for disjoint sets ended.
type assigned uint8

const (
	cannotServe assigned = iota
	gaveUp
	serves
)

// assign chooses disjoint sets for all device asks out of the free masks. One
// ask is served from one device group, as Nomad does. It tries the best group
// first and goes back when a later ask finds nothing.
func (p *Placer) assign(n *cluster.Node, asks []cluster.DeviceAsk, order []int, free []uint64) ([]choice, assigned) {
	choices := make([]choice, len(asks))
	steps := 0
	var next func(at int) bool
	next = func(at int) bool {
		if at == len(order) {
			return true
		}
		if steps++; steps > assignStepsMax {
			return false
		}
		ask := &asks[order[at]]
		for _, c := range p.options(n, ask, free) {
			choices[order[at]] = c
			free[c.group] &^= c.set
			if next(at + 1) {
				return true
			}
			free[c.group] |= c.set
		}
		return false
	}
	switch {
	case next(0):
		return choices, serves
	case steps > assignStepsMax:
		return nil, gaveUp
	}
	return nil, cannotServe
}

// options are the ways to serve one ask, the best first.
func (p *Placer) options(n *cluster.Node, ask *cluster.DeviceAsk, free []uint64) []choice {
	var options []choice
	for _, group := range matching(n, ask) {
		if ask.Count > 0 && n.Groups[group].Room(free[group]) >= ask.Count {
			m := p.machineOf(n, &n.Groups[group])
			options = append(options, m.choose(n, group, free, ask.Count))
		}
	}
	slices.SortStableFunc(options, func(a, b choice) int { return a.standing.Compare(&b.standing) })
	return options
}

// evaluate makes a candidate of a suitable node, or says why it has too few
// free devices. It takes what was promised to other jobs only when the rest
// is not enough.
func (p *Placer) evaluate(n *cluster.Node, a *cluster.Ask, g *cluster.GroupAsk, t taken) (candidate, bool) {
	order := specificFirst(g.Devices)
	for _, reserved := range []bool{false, true} {
		free := freeMasks(n, func(d *cluster.Device) bool { return (reserved || !d.Reserved) && usable(d, a, g) })
		for group, mask := range t[n.ID] {
			free[group] &^= mask
		}
		choices, outcome := p.assign(n, g.Devices, order, free)
		if outcome != serves {
			continue
		}
		c := newCandidate(n, choices, free)
		c.reserved = reserved
		c.fits = p.fits(n, g, order, free)
		return c, true
	}
	return candidate{}, false
}

// fits counts how many allocations the node can run at once: the one that was
// just assigned, and more out of what is left, up to the number asked for.
func (p *Placer) fits(n *cluster.Node, g *cluster.GroupAsk, order []int, left []uint64) int {
	if g.Allocations() <= 1 || g.DistinctHosts {
		return 1
	}
	count := 1
	for count < g.Allocations() {
		if _, outcome := p.assign(n, g.Devices, order, left); outcome != serves {
			break
		}
		count++
	}
	return count
}
