package index

import (
	"cmp"
	"slices"
)

// racks are the racks of a class, by how many of their nodes have all GPUs free.
type racks struct {
	byName map[string]int32
	names  []string
	last   int32 // the rack that was named last
	all    items // each in the queue of its count, unless that is zero
	key    []uint64
	full   []queue // by rack: its nodes with all GPUs free
	// byCount[n] has the racks with n such nodes, and some the counts that occur.
	byCount []queue
	some    bitmap
}

// named is the number of a rack, a new one for a new name.
func (r *racks) named(name string) int32 {
	if len(r.names) > 0 && r.names[r.last] == name {
		return r.last
	}
	at, ok := r.byName[name]
	if !ok {
		at = int32(len(r.full))
		r.byName[name] = at
		r.names, r.all.at = append(r.names, name), append(r.all.at, 0)
		r.key = append(r.key, keyOf(name))
		r.full = append(r.full, nil)
	}
	r.last = at
	return at
}

// add is push without regard to the order; settle must follow.
func (r *racks) add(s *items, at int32, n *node) {
	r.full[n.rack].add(s, entry{n.key, at})
}

// settle orders racks to which nodes were added, none of which had any before.
func (r *racks) settle(s *items) {
	most := 0
	for rack := range r.full {
		r.full[rack].settle(s)
		most = max(most, len(r.full[rack]))
	}
	r.grow(most)
	for rack := range r.full {
		if count := len(r.full[rack]); count > 0 {
			r.some.add(count)
			r.byCount[count].push(&r.all, entry{r.key[rack], int32(rack)})
		}
	}
}

func (r *racks) push(s *items, at int32, n *node) {
	r.recount(n.rack, len(r.full[n.rack])+1)
	r.full[n.rack].push(s, entry{n.key, at})
}

func (r *racks) remove(s *items, at int32, n *node) {
	r.recount(n.rack, len(r.full[n.rack])-1)
	r.full[n.rack].remove(s, at)
}

// recount moves a rack, before its queue has that many nodes.
func (r *racks) recount(rack int32, to int) {
	if from := len(r.full[rack]); from > 0 {
		r.byCount[from].remove(&r.all, rack)
		if len(r.byCount[from]) == 0 {
			r.some.remove(from)
		}
	}
	if to == 0 {
		return
	}
	if to >= len(r.byCount) {
		r.grow(to)
	}
	r.byCount[to].push(&r.all, entry{r.key[rack], rack})
	if len(r.byCount[to]) == 1 {
		r.some.add(to)
	}
}

// grow makes room for racks of up to count nodes, and some more.
func (r *racks) grow(count int) {
	r.byCount = append(r.byCount, make([]queue, max(count+1, 2*len(r.byCount))-len(r.byCount))...)
	r.some = newBitmap(len(r.byCount))
	for n := range r.byCount {
		if len(r.byCount[n]) > 0 {
			r.some.add(n)
		}
	}
}

// fit is how well racks hold a gang: the fewest, then the fewest nodes left over
// in the last one.
type fit struct{ racks, spare int }

func (f fit) compare(o fit) int {
	return cmp.Or(cmp.Compare(f.racks, o.racks), cmp.Compare(f.spare, o.spare))
}

// fits computes how the racks would hold n nodes: whole racks, the largest
// first, until one can hold the rest; that is the smallest that can. No other
// choice needs fewer racks.
func (r *racks) fits(n int) (f fit, ok bool) {
	if len(r.byCount) == 0 {
		return fit{}, false
	}
	for count := r.some.last(); count > 0; count = r.some.previous(count - 1) {
		of := len(r.byCount[count])
		// Racks of this size are used up while the rest does not fit into one.
		whole := min(of, (n-1)/count)
		n -= whole * count
		f.racks += whole
		if whole < of {
			f.racks++
			f.spare = r.some.next(n) - n
			return f, true
		}
	}
	return fit{}, false
}

// Gang places n allocations on n nodes whose GPUs are all free, in the fewest
// racks of one class that can hold them and there in the ones with the least to
// spare; all or nothing. The ask must be for all GPUs of a node. Where some of
// these nodes may have too little CPU or memory all of them are looked at.
func (x *Index) Gang(a Ask, n int) (offers []Offer, ok bool) { return x.AppendGang(nil, a, n) }

