package index

import "cmp"

// entry is an item of a queue with the key that it is ordered by.
type entry struct {
	key  uint64
	item int32
}

// items are what queues hold: each is in one queue of a kind at most.
type items struct {
	names *[]string // ends the ties of equal keys
	at    []int32   // where in its queue each item is
}

func (s *items) less(a, b entry) bool {
	return a.key < b.key || a.key == b.key && (*s.names)[a.item] < (*s.names)[b.item]
}

// compare is less for sorting.
func (s *items) compare(a, b entry) int {
	return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare((*s.names)[a.item], (*s.names)[b.item]))
}

// queue is a heap of items, the one with the least key first. Four children to
// an entry make it half as deep as two, and they share a cache line.
type queue []entry

const fanout = 4

func (q *queue) push(s *items, e entry) {
	*q = append(*q, e)
	q.up(s, len(*q)-1)
}

// add appends an item without regard to the order; settle must follow.
func (q *queue) add(s *items, e entry) {
	s.at[e.item] = int32(len(*q))
	*q = append(*q, e)
}

// settle makes a queue of what was added.
func (q *queue) settle(s *items) {
	for at := len(*q) / fanout; at >= 0 && len(*q) > 0; at-- { // the last with children, or the one behind it
		q.down(s, at)
	}
}

// remove takes an item out, wherever it is.
func (q *queue) remove(s *items, item int32) {
	at, end := int(s.at[item]), len(*q)-1
	last := (*q)[end]
	*q = (*q)[:end]
	if at == end {
		return
	}
	(*q)[at] = last
	if !q.up(s, at) {
		q.down(s, at)
	}
}

// up moves an entry to its place towards the first, and reports whether it moved.
func (q *queue) up(s *items, at int) bool {
	h, e, from := *q, (*q)[at], at
	for at > 0 {
		parent := (at - 1) / fanout
		if !s.less(e, h[parent]) {
			break
		}
		h[at] = h[parent]
		s.at[h[at].item] = int32(at)
		at = parent
	}
	h[at] = e
	s.at[e.item] = int32(at)
	return at != from
}

// down moves an entry to its place away from the first.
func (q *queue) down(s *items, at int) {
	h, e := *q, (*q)[at]
	for {
		first := at*fanout + 1
		if first >= len(h) {
			break
		}
		least := first
		for child := first + 1; child < min(first+fanout, len(h)); child++ {
			if s.less(h[child], h[least]) {
				least = child
			}
		}
		if !s.less(h[least], e) {
			break
		}
		h[at] = h[least]
		s.at[h[at].item] = int32(at)
		at = least
	}
	h[at] = e
	s.at[e.item] = int32(at)
}
