package place

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/scheduler/cluster"
)

// Gang is how much of a gang could be placed.
type Gang struct {
	// Allocations that the gang has, and Placed how many of them got GPUs of their own.
	Allocations, Placed int
	// Waits is the sentence that says what is missing; "" when all of it fits.
	Waits string
	// Reserve is what to spare until it runs: the offer, with the GPUs also of groups
	// that are not pinned. Nomad may pick others for these, but no fewer.
	Reserve cluster.Offer
}

// Fits reports whether every allocation has GPUs of its own.
func (g Gang) Fits() bool { return g.Placed == g.Allocations }

// PlaceGang decides which GPUs every allocation of the job gets, all or none of
// them, out of those that are free and promised to nobody. It prefers nodes of one
// NVLink domain, then of one rack, then of one block, then as few of these as
// possible, all of it with GPUs of one model where that can be; among several that can hold the gang the one with the best sets, then the
// one with the fewest GPUs left over.
//
// The offer names exactly the nodes that were chosen, so that Nomad cannot take
// others farther apart, and of each node exactly the GPUs of the allocations there. A
// group has several allocations on one node where any division of these GPUs among them
// is as good as any other, or else only where the gang would not fit without.
func (p *Placer) PlaceGang(s cluster.Snapshot, a cluster.Ask) (cluster.Offer, Explanation, Gang) {
	p.mu.Lock()
	defer p.mu.Unlock()

	groups := asking(a)
	for i := range groups {
		if inf := p.infeasible(&s, &a, &groups[i]); inf != nil {
			return cluster.Offer{Infeasible: inf}, Explanation{Infeasible: inf.String()}, Gang{}
		}
	}
	m := muster{placer: p, ask: &a, groups: groups, exact: true, free: freeByNode(s.Nodes)}
	best, found := m.ofOneModel(s.Nodes)
	if !found {
		best = m.best(s.Nodes)
	}
	gang := Gang{Allocations: best.wanted, Placed: best.placed}
	if gang.Fits() {
		offer, why := m.offer(best)
		gang.Reserve = offer
		if unpinnableGang(&a, groups) != "" {
			offer = cluster.Offer{Groups: emptyOffers(groups)}
		}
		return offer, why, gang
	}
	if inf := m.never(s.Nodes); inf != nil {
		return cluster.Offer{Infeasible: inf}, Explanation{Infeasible: inf.String()}, gang
	}
	gang.Waits = fmt.Sprintf("%s: %d of %d fit now", gangText(groups), gang.Placed, gang.Allocations)
	return cluster.Offer{Groups: emptyOffers(groups)}, Explanation{Gang: gang.Waits}, gang
}

// unpinnableGang is unpinnable without what a gang does better.
func unpinnableGang(a *cluster.Ask, groups []cluster.GroupAsk) string {
	single := slices.Clone(groups)
	for i := range single {
		single[i].Count, single[i].Canaries, single[i].CountMax = 1, 0, 0
	}
	return unpinnable(a, single)
}

func emptyOffers(groups []cluster.GroupAsk) []cluster.GroupOffer {
	offers := make([]cluster.GroupOffer, len(groups))
	for i := range groups {
		offers[i].Group = groups[i].Name
	}
	return offers
}

// gangText is what a gang is, by the job alone.
func gangText(groups []cluster.GroupAsk) string {
	allocations, gpus, same := 0, 0, true
	for i := range groups {
		allocations += groups[i].Count
		gpus += groups[i].Count * groups[i].GPUs()
		same = same && groups[i].GPUs() == groups[0].GPUs()
	}
	if same && len(groups) > 0 {
		return fmt.Sprintf("gang of %d x %s", allocations, gpuCount(groups[0].GPUs()))
	}
	return fmt.Sprintf("gang of %d allocations with %s in all", allocations, gpuCount(gpus))
}

func gpuCount(n int) string {
	if n == 1 {
		return "1 GPU"
	}
	return fmt.Sprintf("%d GPUs", n)
}

// muster tries to place one gang.
type muster struct {
	placer *Placer
	ask    *cluster.Ask
	groups []cluster.GroupAsk
	// exact says that every allocation gets the set that was chosen for it, or one
	// that is as good; without it Nomad divides the GPUs of a node among those there.
	exact bool
	// free counts the free devices of each node: a domain with too few is not tried.
	free map[string]int
	// idle takes every device for free, and every node for ready.
	idle bool
}

