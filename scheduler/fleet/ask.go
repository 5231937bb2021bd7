package fleet

import (
	"fmt"
	"slices"
)

const (
	// WholeGPU is a whole GPU in milli.
	WholeGPU = 1000
	// NodeGPUs is how many GPUs a node may have.
	NodeGPUs = 16

	// cpuMilliMax and memoryMiBMax keep sums far from overflow.
	cpuMilliMax  = 1 << 31
	memoryMiBMax = 1 << 36
	typicalMax   = 4096
	countMax     = 1 << 32
)

// Node is what a node has left.
type Node struct {
	// ID is unique in the fleet.
	ID string
	// Model of the GPUs, all of one.
	Model     string
	CPUMilli  int64
	MemoryMiB int64
	// GPUs is what is left of each GPU, 0 to WholeGPU milli.
	GPUs []int
}

// check says what is wrong with the node.
func (n *Node) check() error {
	switch {
	case n.ID == "":
		return fmt.Errorf("a node has no id")
	case n.CPUMilli < 0 || n.CPUMilli > cpuMilliMax || n.MemoryMiB < 0 || n.MemoryMiB > memoryMiBMax:
		return fmt.Errorf("node %s has %d milli of CPU and %d MiB of memory", n.ID, n.CPUMilli, n.MemoryMiB)
	case len(n.GPUs) > NodeGPUs:
		return fmt.Errorf("node %s has %d GPUs, more than %d", n.ID, len(n.GPUs), NodeGPUs)
	}
	for _, left := range n.GPUs {
		if left < 0 || left > WholeGPU {
			return fmt.Errorf("node %s has a GPU with %d milli left, not 0 to %d", n.ID, left, WholeGPU)
		}
	}
	return nil
}

// Ask is what one unit of work wants from one node.
type Ask struct {
	CPUMilli  int64
	MemoryMiB int64
	// GPUs is how many, 0 for work without any.
	GPUs int
	// GPUMilli is how much of each: WholeGPU, or less of a single one. It is 0
	// for work without GPUs.
	GPUMilli int
	// Models of GPUs that are accepted; empty means all.
	Models []string
}

// TotalMilli is what the ask takes of all its GPUs together.
func (a *Ask) TotalMilli() int { return a.GPUs * a.GPUMilli }

// Accepts reports whether the ask may run next to GPUs of the model. Work
// without GPUs may run anywhere.
func (a *Ask) Accepts(model string) bool {
	return a.GPUs == 0 || len(a.Models) == 0 || slices.Contains(a.Models, model)
}

// Check says what is wrong with an ask that no node could ever serve.
func (a *Ask) Check() error {
	switch {
	case a.CPUMilli < 0 || a.CPUMilli > cpuMilliMax || a.MemoryMiB < 0 || a.MemoryMiB > memoryMiBMax:
		return fmt.Errorf("an ask for %d milli of CPU and %d MiB of memory", a.CPUMilli, a.MemoryMiB)
	case a.GPUs < 0 || a.GPUs > NodeGPUs:
		return fmt.Errorf("an ask for %d GPUs, not 0 to %d", a.GPUs, NodeGPUs)
	case a.GPUs == 0 && a.GPUMilli != 0:
		return fmt.Errorf("an ask for %d milli of no GPU", a.GPUMilli)
	case a.GPUs > 0 && (a.GPUMilli < 1 || a.GPUMilli > WholeGPU):
		return fmt.Errorf("an ask for %d milli of a GPU, not 1 to %d", a.GPUMilli, WholeGPU)
	case a.GPUs > 1 && a.GPUMilli < WholeGPU:
		return fmt.Errorf("an ask for %d milli of each of %d GPUs: shares are of a single GPU", a.GPUMilli, a.GPUs)
	}
	return nil
}

// Typical is a kind of work that comes often.
type Typical struct {
	Ask
	// Count is how often it was seen, in relation to the other kinds.
	Count int64
}

// check says what is wrong with it.
func (t *Typical) check() error {
	if t.Count < 0 || t.Count > countMax {
		return fmt.Errorf("typical work was seen %d times, not 0 to %d", t.Count, int64(countMax))
	}
	return t.Check()
}

// Placement is where work was placed.
type Placement struct {
	// Node is the id of the node.
	Node string
	// GPUs are the indexes of its GPUs, ascending; none for work without.
	GPUs []int
	// Ask is what was placed.
	Ask Ask
}
