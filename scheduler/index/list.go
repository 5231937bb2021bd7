package index

import (
	"math/bits"
	"slices"
)

// List returns the best nodes for an ask, as many as most at most, the best first,
// without taking anything: what Find returns, then what it would return without that
// node, and so on.
func (x *Index) List(a Ask, most int) []Offer {
	if !a.possible() || most < 1 {
		return nil
	}
	var spots []spot
	for _, c := range x.classes {
		if a.takes(c) {
			spots = x.listIn(spots, c, &a, most)
		}
	}
	// Those of one class are in order already, and stay so.
	slices.SortStableFunc(spots, func(p, q spot) int { return p.compare(&q) })
	offers := make([]Offer, min(most, len(spots)))
	for i := range offers {
		offers[i] = x.offer(spots[i].at, &a)
	}
	return offers
}

// listIn appends the best nodes of a class.
func (x *Index) listIn(spots []spot, c *class, a *Ask, most int) []spot {
	enough, _ := c.enough(a)
	some, end := &c.some[a.GPUs], len(spots)+most
	for rank := some.next(0); rank >= 0 && len(spots) < end; rank = some.next(rank + 1) {
		s := c.spot(rank, a.GPUs)
		free := s.free()
		for left := c.present[free] & enough; left != 0 && len(spots) < end; left &= left - 1 {
			c.byMask[free][bits.TrailingZeros64(left)].each(x, a, func(at int32) bool {
				s.at = at
				spots = append(spots, s)
				return len(spots) < end
			})
		}
	}
	return spots
}

// each yields the nodes that have enough for the ask, in their order. It keeps
// the entries whose parents it has seen in a queue of their own.
func (b *bucket) each(x *Index, a *Ask, yield func(int32) bool) {
	open := queue{b.nodes[0]}
	places := []int{0} // in b.nodes, of the entries that are open
	for len(open) > 0 {
		at, place := open[0].item, places[0]
		open, places = pop(x, open, places)
		for child := place*fanout + 1; child <= min(place*fanout+fanout, len(b.nodes)-1); child++ {
			open, places = push(x, open, places, b.nodes[child], child)
		}
		if n := &x.nodes[at]; n.cpu >= a.CPU && n.memoryMiB >= a.MemoryMiB && !yield(at) {
			return
		}
	}
}

// push and pop keep a heap of two children to an entry.
func push(x *Index, open queue, places []int, e entry, place int) (queue, []int) {
	open, places = append(open, e), append(places, place)
	for at := len(open) - 1; at > 0; {
		parent := (at - 1) / 2
		if !x.inBucket.less(open[at], open[parent]) {
			break
		}
		open[at], open[parent] = open[parent], open[at]
		places[at], places[parent] = places[parent], places[at]
		at = parent
	}
	return open, places
}

func pop(x *Index, open queue, places []int) (queue, []int) {
	end := len(open) - 1
	open[0], places[0] = open[end], places[end]
	open, places = open[:end], places[:end]
	for at := 0; ; {
		least := at
		for child := 2*at + 1; child <= min(2*at+2, end-1); child++ {
			if x.inBucket.less(open[child], open[least]) {
				least = child
			}
		}
		if least == at {
			return open, places
		}
		open[at], open[least] = open[least], open[at]
		places[at], places[least] = places[least], places[at]
		at = least
	}
}