// lineup is a gang on nodes, as far as it could be placed.
type lineup struct {
	wanted, placed int
	// members by group of the ask; one for each allocation, best node first.
	members [][]candidate
	exact   bool
	// worst is the slowest ring of an allocation, network the least that a GPU has to other
	// hosts, spare the GPUs left over on the nodes that were looked at.
	worst, network, spare int
	// where says what the nodes have in common: `rack "r1"`; "" for nothing.
	where string
}

func (l *lineup) full() bool { return l.placed == l.wanted }

// better compares two places that hold the whole gang.
func (l *lineup) better(o *lineup) bool {
	return cmp.Or(cmp.Compare(l.worst, o.worst), cmp.Compare(l.network, o.network), cmp.Compare(o.spare, l.spare), strings.Compare(o.where, l.where)) > 0
}

// tier is one kind of domain that nodes can have in common.
type tier struct {
	name string
	of   func(n *cluster.Node) string
}

// tiers from the closest to the widest.
var tiers = [...]tier{
	{"NVLink domain", func(n *cluster.Node) string { return n.Clique }},
	{"rack", func(n *cluster.Node) string { return n.Rack }},
	{"block", func(n *cluster.Node) string { return n.Block }},
}

// domains are the nodes that have something in common, by what that is called.
func (t tier) domains(nodes []cluster.Node) (names []string, members map[string][]cluster.Node) {
	members = map[string][]cluster.Node{}
	for i := range nodes {
		if name := t.of(&nodes[i]); name != "" {
			members[name] = append(members[name], nodes[i])
		}
	}
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, members
}

// best places the gang exactly, or else as much of it as fits.
func (m *muster) best(nodes []cluster.Node) lineup {
	m.exact = true
	best := m.anywhere(nodes)
	if !best.full() {
		m.exact = false
		if loose := m.anywhere(nodes); loose.placed > best.placed {
			best = loose
		}
	}
	return best
}

// anywhere places the gang in one domain of the closest tier that can hold it, or
// else over as few domains as possible.
func (m *muster) anywhere(nodes []cluster.Node) lineup {
	for level, t := range tiers {
		var best *lineup
		names, members := t.domains(nodes)
		for _, name := range names {
			if !m.mayHold(members[name]) {
				continue
			}
			l := m.spread(members[name], level)
			l.where = fmt.Sprintf("%s %q", t.name, name)
			if l.full() && (best == nil || l.better(best)) {
				best = &l
			}
		}
		if best != nil {
			return *best
		}
	}
	return m.spread(nodes, len(tiers))
}

// mayHold reports whether the nodes have as many free devices as the gang asks for.
func (m *muster) mayHold(nodes []cluster.Node) bool {
	need := 0
	for i := range m.groups {
		need += m.groups[i].Count * m.groups[i].GPUs()
	}
	for i := range nodes {
		if need -= m.free[nodes[i].ID]; need <= 0 {
			return true
		}
	}
	return false
}

// freeByNode counts the devices that are healthy, held by nobody and not promised.
func freeByNode(nodes []cluster.Node) map[string]int {
	free := make(map[string]int, len(nodes))
	for i := range nodes {
		for _, mask := range freeMasks(&nodes[i], func(d *cluster.Device) bool { return d.Healthy && !d.Use.Held() && !d.Reserved }) {
			free[nodes[i].ID] += onesOf(mask)
		}
	}
	return free
}

// spread places the gang on nodes over as few domains of the tiers below as possible,
// the widest of them that the nodes name.
func (m *muster) spread(nodes []cluster.Node, below int) lineup {
	for level := below - 1; level >= 0 && m.mayHold(nodes); level-- {
		names, members := tiers[level].domains(nodes)
		if len(names) < 2 {
			continue
		}
		var chosen []cluster.Node
		rank := map[string]int{}
		for at, name := range m.fewest(names, members) {
			for _, n := range members[name] {
				chosen, rank[n.ID] = append(chosen, n), at
			}
		}
		if l := m.on(chosen, rank); l.full() {
			return l
		}
		break
	}
	return m.on(nodes, nil)
}

