package main

import (
	"math"
	"testing"

	"github.com/shoenig/test/must"
)

func TestHeapPercent(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 1000, 1 << 20: 1000, 8 << 20: 400, 16 << 20: 200, 32 << 20: 100, 1 << 30: 100, math.MaxUint64: 100} {
		must.EqOp(t, want, heapPercent(live))
	}
}
