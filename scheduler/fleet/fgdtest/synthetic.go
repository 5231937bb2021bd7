package fgdtest

import (
	"fmt"
	"math/rand"

	"github.com/nomad-governor/governor/scheduler/fleet"
)

// kindOfNode is a kind of node that clusters have.
type kindOfNode struct {
	model       string
	gpus        int
	cpu, memory int64
}

func kindsOfNodes() []kindOfNode {
	return []kindOfNode{
		{"small", 1, 16_000, 65_536}, {"old", 2, 32_000, 131_072}, {"inference", 2, 96_000, 393_216},
		{"inference", 4, 96_000, 393_216}, {"training", 8, 96_000, 786_432}, {"training", 8, 128_000, 1_048_576},
		{"large", 8, 192_000, 2_097_152},
	}
}

// SyntheticNodes is a cluster that no trace was recorded on: a mixture of kinds
// of nodes that the seed decides.
func SyntheticNodes(count int, seed int64) []fleet.Node {
	numbers := rand.New(rand.NewSource(seed))
	kinds := kindsOfNodes()
	shares := make([]int, len(kinds))
	total := 0
	for i := range shares {
		shares[i] = 1 + numbers.Intn(10)
		total += shares[i]
	}
	var nodes []fleet.Node
	for i := range count {
		at, x := 0, numbers.Intn(total)
		for x >= shares[at] {
			x -= shares[at]
			at++
		}
		k := kinds[at]
		n := fleet.Node{ID: fmt.Sprintf("node-%05d", i), Model: k.model, CPUMilli: k.cpu, MemoryMiB: k.memory}
		for range k.gpus {
			n.GPUs = append(n.GPUs, fleet.WholeGPU)
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// SyntheticTrace is work that no trace has: the seed decides which kinds there
// are and how often each comes. Some accept few models, some want no GPU.
func SyntheticTrace(count int, seed int64) []Pod {
	numbers := rand.New(rand.NewSource(seed))
	var asks []fleet.Ask
	var weights []float64
	total := 0.0
	for range 20 + numbers.Intn(40) {
		a, weight := syntheticAsk(numbers)
		asks = append(asks, a)
		weights = append(weights, weight)
		total += weight
	}
	var pods []Pod
	for i := range count {
		at, x := 0, numbers.Float64()*total
		for at < len(weights)-1 && x >= weights[at] {
			x -= weights[at]
			at++
		}
		pods = append(pods, Pod{Name: fmt.Sprintf("pod-%06d", i), Ask: asks[at]})
	}
	return pods
}

// syntheticAsk is one kind of work and how often it comes, without a unit.
func syntheticAsk(numbers *rand.Rand) (fleet.Ask, float64) {
	a := fleet.Ask{GPUs: 1, GPUMilli: fleet.WholeGPU}
	weight := numbers.ExpFloat64()
	switch x := numbers.Intn(100); {
	case x < 15:
		a.GPUs, a.GPUMilli = 0, 0
	case x < 55:
		a.GPUMilli = 10 * (5 + numbers.Intn(90))
	case x < 85:
	default:
		a.GPUs = 2 << numbers.Intn(3)
		weight /= float64(a.GPUs)
	}
	a.CPUMilli = 1000 + 100*int64(numbers.Intn(120))*int64(max(1, a.GPUs))
	a.MemoryMiB = a.CPUMilli * int64(1+numbers.Intn(5)) * 1024 / 1000
	if a.GPUs > 0 && numbers.Intn(10) == 0 {
		a.Models = [][]string{{"inference"}, {"training", "large"}, {"training"}}[numbers.Intn(3)]
	}
	return a, weight
}
