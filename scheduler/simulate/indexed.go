package simulate

import (
	"fmt"

	"github.com/nomad-governor/governor/scheduler/index"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// indexed places as the product does.
type indexed struct {
	x     *index.Index
	names []string
	at    map[string]int32
	class map[string]int // by index.Class.ID
}

func newIndexed(c *Cluster, joints []*sets.Joint) (*indexed, error) {
	p := &indexed{at: make(map[string]int32, len(c.Nodes)), class: map[string]int{}}
	classes := make([]index.Class, len(c.Classes))
	for i := range c.Classes {
		class := &c.Classes[i]
		classes[i] = index.Class{ID: classID(class), Joint: joints[i], CPU: orUnlimited(class.CPU), MemoryMiB: orUnlimited(class.MemoryMiB)}
		p.class[classes[i].ID] = i
	}
	nodes := make([]index.Node, len(c.Nodes))
	for i := range c.Nodes {
		n := &c.Nodes[i]
		class := c.class(n.Class)
		p.names, p.at[n.Name] = append(p.names, n.Name), int32(i)
		nodes[i] = index.Node{ID: n.Name, Class: classID(class), Free: c.usable(n), CPU: orUnlimited(class.CPU), MemoryMiB: orUnlimited(class.MemoryMiB)}
	}
	var err error
	if p.x, err = index.Build(classes, nodes); err != nil {
		return nil, fmt.Errorf("index the cluster: %w", err)
	}
	return p, nil
}

// classID is as in scheduler/place, where topologies end ties, too.
func classID(c *Class) string {
	topology := ""
	if c.Topology != nil {
		topology = c.Topology.Encode()
	}
	return fmt.Sprintf("%s %d %d %d %s", topology, c.GPUs, c.CPU, c.MemoryMiB, c.Name)
}

// place implements placer.
func (p *indexed) place(n *need) (grant, bool) {
	o, ok := p.x.Place(index.Ask{GPUs: n.gpus, CPU: n.cpu, MemoryMiB: n.memoryMiB, Accepts: func(class string) bool { return n.accepts[p.class[class]] }})
	if !ok {
		return grant{}, false
	}
	return grant{node: p.at[o.Node], set: o.Set, cpu: o.CPU, mem: o.MemoryMiB}, true
}

// free implements placer.
func (p *indexed) free(g grant) {
	if err := p.x.Free(index.Offer{Node: p.names[g.node], Set: g.set, CPU: g.cpu, MemoryMiB: g.mem}); err != nil {
		panic("simulate: " + err.Error()) // it was placed there
	}
}
