package index

// ids finds nodes by their ids. The key of a node is a hash of its id already,
// so a place is found with one look at the table and one at the node, which the
// caller needs anyway; a map of texts would hash again and keep them twice.
type ids struct {
	places []int32 // of nodes, 1 more than they are; 0 where there is none
	count  int
}

// newIDs has room for some nodes.
func newIDs(nodes int) ids {
	size := 16
	for size < 2*nodes {
		size *= 2
	}
	return ids{places: make([]int32, size)}
}

// slot is where a node's place is kept, or where it would be.
func (x *Index) slot(id string, key uint64) int {
	mask := len(x.ids.places) - 1
	at := int(key) & mask
	for ; x.ids.places[at] != 0; at = (at + 1) & mask {
		place := x.ids.places[at] - 1
		if x.nodes[place].key == key && x.names[place] == id {
			break
		}
	}
	return at
}

// find is the place of a node.
func (x *Index) find(id string) (int32, bool) {
	place := x.ids.places[x.slot(id, keyOf(id))]
	return place - 1, place != 0
}

// remember keeps the place of a node that has a key and a name there. It reports
// whether it is the only one with its id.
func (x *Index) remember(place int32) bool {
	if 2*x.ids.count >= len(x.ids.places) {
		before := x.ids.places
		x.ids = newIDs(2 * len(before))
		for _, kept := range before {
			if kept != 0 {
				x.remember(kept - 1)
			}
		}
	}
	to := &x.ids.places[x.slot(x.names[place], x.nodes[place].key)]
	if *to != 0 {
		return false
	}
	*to = place + 1
	x.ids.count++
	return true
}

// forget is the inverse of remember. Those that stand behind the gap because
// their own slot was taken move up.
func (x *Index) forget(place int32) {
	t, mask := x.ids.places, len(x.ids.places)-1
	gap := x.slot(x.names[place], x.nodes[place].key)
	x.ids.count--
	for at := (gap + 1) & mask; t[at] != 0; at = (at + 1) & mask {
		home := int(x.nodes[t[at]-1].key) & mask
		if (at-home)&mask >= (at-gap)&mask {
			t[gap] = t[at]
			gap = at
		}
	}
	t[gap] = 0
}
