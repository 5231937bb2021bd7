package index

import (
	"fmt"
	"math/bits"
	"math/rand"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-governor/governor/scheduler/sets/setstest"
)

// benchJoints are the topologies of the four classes of the benchmarks.
var benchJoints = []string{"dgx1v", "pairs", "dgx1v", "pairs"}

const (
	benchCPU, benchMemory = 128_000, 1_024_000
	rackNodes             = 32
)

// cluster makes nodes of 8 GPUs in four classes, in racks of 32, used to the
// given share: GPUs at random, CPU and memory in four steps.
func cluster(count int, used float64) []Node {
	random := rand.New(rand.NewSource(1))
	nodes := make([]Node, count)
	for i := range nodes {
		n := Node{ID: fmt.Sprintf("node-%06d", i), Class: fmt.Sprintf("class-%d", i%4), Rack: fmt.Sprintf("rack-%05d", i/rackNodes), Free: 0xff,
			CPU: benchCPU, MemoryMiB: benchMemory}
		if random.Float64() < used {
			n.Free = uint64(random.Intn(256))
			n.CPU -= random.Intn(4) * benchCPU / 4
			n.MemoryMiB -= random.Intn(4) * benchMemory / 4
		}
		nodes[i] = n
	}
	return nodes
}

func build(tb testing.TB, nodes []Node) *Index {
	var classes []Class
	for i, joint := range benchJoints {
		classes = append(classes, Class{ID: fmt.Sprintf("class-%d", i), Joint: joints[joint], CPU: benchCPU, MemoryMiB: benchMemory})
	}
	x, err := Build(classes, nodes)
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

// cpuTime is what the process has computed: on a shared machine the wall clock
// measures the others too.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// perCPU reports the operations in a second of CPU time, and returns what one
// takes.
func perCPU(b *testing.B, since time.Duration, what string) float64 {
	each := float64((cpuTime() - since).Nanoseconds()) / float64(b.N)
	b.ReportMetric(1e9/each, what+"/cpu-s")
	return each
}

// quantiles reports how long single calls take, less the clock itself.
func quantiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for _, q := range []struct {
		at   float64
		name string
	}{{0.5, "p50-ns"}, {0.99, "p99-ns"}, {0.999, "p99.9-ns"}} {
		b.ReportMetric(float64(max(0, took[int(q.at*float64(len(took)-1))]-clock())), q.name)
	}
}

// clock is what reading the clock twice takes.
func clock() time.Duration {
	least := time.Hour
	for range 1000 {
		start := time.Now()
		least = min(least, time.Since(start))
	}
	return least
}

// asks are those of the workloads: GPUs alone, with CPU and memory, and in two
// of the classes only.
func asks() map[string]func(k int) Ask {
	local := func(class string) bool { return class == "class-1" || class == "class-2" }
	return map[string]func(k int) Ask{
		"gpus":             func(k int) Ask { return Ask{GPUs: k} },
		"cpu and memory":   func(k int) Ask { return Ask{GPUs: k, CPU: k * 12_000, MemoryMiB: k * 90_000} },
		"cpu, memory, two": func(k int) Ask { return Ask{GPUs: k, CPU: k * 12_000, MemoryMiB: k * 90_000, Accepts: local} },
	}
}

// BenchmarkPlace measures decisions on a cluster that is kept at its load: each
// placement is followed by freeing the oldest.
func BenchmarkPlace(b *testing.B) {
	mix := setstest.Mix()
	for _, count := range []int{1_000, 10_000, 100_000} {
		for name, ask := range asks() {
			b.Run(fmt.Sprintf("%d nodes/%s", count, name), func(b *testing.B) {
				x := build(b, cluster(count, 0.9))
				random := rand.New(rand.NewSource(2))
				held := make([]Offer, 0, count)
				for len(held) < count/2 {
					if o, ok := x.Place(ask(mix[random.Intn(len(mix))])); ok {
						held = append(held, o)
						continue
					}
					break
				}
				took := make([]time.Duration, 0, 1<<20)
				at := 0
				start := cpuTime()
				for b.Loop() {
					k := mix[random.Intn(len(mix))]
					a := ask(k)
					if len(took) < cap(took) {
						start := time.Now()
						o, ok := x.Place(a)
						took = append(took, time.Since(start))
						at = turn(b, x, held, at, o, ok)
						continue
					}
					o, ok := x.Place(a)
					at = turn(b, x, held, at, o, ok)
				}
				perCPU(b, start, "decisions")
				quantiles(b, took)
			})
		}
	}
}

