package index

import "math/bits"

// bitmap is a set of small numbers that finds its next member in a few steps
// however far away it is: each word of a layer has a bit in the layer above that
// says whether it is not zero.
type bitmap struct {
	layers [][]uint64 // the members first, the last layer is one word
}

func newBitmap(size int) bitmap {
	var b bitmap
	for {
		size = (size + 63) / 64
		b.layers = append(b.layers, make([]uint64, max(1, size)))
		if size <= 1 {
			return b
		}
	}
}

func (b *bitmap) add(i int) {
	for _, words := range b.layers {
		before := words[i>>6]
		words[i>>6] = before | 1<<(i&63)
		if before != 0 {
			return
		}
		i >>= 6
	}
}

func (b *bitmap) remove(i int) {
	for _, words := range b.layers {
		words[i>>6] &^= 1 << (i & 63)
		if words[i>>6] != 0 {
			return
		}
		i >>= 6
	}
}

// next is the least member that is at least i, or -1.
func (b *bitmap) next(i int) int {
	for at, words := range b.layers {
		word := i >> 6
		if word >= len(words) {
			return -1
		}
		if rest := words[word] >> (i & 63) << (i & 63); rest != 0 {
			i = word<<6 | bits.TrailingZeros64(rest)
			for below := at - 1; below >= 0; below-- {
				i = i<<6 | bits.TrailingZeros64(b.layers[below][i])
			}
			return i
		}
		i = word + 1 // in the layer above, behind this word
	}
	return -1
}

// previous is the greatest member that is at most i, or -1.
func (b *bitmap) previous(i int) int {
	for at, words := range b.layers {
		if i < 0 {
			return -1
		}
		word, above := i>>6, 63-i&63
		if rest := words[word] << above >> above; rest != 0 {
			i = word<<6 | bits.Len64(rest) - 1
			for below := at - 1; below >= 0; below-- {
				i = i<<6 | bits.Len64(b.layers[below][i]) - 1
			}
			return i
		}
		i = word - 1
	}
	return -1
}

// last is the greatest member, or -1.
func (b *bitmap) last() int { return b.previous(len(b.layers[0])<<6 - 1) }
