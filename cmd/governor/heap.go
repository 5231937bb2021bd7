package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapRoom is how much a small heap may grow before it is collected. Go's own rule, to
// collect when the heap has doubled, has a busy gate with a heap of ten megabytes collect
// several times a second. One that is larger than twice this is collected when it has grown
// by half: what the leader reads of a large cluster for a moment would else stay in memory.
const heapRoom = 32 << 20

// roomyHeap gives small heaps that room, for as long as the process lives, unless GOGC
// says something else.
func roomyHeap() {
	if os.Getenv("GOGC") == "" {
		adjustHeap(new(collection))
	}
}

// collection is garbage, so that its finalizer runs after each collection.
type collection struct {
	percent int
	_       [3]int // so large that it has a place of its own, and not one among others
}

func adjustHeap(c *collection) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	// The world stops for a change: a small one is not worth it.
	if percent := heapPercent(live[0].Value.Uint64()); percent < c.percent*4/5 || percent > c.percent*5/4 {
		c.percent = percent
		debug.SetGCPercent(percent)
	}
	runtime.SetFinalizer(c, adjustHeap)
}

// heapPercent is GOGC for a heap with so many bytes in use.
func heapPercent(live uint64) int {
	return int(max(50, min(1000, heapRoom*100/max(live, 1))))
}