// turn frees the oldest offer and remembers the new one in its place.
func turn(b *testing.B, x *Index, held []Offer, at int, o Offer, ok bool) int {
	if !ok {
		return at
	}
	if err := x.Free(held[at]); err != nil {
		b.Fatal(err)
	}
	held[at] = o
	return (at + 1) % len(held)
}

// BenchmarkPlaceFree is one decision and its end, without clocks in between,
// beside a scan of all nodes.
func BenchmarkPlaceFree(b *testing.B) {
	mix := setstest.Mix()
	for _, count := range []int{1_000, 10_000, 100_000} {
		nodes := cluster(count, 0.9)
		var ours float64
		b.Run(fmt.Sprintf("%d nodes/index", count), func(b *testing.B) {
			x := build(b, nodes)
			i, start := 0, cpuTime()
			for b.Loop() {
				if o, ok := x.Place(Ask{GPUs: mix[i%len(mix)]}); ok {
					if err := x.Free(o); err != nil {
						b.Fatal(err)
					}
				}
				i++
			}
			ours = perCPU(b, start, "decisions")
		})
		b.Run(fmt.Sprintf("%d nodes/naive scan", count), func(b *testing.B) {
			free := make([]uint64, count)
			for i := range nodes {
				free[i] = nodes[i].Free
			}
			i, start := 0, cpuTime()
			for b.Loop() {
				scanSink += scanMasks(free, mix[i%len(mix)])
				i++
			}
			b.ReportMetric(perCPU(b, start, "decisions")/ours, "times-index")
		})
	}
}

var scanSink int

// scanMasks is the least that a scheduler without an index does: the fullest node
// with enough GPUs.
func scanMasks(free []uint64, k int) int {
	best, least := -1, 65
	for i, mask := range free {
		if n := bits.OnesCount64(mask); n >= k && n < least {
			best, least = i, n
		}
	}
	return best
}

// BenchmarkGang places 64 whole nodes in the fewest racks, and frees them.
func BenchmarkGang(b *testing.B) {
	for _, count := range []int{10_000, 100_000} {
		for name, ask := range map[string]Ask{"gpus": {GPUs: 8}, "cpu and memory": {GPUs: 8, CPU: 64_000, MemoryMiB: 512_000}} {
			b.Run(fmt.Sprintf("%d nodes/%s", count, name), func(b *testing.B) {
				x := build(b, cluster(count, 0.5))
				took, offers := make([]time.Duration, 0, 1<<16), make([]Offer, 0, 64)
				for b.Loop() {
					start := time.Now()
					var ok bool
					offers, ok = x.AppendGang(offers[:0], ask, 64)
					if len(took) < cap(took) {
						took = append(took, time.Since(start))
					}
					if !ok {
						b.Fatal("no gang")
					}
					for _, o := range offers {
						if err := x.Free(o); err != nil {
							b.Fatal(err)
						}
					}
				}
				quantiles(b, took)
			})
		}
	}
}

// BenchmarkBuild is what a start costs.
func BenchmarkBuild(b *testing.B) {
	for _, count := range []int{10_000, 100_000} {
		nodes := cluster(count, 0.9)
		b.Run(fmt.Sprintf("%d nodes", count), func(b *testing.B) {
			start := cpuTime()
			for b.Loop() {
				build(b, nodes)
			}
			b.ReportMetric(float64((cpuTime()-start).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

// BenchmarkApply is events that others cause: GPUs are taken and freed.
func BenchmarkApply(b *testing.B) {
	nodes := cluster(100_000, 0.9)
	x := build(b, nodes)
	random := rand.New(rand.NewSource(3))
	var events []Event
	for len(events) < 1<<16 {
		n := &nodes[random.Intn(len(nodes))]
		if n.Free == 0 || n.CPU < 1000 || n.MemoryMiB < 1000 {
			continue
		}
		change := Node{ID: n.ID, Free: n.Free & -n.Free, CPU: 1000, MemoryMiB: 1000}
		events = append(events, Event{Kind: Taken, Node: change}, Event{Kind: Freed, Node: change})
	}
	i, start := 0, cpuTime()
	for b.Loop() {
		if err := x.Apply(events[i%len(events)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
	perCPU(b, start, "events")
}