// fewest picks domains for the gang: whole ones, the largest first, until one can hold
// the rest, and then the smallest that can. A domain counts for the allocations that it
// could hold alone.
func (m *muster) fewest(names []string, members map[string][]cluster.Node) []string {
	type domain struct {
		name string
		room int
	}
	var open []domain
	wanted := 0
	for _, name := range names {
		l := m.on(members[name], nil)
		wanted = l.wanted
		open = append(open, domain{name, l.placed})
	}
	slices.SortStableFunc(open, func(a, b domain) int { return cmp.Compare(b.room, a.room) })
	var picked []string
	for wanted > 0 && len(open) > 0 && open[0].room > 0 {
		at := 0
		for at+1 < len(open) && open[at+1].room >= wanted {
			at++
		}
		for at > 0 && open[at].room >= wanted && open[at-1].room == open[at].room {
			at-- // the first by name of those that are equally small
		}
		picked, wanted = append(picked, open[at].name), wanted-open[at].room
		open = slices.Delete(open, at, at+1)
	}
	return picked
}

// on places the gang on these nodes; rank orders the domains that are filled one
// after the other. Where it is spread over nodes of which some have no NICs, those that have
// some are taken alone if that is all of it and no slower otherwise.
func (m *muster) on(nodes []cluster.Node, rank map[string]int) lineup {
	l := m.onAll(nodes, rank)
	if !l.full() || l.network > 0 || l.nodes() < 2 {
		return l
	}
	wired := slices.DeleteFunc(slices.Clone(nodes), func(n cluster.Node) bool { return !wired(&n) })
	if len(wired) == 0 || len(wired) == len(nodes) {
		return l
	}
	if w := m.onAll(wired, rank); w.full() && w.worst >= l.worst {
		w.spare = l.spare
		return w
	}
	return l
}

func (m *muster) onAll(nodes []cluster.Node, rank map[string]int) lineup {
	room := &cluster.Snapshot{Nodes: slices.Clone(nodes)}
	l := lineup{members: make([][]candidate, len(m.groups)), exact: m.exact, worst: -1}
	given := taken{}
	l.wanted = m.allocations()
	for _, i := range m.order(nodes) {
		l.members[i] = m.group(room, &m.groups[i], given, rank)
		l.placed += len(l.members[i])
		for j := range l.members[i] {
			if ring := l.members[i][j].ringMBps(); l.worst < 0 || ring < l.worst {
				l.worst = ring
			}
		}
	}
	l.spare = m.left(room, given)
	l.measureNetwork()
	return l
}

// allocations of the gang.
func (m *muster) allocations() int {
	count := 0
	for i := range m.groups {
		count += m.groups[i].Count
	}
	return count
}

// left counts the devices that nobody has after the gang is placed.
func (m *muster) left(room *cluster.Snapshot, given taken) int {
	count := 0
	for i := range room.Nodes {
		count += m.free[room.Nodes[i].ID]
		for _, mask := range given[room.Nodes[i].ID] {
			count -= onesOf(mask)
		}
	}
	return count
}

// group places the allocations of one group, and takes from the room what they need.
func (m *muster) group(room *cluster.Snapshot, g *cluster.GroupAsk, given taken, rank map[string]int) []candidate {
	one := *g
	one.Canaries, one.CountMax = 0, 0
	r := m.placer.placeGroup(m.seen(room), m.ask, &one, given)
	// Allocations that talk to each other want NICs; one that is alone has nobody to talk to.
	if m.allocations() > 1 {
		slices.SortStableFunc(r.candidates, func(a, b candidate) int { return a.compareTalking(&b) })
	}
	if rank != nil {
		slices.SortStableFunc(r.candidates, func(a, b candidate) int { return cmp.Compare(rank[a.node.ID], rank[b.node.ID]) })
	}
	var members []candidate
	for i := range r.candidates {
		if len(members) == g.Count {
			break
		}
		if c := &r.candidates[i]; !c.reserved {
			members = append(members, m.share(room, &one, c, given, g.Count-len(members))...)
		}
	}
	return members
}

