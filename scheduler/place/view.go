package place

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"strconv"

	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/index"
	"github.com/nomad-governor/governor/scheduler/sets"
)

const (
	// snapshotsMax is for how many snapshots there are views: the latest, and the one
	// before for those who still ask about it, each with reservations and without.
	snapshotsMax = 4
	// viewsMax bounds the views of a snapshot, and sizesMax the sizes of asks that each
	// knows the counts of. Jobs of a cluster differ in a few constraints and sizes.
	viewsMax = 64
	sizesMax = 256
)

// views are of one snapshot.
type views struct {
	snapshot cluster.Snapshot
	byKey    map[string]*view
	holders  map[holder]bool
	byName   []int // the nodes
}

// holder is a job that holds devices.
type holder struct{ namespace, job string }

// view is a snapshot as an ask with certain constraints sees it: what does not depend on
// how many GPUs, and how much CPU and memory, is asked for.
type view struct {
	// indexed says that the rest is there: every node has one group of the device at
	// most, with a topology that is tabulated.
	indexed bool
	index   *index.Index
	// nodes that fit but for GPUs, CPU and memory, by name, and where to find them.
	nodes []viewed
	at    map[string]int
	// rejected are the others, by reason.
	rejected map[string]tally
	// largest is the most devices of one node that the job may use, busy or not.
	largest int
	// counts are those of the sizes that were asked for.
	counts map[size]counts
}

// size is how much is asked of a node.
type size struct{ gpus, cpu, memoryMiB int }

// counts is how many nodes can serve an ask of some size, of which some need promised
// devices, and how many cannot, by reason.
type counts struct {
	fit       int
	uncertain bool
	promised  []*viewed
	rejected  map[string]tally
}

// viewed is a node of a view.
type viewed struct {
	node    *cluster.Node
	machine *machine // nil without a group
	// free devices, promised ones among them only in promised.
	free, promised uint64
	// cpu and memoryMiB are those that are free.
	cpu, memoryMiB int
	group          int16 // of the device, or -1
	devices        int16 // of the group
	uncertain      bool
}

// tally is nodes that are passed over for one reason.
type tally struct {
	count int
	first []string // by name
}

// add adds a node; those that come first must be added first.
func (t *tally) add(name string) {
	if t.count++; t.count <= shown {
		t.first = append(t.first, name)
	}
}

// viewsOf are the views of a snapshot.
func (p *Placer) viewsOf(s *cluster.Snapshot) *views {
	at := slices.IndexFunc(p.views, func(v *views) bool { return v.snapshot.Same(s) })
	if at < 0 {
		p.views = append(p.views, newViews(s))
		at = len(p.views) - 1
	}
	v := p.views[at]
	p.views = slices.Insert(slices.Delete(p.views, at, at+1), 0, v)
	p.views = p.views[:min(len(p.views), snapshotsMax)]
	return v
}

func newViews(s *cluster.Snapshot) *views {
	v := &views{snapshot: *s, byKey: map[string]*view{}, holders: map[holder]bool{}, byName: make([]int, len(s.Nodes))}
	for i := range s.Nodes {
		v.byName[i] = i
		for _, g := range s.Nodes[i].Groups {
			for j := range g.Devices {
				if use := &g.Devices[j].Use; use.Held() {
					v.holders[holder{use.Namespace, use.JobID}] = true
				}
			}
		}
	}
	slices.SortFunc(v.byName, func(a, b int) int {
		return cmp.Or(cmp.Compare(s.Nodes[a].Name, s.Nodes[b].Name), cmp.Compare(s.Nodes[a].ID, s.Nodes[b].ID))
	})
	return v
}

// lookUp answers an ask for GPUs of one block from an index of the nodes that have its
// constraints: what comparing all of them would, and as many candidates as most. ok is false
// where that is not possible.
func (p *Placer) lookUp(s *cluster.Snapshot, a *cluster.Ask, g *cluster.GroupAsk, most int) (r result, ok bool) {
	if len(g.Devices) != 1 || g.Devices[0].Count < 1 || g.Devices[0].Count > sets.MaxGPUs || g.CPU < 0 || g.MemoryMiB < 0 {
		return result{}, false
	}
	all := p.viewsOf(s)
	if all.holders[holder{a.Namespace, a.JobID}] {
		return result{}, false // what it holds itself may count as free
	}
	v := p.view(all, a, g)
	k := g.Devices[0].Count
	if !v.indexed || k > v.largest {
		return result{}, false
	}
	counted := v.count(g, k)
	r = result{count: counted.fit, uncertain: counted.uncertain, rejected: counted.rejected}
	for _, o := range v.index.List(index.Ask{GPUs: k, CPU: g.CPU, MemoryMiB: g.MemoryMiB}, most) {
		n := &v.nodes[v.at[o.Node]]
		r.candidates = append(r.candidates, n.candidate(k, false))
	}
	var last []candidate
	for _, n := range counted.promised {
		last = append(last, n.candidate(k, true))
	}
	sortCandidates(last)
	r.candidates = append(r.candidates, last[:min(len(last), most-len(r.candidates))]...)
	return r, true
}

// count counts the nodes for an ask, once for each size.
func (v *view) count(g *cluster.GroupAsk, k int) counts {
	of := size{k, g.CPU, g.MemoryMiB}
	n, known := v.counts[of]
	if !known {
		if len(v.counts) >= sizesMax {
			clear(v.counts)
		}
		n = v.countAnew(g, k)
		v.counts[of] = n
	}
	return n
}

