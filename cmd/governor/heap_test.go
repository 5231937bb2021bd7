package main

import (
	"math"
	"testing"

	"github.com/shoenig/test/must"
)

func TestHeapPercent(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 1000, 1 << 20: 1000, 8 << 20: 400, 16 << 20: 200, 32 << 20: 100, 64 << 20: 50, 1 << 30: 50, math.MaxUint64: 50} {
		must.EqOp(t, want, heapPercent(live))
	}
}
