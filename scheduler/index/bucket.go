package index

import "math/bits"

// levels is how many steps the free CPU, and the free memory, of a class's nodes
// are told apart by. Buckets of a set of free GPUs are one word of bits.
const levels = 8

// levelOf orders nodes by what is free, the tightest first: CPU, then memory.
func (c *class) levelOf(cpu, memoryMiB int) uint8 {
	return uint8(step(cpu, c.CPU)*levels + step(memoryMiB, c.MemoryMiB))
}

// step never falls when the amount grows, so nodes on a higher step than an ask
// have enough, those on a lower one too little, and those on the same are looked
// at one by one.
func step(amount, usual int) int {
	if usual == 0 {
		return 0
	}
	return min(amount*levels/usual, levels-1)
}

// enough is the levels that may hold nodes for an ask, and sure those that
// only hold such.
func (c *class) enough(a *Ask) (enough, sure uint64) {
	cpu, memory := step(a.CPU, c.CPU), step(a.MemoryMiB, c.MemoryMiB)
	enough = atLeast(cpu, memory)
	if cpu+1 < levels && memory+1 < levels {
		sure = atLeast(cpu+1, memory+1)
	}
	if a.CPU == 0 && a.MemoryMiB == 0 {
		sure = enough
	}
	return enough, sure
}

// atLeast is the levels from the given steps of CPU and memory on.
func atLeast(cpu, memory int) uint64 {
	const eachRow = 0x0101010101010101
	row := uint64(0xff) << memory & 0xff
	return row * eachRow >> (cpu * levels) << (cpu * levels)
}

// buckets are the nodes of a class that have one set of free GPUs, by level.
type buckets [levels * levels]bucket

// bucket is nodes in the order in which they are preferred.
type bucket struct {
	nodes queue
	// tooMuch says that no node has enough for an ask of that CPU and memory, so
	// that asks that cannot be served are not looked for again and again.
	tooMuch       bool
	tooMuchCPU    int
	tooMuchMemory int
}

func (b *bucket) push(s *items, at int32, n *node) {
	if b.tooMuch && n.cpu >= b.tooMuchCPU && n.memoryMiB >= b.tooMuchMemory {
		b.tooMuch = false
	}
	b.nodes.push(s, entry{n.key, at})
}

// first is the first of the nodes with some set of free GPUs that has enough
// for the ask, the tightest level first, or -1.
func (c *class) first(x *Index, a *Ask, free uint16, enough, sure uint64) int32 {
	for left := c.present[free] & enough; left != 0; left &= left - 1 {
		level := bits.TrailingZeros64(left)
		b := &c.byMask[free][level]
		if sure>>level&1 == 1 {
			return b.nodes[0].item
		}
		if found := b.first(x, a); found >= 0 {
			return found
		}
	}
	return -1
}

// first looks at nodes one by one. Behind one that fits only others with higher
// keys come, so it goes on only behind those that do not.
func (b *bucket) first(x *Index, a *Ask) int32 {
	if b.tooMuch && a.CPU >= b.tooMuchCPU && a.MemoryMiB >= b.tooMuchMemory {
		return -1
	}
	if found := b.search(x, a, 0, -1); found >= 0 {
		return b.nodes[found].item
	}
	b.tooMuch, b.tooMuchCPU, b.tooMuchMemory = true, a.CPU, a.MemoryMiB
	return -1
}

// search returns the better of best and what is found from an entry on.
func (b *bucket) search(x *Index, a *Ask, at, best int) int {
	if at >= len(b.nodes) || best >= 0 && !x.inBucket.less(b.nodes[at], b.nodes[best]) {
		return best
	}
	if n := &x.nodes[b.nodes[at].item]; n.cpu >= a.CPU && n.memoryMiB >= a.MemoryMiB {
		return at
	}
	for child := at*fanout + 1; child <= at*fanout+fanout; child++ {
		best = b.search(x, a, child, best)
	}
	return best
}