// AppendGang is Gang, and appends what is offered to offers, as it is when ok is false.
func (x *Index) AppendGang(offers []Offer, a Ask, n int) (appended []Offer, ok bool) {
	if n < 1 || a.GPUs < 1 || a.CPU < 0 || a.MemoryMiB < 0 {
		return offers, false
	}
	var best gang
	for _, c := range x.classes {
		if a.GPUs != c.Joint.GPUs() || a.Accepts != nil && !a.Accepts(c.ID) {
			continue
		}
		if g, fits := x.gangIn(c, &a, n); fits && (!ok || g.fit.compare(best.fit) < 0) {
			best, ok = g, true
		}
	}
	if !ok {
		return offers, false
	}
	return x.takeGang(slices.Grow(offers, n), &best, &a, n), true
}

// gang is where a gang could go.
type gang struct {
	class  *class
	racks  *racks // with all nodes that are eligible
	places *items // where in their racks these are
	fit    fit
}

func (x *Index) gangIn(c *class, a *Ask, n int) (g gang, ok bool) {
	g = gang{class: c, racks: &c.racks, places: &x.inRack}
	if enough, sure := c.enough(a); enough != sure && !c.allAt(sure) {
		g.racks, g.places = x.eligible(c, a)
	}
	g.fit, ok = g.racks.fits(n)
	return g, ok
}

// allAt reports whether all nodes whose GPUs are free are at these levels.
func (c *class) allAt(levels uint64) bool {
	for level, count := range c.atLevel {
		if count > 0 && levels>>level&1 == 0 {
			return false
		}
	}
	return true
}

// eligible is the racks with only those nodes that have enough for the ask.
func (x *Index) eligible(c *class, a *Ask) (*racks, *items) {
	of := &c.racks
	r := &racks{key: of.key, full: make([]queue, len(of.full)), all: items{names: of.all.names, at: make([]int32, len(of.all.at))}}
	places := &items{names: x.inRack.names, at: make([]int32, len(x.nodes))}
	for at := range x.nodes {
		n := &x.nodes[at]
		if n.class == c && n.free == c.all && n.cpu >= a.CPU && n.memoryMiB >= a.MemoryMiB {
			r.add(places, int32(at), n)
		}
	}
	r.settle(places)
	return r, places
}

// takeGang takes the first nodes of each rack.
func (x *Index) takeGang(offers []Offer, g *gang, a *Ask, n int) []Offer {
	for n > 0 {
		count := g.racks.some.next(n)
		if count < 0 {
			count = g.racks.some.last()
		}
		rack, most := g.racks.byCount[count][0].item, min(n, count)
		nodes := &g.racks.full[rack]
		g.racks.recount(rack, len(*nodes)-most)
		if n -= most; most == len(*nodes) {
			offers = x.takeRack(offers, g, nodes, a)
			continue
		}
		for range most {
			at := (*nodes)[0].item
			nodes.remove(g.places, at)
			offers = append(offers, x.takeWhole(g, at, a))
		}
	}
	return offers
}

// takeRack takes all nodes of a rack at once: that is what gangs mostly get.
func (x *Index) takeRack(offers []Offer, g *gang, nodes *queue, a *Ask) []Offer {
	taken := *nodes
	*nodes = taken[:0] // nothing is added to it before taken is read
	slices.SortFunc(taken, g.places.compare)
	for _, e := range taken {
		offers = append(offers, x.takeWhole(g, e.item, a))
	}
	return offers
}

// takeWhole takes all GPUs of a node that is not in the racks of the gang any more.
func (x *Index) takeWhole(g *gang, at int32, a *Ask) Offer {
	o, n := x.offer(at, a), &x.nodes[at]
	if g.racks != &g.class.racks { // they are a copy
		g.class.racks.remove(&x.inRack, at, n)
	}
	n.class.atLevel[n.level]--
	x.unfile(at, n)
	n.free, n.cpu, n.memoryMiB = 0, n.cpu-a.CPU, n.memoryMiB-a.MemoryMiB
	x.file(at, n)
	return o
}