func (v *view) countAnew(g *cluster.GroupAsk, k int) counts {
	var out counts
	var noCPU, noMemory, none tally
	var short [sets.MaxGPUs + 1][sets.MaxGPUs + 1]tally
	for i := range v.nodes {
		n := &v.nodes[i]
		usable := bits.OnesCount64(n.promised)
		switch {
		case n.cpu < g.CPU:
			noCPU.add(n.node.Name)
		case n.memoryMiB < g.MemoryMiB:
			noMemory.add(n.node.Name)
		case n.group < 0:
			none.add(n.node.Name)
		case usable < k:
			short[usable][n.devices].add(n.node.Name)
		default:
			if bits.OnesCount64(n.free) < k {
				out.promised = append(out.promised, n)
			}
			out.fit++
			out.uncertain = out.uncertain || n.uncertain
		}
	}
	out.rejected = maps.Clone(v.rejected)
	reject := func(reason string, t tally) {
		if t.count > 0 {
			out.rejected[reason] = t
		}
	}
	reject(littleCPU, noCPU)
	reject(littleMemory, noMemory)
	reject(notAccepted(&g.Devices[0]), none)
	for free := range short {
		for all := range short[free] {
			reject(tooFew(free, all), short[free][all])
		}
	}
	return out
}

// candidate is the node with k of the free devices taken, promised ones among them.
func (n *viewed) candidate(k int, promised bool) candidate {
	free := n.free
	if promised {
		free = n.promised
	}
	all := make([]uint64, len(n.node.Groups))
	for i := range n.node.Groups {
		if all[i] = free; i != int(n.group) {
			all[i] = freeOf(&n.node.Groups[i], promised)
		}
	}
	ch := n.machine.choose(n.node, int(n.group), all, k)
	all[n.group] &^= ch.set
	c := newCandidate(n.node, []choice{ch}, all)
	c.reserved = promised
	return c
}

// freeOf is the devices of a group that somebody who holds nothing could get.
func freeOf(g *cluster.Group, promised bool) uint64 {
	var free uint64
	for j := range min(len(g.Devices), cluster.MaxDevices) {
		if d := &g.Devices[j]; d.Healthy && !d.Use.Held() && (promised || !d.Reserved) {
			free |= 1 << j
		}
	}
	return free
}

// view is that of asks with the constraints of one.
func (p *Placer) view(all *views, a *cluster.Ask, g *cluster.GroupAsk) *view {
	p.key = appendViewKey(p.key[:0], a, g)
	if v := all.byKey[string(p.key)]; v != nil {
		return v
	}
	if len(all.byKey) >= viewsMax {
		clear(all.byKey)
	}
	v := p.newView(all, a, g)
	all.byKey[string(p.key)] = v
	return v
}

// appendViewKey appends everything that a view depends on, each part with its length.
func appendViewKey(key []byte, a *cluster.Ask, g *cluster.GroupAsk) []byte {
	number := func(n int) { key = append(strconv.AppendInt(key, int64(n), 10), ' ') }
	add := func(parts ...string) {
		number(len(parts))
		for _, part := range parts {
			number(len(part))
			key = append(key, part...)
		}
	}
	add(a.Pool)
	add(a.Datacenters...)
	add(g.Drivers...)
	for _, constraints := range [][]cluster.Constraint{g.Constraints, g.Devices[0].Constraints} {
		number(len(constraints))
		for _, c := range constraints {
			add(c.LTarget, c.Operand, c.RTarget)
		}
	}
	add(g.Devices[0].Name)
	return key
}

func (p *Placer) newView(all *views, a *cluster.Ask, g *cluster.GroupAsk) *view {
	v := &view{at: map[string]int{}, rejected: map[string]tally{}, counts: map[size]counts{}}
	var nodes []index.Node
	var classes []index.Class
	machines := map[string]*machine{}
	for _, at := range all.byName {
		n := &all.snapshot.Nodes[at]
		groups := matching(n, &g.Devices[0])
		if n.InDatacenter(a.Datacenters) && n.InPool(a.Pool) {
			for _, group := range groups {
				v.largest = max(v.largest, len(n.Groups[group].Devices))
			}
		}
		reason, uncertain := unfit(n, a, g)
		if reason != "" {
			t := v.rejected[reason]
			t.add(n.Name)
			v.rejected[reason] = t
			continue
		}
		x := viewed{node: n, group: -1, uncertain: uncertain, cpu: n.CPU.Free, memoryMiB: n.MemoryMiB.Free}
		if len(groups) > 0 {
			group := &n.Groups[groups[0]]
			if _, twice := v.at[n.ID]; twice || len(groups) > 1 || !joint(group) {
				return &view{}
			}
			x.group, x.devices = int16(groups[0]), int16(len(group.Devices))
			x.free, x.promised = freeOf(group, false), freeOf(group, true)
			m := p.machineOf(n, group)
			if machines[m.class.ID] == nil {
				machines[m.class.ID] = &m
				classes = append(classes, m.class)
			}
			x.machine = machines[m.class.ID]
			if n.CPU.Free >= 0 && n.MemoryMiB.Free >= 0 {
				nodes = append(nodes, index.Node{ID: n.ID, Class: x.machine.class.ID, Free: x.free, CPU: n.CPU.Free, MemoryMiB: n.MemoryMiB.Free})
			}
		}
		v.at[n.ID] = len(v.nodes)
		v.nodes = append(v.nodes, x)
	}
	var err error
	v.index, err = index.Build(classes, nodes)
	v.indexed = err == nil // it can only fail for a node without an id
	return v
}
