package index

import (
	"cmp"
	"fmt"
	"math/bits"
)

// Ask is what one allocation needs of one node.
type Ask struct {
	// GPUs, at least one, all of one node.
	GPUs int
	// CPU in MHz and memory in MiB.
	CPU       int
	MemoryMiB int
	// Accepts says whether nodes of a class will do; nil when all do. It is
	// asked once for each class and must answer alike.
	Accepts func(class string) bool
}

// Offer is GPUs, CPU and memory of one node.
type Offer struct {
	Node string
	// Set is a mask of GPUs.
	Set       uint64
	CPU       int
	MemoryMiB int

	at int32 // the node's place in the index that made the offer
}

// Find returns the best node and the GPUs to take there, without taking them. What
// the best is says Standing. ok is false when no node has enough.
func (x *Index) Find(a Ask) (o Offer, ok bool) {
	if !a.possible() {
		return Offer{}, false
	}
	best := spot{at: -1}
	for _, c := range x.classes {
		if a.takes(c) {
			best = x.findIn(c, &a, best)
		}
	}
	if best.at < 0 {
		return Offer{}, false
	}
	return x.offer(best.at, &a), true
}

func (a *Ask) possible() bool { return a.GPUs >= 1 && a.CPU >= 0 && a.MemoryMiB >= 0 }

func (a *Ask) takes(c *class) bool {
	return a.GPUs <= c.Joint.GPUs() && (a.Accepts == nil || a.Accepts(c.ID))
}

// spot is a node, and where it comes by its free GPUs; of one class those come
// first that have less CPU and memory, then those with a smaller key.
type spot struct {
	at    int32 // of the node, or -1
	cost  int32
	rank  int // of the free GPUs, for gpus of them
	gpus  int
	class *class
}

// spot is some node with the free GPUs of a rank.
func (c *class) spot(rank, gpus int) spot {
	return spot{at: -1, cost: c.Joint.Cost(uint64(c.ranks.at[gpus][rank]), gpus), rank: rank, gpus: gpus, class: c}
}

// free are the free GPUs.
func (s *spot) free() uint16 { return s.class.ranks.at[s.gpus][s.rank] }

// compare is negative when s comes first. Of one class both may come.
func (s *spot) compare(o *spot) int {
	if order := cmp.Compare(s.cost, o.cost); order != 0 {
		return order
	}
	if s.class.ranks == o.class.ranks { // ranks are in this very order
		return cmp.Or(cmp.Compare(s.rank, o.rank), cmp.Compare(s.class.ID, o.class.ID))
	}
	return cmp.Or(
		cmp.Compare(loss(s.class.Joint, uint64(s.free()), s.gpus), loss(o.class.Joint, uint64(o.free()), o.gpus)),
		cmp.Compare(bits.OnesCount16(s.free()), bits.OnesCount16(o.free())),
		cmp.Compare(s.free(), o.free()),
		cmp.Compare(s.class.ID, o.class.ID),
	)
}

// findIn finds the best node of a class, and returns that one or another one that
// is better.
func (x *Index) findIn(c *class, a *Ask, best spot) spot {
	enough, sure := c.enough(a)
	some, masks := &c.some[a.GPUs], c.ranks.at[a.GPUs]
	for rank := some.next(0); rank >= 0; rank = some.next(rank + 1) {
		s := c.spot(rank, a.GPUs)
		if best.at >= 0 && s.compare(&best) > 0 {
			break
		}
		if s.at = c.first(x, a, masks[rank], enough, sure); s.at >= 0 {
			return s
		}
	}
	return best
}

// offer is what the ask gets of a node that has enough.
func (x *Index) offer(at int32, a *Ask) Offer {
	n := &x.nodes[at]
	return Offer{Node: x.names[at], Set: n.class.Joint.Set(uint64(n.free), a.GPUs), CPU: a.CPU, MemoryMiB: a.MemoryMiB, at: at}
}

// Place is Find, and takes what is offered.
func (x *Index) Place(a Ask) (o Offer, ok bool) {
	if o, ok = x.Find(a); ok {
		x.take(&o)
	}
	return o, ok
}

// PlaceExact takes what the ask needs of the node with the given id, which may be
// of a class that the ask does not accept. ok is false when that has not enough.
func (x *Index) PlaceExact(id string, a Ask) (o Offer, ok bool) {
	at, known := x.find(id)
	if !known || a.GPUs < 1 || a.CPU < 0 || a.MemoryMiB < 0 {
		return Offer{}, false
	}
	n := &x.nodes[at]
	if bits.OnesCount16(n.free) < a.GPUs || n.cpu < a.CPU || n.memoryMiB < a.MemoryMiB {
		return Offer{}, false
	}
	o = x.offer(at, &a)
	x.take(&o)
	return o, true
}

// take takes what is free for sure.
func (x *Index) take(o *Offer) {
	x.change(o.at, x.nodes[o.at].free&^uint16(o.Set), -o.CPU, -o.MemoryMiB)
}

// change files a node anew, with other GPUs and with more or less CPU and memory.
func (x *Index) change(at int32, free uint16, cpu, memoryMiB int) {
	x.extract(at)
	n := &x.nodes[at]
	n.free, n.cpu, n.memoryMiB = free, n.cpu+cpu, n.memoryMiB+memoryMiB
	x.insert(at)
}

// Free gives back what was placed. It is an error when the node is gone, or
// some of the GPUs are free already.
func (x *Index) Free(o Offer) error {
	if int(o.at) >= len(x.nodes) || o.Node == "" || x.names[o.at] != o.Node {
		at, ok := x.find(o.Node) // removed, and added again elsewhere
		if !ok {
			return fmt.Errorf("node %q: %w", o.Node, ErrUnknownNode)
		}
		o.at = at
	}
	n := &x.nodes[o.at]
	if o.Set == 0 || o.Set > uint64(n.class.all) || o.CPU < 0 || o.MemoryMiB < 0 {
		return fmt.Errorf("offer of node %q %w", o.Node, ErrInvalid)
	}
	if uint64(n.free)&o.Set != 0 {
		return fmt.Errorf("GPUs %b of node %q: %w", o.Set&uint64(n.free), o.Node, ErrFree)
	}
	x.change(o.at, n.free|uint16(o.Set), o.CPU, o.MemoryMiB)
	return nil
}
