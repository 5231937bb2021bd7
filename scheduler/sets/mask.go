package sets

import "math/bits"

// Members lists the members of a mask, ascending.
func Members(mask uint64) []int {
	members := make([]int, 0, bits.OnesCount64(mask))
	for ; mask != 0; mask &= mask - 1 {
		members = append(members, bits.TrailingZeros64(mask))
	}
	return members
}

// First is the first k members of a mask in PCI order.
func First(mask uint64, k int) uint64 {
	var set uint64
	for range k {
		set |= mask & -mask
		mask &= mask - 1
	}
	return set
}

// pciFirst reports whether set a comes before b, both of one size: at the
// lowest GPU in which they differ, a has it.
func pciFirst(a, b uint64) bool {
	differ := a ^ b
	return a&(differ&-differ) != 0
}

// subsets yields all sets of k members of free.
func subsets(free uint64, k int) func(yield func(uint64) bool) {
	members := Members(free)
	return func(yield func(uint64) bool) {
		grow(members, k, 0, yield)
	}
}

func grow(members []int, k int, set uint64, yield func(uint64) bool) bool {
	if k == 0 {
		return yield(set)
	}
	for i := 0; i+k <= len(members); i++ {
		if !grow(members[i+1:], k-1, set|1<<members[i], yield) {
			return false
		}
	}
	return true
}

func maskOf(members []int) uint64 {
	var mask uint64
	for _, i := range members {
		mask |= 1 << i
	}
	return mask
}
