package simulate

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/nomad-governor/governor/scheduler/sets"
)

// The policies.
const (
	// Governor places as the product does: by what a choice costs later jobs
	// (index.Standing).
	Governor = "governor"
	// BestSet takes the best set of GPUs of any node, then the node that has fewest left,
	// without a thought of later jobs.
	BestSet = "best-set"
	// BestFit takes the node with the fewest free GPUs, and the best set there.
	BestFit = "best-fit"
	// Spread takes the node with the most free GPUs, and the best set there.
	Spread = "spread"
	// Nomad takes the fuller one of two nodes by chance, and GPUs by chance, as Nomad
	// does with a batch job.
	Nomad = "nomad"
)

// Policies are the names of all policies.
func Policies() []string { return []string{Governor, BestSet, BestFit, Spread, Nomad} }

// cost says how good a choice is; the least is the best, the first number counts most.
type cost [5]int64

func (c *cost) less(o *cost) bool {
	for i := range c {
		if c[i] != o[i] {
			return c[i] < o[i]
		}
	}
	return false
}

// rule is a policy that compares all nodes: what the choice of a set out of the free
// GPUs of a node costs.
type rule func(s *shelf, free uint64, k int) cost

func ruleOf(policy string) (rule, error) {
	switch policy {
	case BestSet:
		return bestSet, nil
	case BestFit:
		return func(_ *shelf, free uint64, _ int) cost { return cost{int64(bits.OnesCount64(free))} }, nil
	case Spread:
		return func(_ *shelf, free uint64, _ int) cost { return cost{-int64(bits.OnesCount64(free))} }, nil
	}
	return nil, fmt.Errorf("there is no policy %q: the policies are %s", policy, strings.Join(Policies(), ", "))
}

// bestSet orders choices by their links, then by what is left.
func bestSet(s *shelf, free uint64, k int) cost {
	set := s.table.Best(free, k)
	q := sets.Quality{}
	if s.class.Topology != nil {
		q = s.table.Quality(set, free)
	}
	damage := s.table.Left(free) - s.table.Left(free&^set)
	return cost{-int64(q.RingMBps), -int64(q.SumMBps), int64(q.NUMANodes), int64(bits.OnesCount64(free) - k), damage}
}

// dice are reproducible random numbers (splitmix64).
type dice uint64

// below is a number in [0, n).
func (d *dice) below(n int) int {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	hi, _ := bits.Mul64(z^z>>31, uint64(n))
	return int(hi)
}

// some are k of the free GPUs by chance.
func (d *dice) some(free uint64, k int) uint64 {
	var set uint64
	for range k {
		rest := free &^ set
		for skip := d.below(bits.OnesCount64(rest)); skip > 0; skip-- {
			rest &= rest - 1
		}
		set |= rest & -rest
	}
	return set
}