// seen is the room as the gang sees it.
func (m *muster) seen(room *cluster.Snapshot) *cluster.Snapshot {
	if !m.idle {
		return room
	}
	idle := &cluster.Snapshot{Nodes: slices.Clone(room.Nodes)}
	for i := range idle.Nodes {
		n := &idle.Nodes[i]
		n.Ready, n.Drivers = true, nil
		n.Groups = slices.Clone(n.Groups)
		for j := range n.Groups {
			n.Groups[j].Devices = slices.Clone(n.Groups[j].Devices)
			for k := range n.Groups[j].Devices {
				d := &n.Groups[j].Devices[k]
				d.Healthy, d.Reserved, d.Use = true, false, cluster.Use{}
			}
		}
	}
	return idle
}

// share places up to n allocations of a group on the node of a candidate: as many as
// there is room for, or, exactly, as any division of their GPUs serves equally well.
func (m *muster) share(room *cluster.Snapshot, g *cluster.GroupAsk, first *candidate, given taken, n int) []candidate {
	at := slices.IndexFunc(room.Nodes, func(o cluster.Node) bool { return o.ID == first.node.ID })
	node := &room.Nodes[at]
	next := *first
	var members []candidate
	union := map[int]uint64{}
	for {
		for _, ch := range next.choices {
			union[ch.group] |= ch.set
		}
		if len(members) > 0 && (m.exact || clashes(node, g, union)) && !m.placer.divisible(node, g, union) {
			break
		}
		members = append(members, next)
		given.add(&next)
		node.CPU.Free -= g.CPU
		node.MemoryMiB.Free -= g.MemoryMiB
		if len(members) == n || g.DistinctHosts {
			break
		}
		view := m.seen(&cluster.Snapshot{Nodes: room.Nodes[at : at+1]})
		if reason, _ := unsuitable(&view.Nodes[0], m.ask, g); reason != "" {
			break
		}
		var ok bool
		if next, ok = m.placer.evaluate(&view.Nodes[0], m.ask, g, given.apart(node, g, union)); !ok || next.reserved {
			break
		}
	}
	return members
}

// offer writes down a whole gang.
func (m *muster) offer(l lineup) (cluster.Offer, Explanation) {
	offer := cluster.Offer{Groups: make([]cluster.GroupOffer, len(m.groups)), Gang: true}
	why := Explanation{Gang: gangText(m.groups) + " on " + m.placesText(&l), Groups: make([]GroupExplanation, len(m.groups))}
	if !l.exact {
		why.Gang += ", where Nomad divides the GPUs of a node among the allocations there"
	}
	unpinned := unpinnableGang(m.ask, m.groups)
	for i := range m.groups {
		g := &m.groups[i]
		offer.Groups[i] = cluster.GroupOffer{Group: g.Name}
		why.Groups[i] = GroupExplanation{Group: g.Name, Unpinned: unpinned, Members: true, Candidates: len(l.members[i])}
		for j := range l.members[i] {
			c := &l.members[i][j]
			offer.Groups[i].Nodes = append(offer.Groups[i].Nodes, nodeOffer(g, c))
			why.Groups[i].Choices = append(why.Groups[i].Choices, explainChoice(g, c))
		}
	}
	return offer, why
}

func (m *muster) placesText(l *lineup) string {
	nodes := l.nodes()
	text := fmt.Sprintf("%d nodes", nodes)
	if nodes == 1 {
		text = "1 node"
	}
	if l.where != "" {
		text += " of " + l.where
	}
	return text
}

// never says why even an idle cluster could not run the gang; nil when it could.
func (m *muster) never(nodes []cluster.Node) *cluster.Infeasible {
	idle := muster{placer: m.placer, ask: m.ask, groups: m.groups, idle: true}
	all := slices.Clone(nodes)
	for i := range all {
		all[i].CPU.Free, all[i].MemoryMiB.Free = all[i].CPU.Total, all[i].MemoryMiB.Total
	}
	l := idle.on(all, nil)
	if l.full() || !idle.certain(all) {
		return nil
	}
	return &cluster.Infeasible{Gang: fmt.Sprintf("the cluster can never run this %s at once: %d of %d fit when it is idle", gangText(m.groups), l.placed, l.wanted)}
}
