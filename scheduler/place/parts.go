package place

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// divided is one GPU of which a group has free parts.
type divided struct {
	gpu uint8
	// free parts, as a mask over the devices of the group.
	free uint64
	// taken counts the parts of the GPU that somebody has or was promised, of all groups
	// of the node, and broken those that nobody can have.
	taken, broken int
}

// split lists the GPUs that have free parts in a group, in the order of its devices; all are
// the free devices of each group of the node.
func split(n *cluster.Node, group int, all []uint64) []divided {
	var taken, broken [256]uint16
	for i := range n.Groups {
		g := &n.Groups[i]
		for j, gpu := range g.GPUs {
			switch {
			case all[i]>>j&1 == 1:
			case g.Devices[j].Healthy:
				taken[gpu]++
			default:
				broken[gpu]++
			}
		}
	}
	var gpus []divided
	var at [256]uint8 // from 1
	for rest := all[group]; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(rest)
		gpu := n.Groups[group].GPUs[i]
		if at[gpu] == 0 {
			gpus = append(gpus, divided{gpu: gpu, taken: int(taken[gpu]), broken: int(broken[gpu])})
			at[gpu] = uint8(len(gpus))
		}
		gpus[at[gpu]-1].free |= 1 << i
	}
	return gpus
}

// chooseParts takes k parts of GPUs so that what stays free is worth most. Shares come
// from the GPUs with the fewest in use, one of each: a task is slowed down least, and as
// many GPUs as possible keep one for tasks that want several. Instances come from the
// GPUs with the most in use, so that others stay whole and can be divided anew, and last
// from those with broken ones, which somebody will want to reset. lost is how many GPUs
// have no free share any more, or are not whole any more. Who has k already keeps them.
// There must be room for k.
func chooseParts(n *cluster.Node, group int, all []uint64, k int) (set uint64, lost int) {
	g := &n.Groups[group]
	gpus := split(n, group, all)
	if own := ownOf(g, all[group]); bits.OnesCount64(own) == k && g.Room(own) == k {
		return own, lostBy(g, gpus, own)
	}
	if g.Part == cluster.Share {
		set = chooseShares(slices.Clone(gpus), k)
	} else {
		set = chooseInstances(slices.Clone(gpus), k)
	}
	return set, lostBy(g, gpus, set)
}

// ownOf are the free devices that somebody holds: a device that is held is free only for
// the job that holds it.
func ownOf(g *cluster.Group, free uint64) (own uint64) {
	for rest := free; rest != 0; rest &= rest - 1 {
		if i := bits.TrailingZeros64(rest); g.Devices[i].Use.Held() {
			own |= 1 << i
		}
	}
	return own
}

// lostBy counts the GPUs that have no free share any more without a set, or are not whole
// any more.
func lostBy(g *cluster.Group, gpus []divided, set uint64) (lost int) {
	for _, d := range gpus {
		switch {
		case d.free&set == 0:
		case g.Part == cluster.Share && d.free&^set == 0, g.Part == cluster.Instance && d.taken == 0:
			lost++
		}
	}
	return lost
}

func chooseShares(gpus []divided, k int) (set uint64) {
	slices.SortStableFunc(gpus, func(a, b divided) int { return cmp.Compare(a.taken+a.broken, b.taken+b.broken) })
	for _, d := range gpus[:k] {
		set |= d.free & -d.free
	}
	return set
}

func chooseInstances(gpus []divided, k int) (set uint64) {
	for len(gpus) > 0 && k > 0 {
		at := 0
		for i := range gpus {
			if gpus[i].before(&gpus[at], k) {
				at = i
			}
		}
		take := min(k, bits.OnesCount64(gpus[at].free))
		set |= sets.First(gpus[at].free, take)
		k -= take
		gpus = slices.Delete(gpus, at, at+1)
	}
	return set
}

// before reports whether k instances come from d rather than from o: from one that is in
// use, the fullest first; of whole ones from the smallest that is enough, or else from the
// largest, so that as few as possible are divided; and from one without broken instances.
func (d *divided) before(o *divided, k int) bool {
	free, other := bits.OnesCount64(d.free), bits.OnesCount64(o.free)
	order := falseFirst(d.taken == 0, o.taken == 0)
	switch {
	case order != 0:
	case d.taken > 0:
		order = cmp.Or(falseFirst(d.broken > 0, o.broken > 0), cmp.Compare(o.taken, d.taken), cmp.Compare(free, other))
	case free >= k && other >= k:
		order = cmp.Or(falseFirst(d.broken > 0, o.broken > 0), cmp.Compare(free, other))
	default:
		order = cmp.Or(cmp.Compare(min(other, k), min(free, k)), falseFirst(d.broken > 0, o.broken > 0))
	}
	return order < 0
}

// partName says in a few words what a set of parts is; "" for whole GPUs.
func partName(g *cluster.Group, set uint64) string {
	names := map[cluster.Part][2]string{cluster.Share: {"share", "shares"}, cluster.Instance: {"MIG instance", "MIG instances"}}
	name, is := names[g.Part]
	switch n := bits.OnesCount64(set); {
	case !is:
		return ""
	case n == 1:
		return name[0] + " of a GPU"
	default:
		gpus := gpusOf(g, set)
		if gpus == 1 {
			return fmt.Sprintf("%d %s of a GPU", n, name[1])
		}
		return fmt.Sprintf("%d %s of %d GPUs", n, name[1], gpus)
	}
}

// gpusOf counts the GPUs that the parts of a set are of.
func gpusOf(g *cluster.Group, set uint64) int {
	seen := map[uint8]bool{}
	for rest := set; rest != 0; rest &= rest - 1 {
		seen[g.GPUs[bits.TrailingZeros64(rest)]] = true
	}
	return len(seen)
}

// partReason says by what a set of parts was chosen; "" for whole GPUs.
func partReason(g *cluster.Group) string {
	switch g.Part {
	case cluster.Share:
		return "where the fewest shares are in use"
	case cluster.Instance:
		return "where the most instances are in use, so that other GPUs stay whole"
	case cluster.Whole:
	}
	return ""
}
