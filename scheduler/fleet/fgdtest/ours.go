package fgdtest

import "github.com/nomad-governor/governor/scheduler/fleet"

// ours is the policy of package fleet, used as anyone would.
type ours struct {
	fleet *fleet.Fleet
	index map[string]int
}

// NewOurs returns the policy of package fleet. It does not see the names by which
// the others break ties. It panics when the experiment is none for it.
func NewOurs(e *Experiment, typical []fleet.Typical) Policy {
	f, err := fleet.New(e.Nodes, typical)
	if err != nil {
		panic(err)
	}
	o := &ours{fleet: f, index: map[string]int{}}
	for i := range e.Nodes {
		o.index[e.Nodes[i].ID] = i
	}
	return o
}

// Place implements Policy.
func (o *ours) Place(a *fleet.Ask) (int, []int, bool) {
	p, ok := o.fleet.Place(*a)
	return o.index[p.Node], p.GPUs, ok
}
