package simulate

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/clustermap"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// nodesMax bounds a cluster: what the index has been measured with.
const nodesMax = 100_000

// Class is what nodes have in common.
type Class struct {
	// Name is a machine type, or what a live cluster's nodes of one kind are called.
	Name string
	// Device is Nomad's name of the GPUs.
	Device string
	// Topology is nil where it is not known; GPUs is its size all the same.
	Topology *topology.Matrix
	GPUs     int
	// CPU in MHz and memory in MiB of a node; 0 where they do not matter.
	CPU, MemoryMiB int
}

// Node is one device group of one machine.
type Node struct {
	Name  string
	Class string
	// Out is a mask of the GPUs that no job gets.
	Out uint64
}

// Cluster is what jobs run on.
type Cluster struct {
	// Classes by name, Nodes in any order.
	Classes []Class
	Nodes   []Node
	// LeftOut are the devices of a map that are not simulated, and why.
	LeftOut []string
}

// class finds a class by its name.
func (c *Cluster) class(name string) *Class {
	for i := range c.Classes {
		if c.Classes[i].Name == name {
			return &c.Classes[i]
		}
	}
	return nil
}

// usable are the GPUs of a node that jobs get.
func (c *Cluster) usable(n *Node) uint64 { return (1<<c.class(n.Class).GPUs - 1) &^ n.Out }

// GPUs counts the GPUs that jobs get.
func (c *Cluster) GPUs() int {
	total := 0
	for i := range c.Nodes {
		total += bits.OnesCount64(c.usable(&c.Nodes[i]))
	}
	return total
}

// Grow adds nodes that text counts: "4xdgx-h100", several with commas.
func (c *Cluster) Grow(text string) error {
	for _, part := range strings.Split(text, ",") {
		number, name, ok := strings.Cut(strings.TrimSpace(part), "x")
		n, err := strconv.Atoi(number)
		if !ok || err != nil || n < 1 {
			return fmt.Errorf("%q is no number of nodes: write it like 4xdgx-h100", part)
		}
		if len(c.Nodes)+n > nodesMax {
			return fmt.Errorf("%q makes more than %d nodes, the most that are simulated", part, nodesMax)
		}
		class := c.class(name)
		if class == nil {
			m, known := machine(name)
			if !known {
				return fmt.Errorf("there is no machine type %q: the types are %s%s", name, strings.Join(Machines(), ", "), c.own())
			}
			c.Classes = append(c.Classes, m)
			slices.SortFunc(c.Classes, func(a, b Class) int { return strings.Compare(a.Name, b.Name) })
		}
		taken := make(map[string]bool, len(c.Nodes))
		for i := range c.Nodes {
			taken[c.Nodes[i].Name] = true
		}
		for at := 1; n > 0; at++ {
			if node := fmt.Sprintf("%s-%d", name, at); !taken[node] {
				c.Nodes = append(c.Nodes, Node{Name: node, Class: name})
				n--
			}
		}
	}
	return nil
}

// own names the classes of the cluster itself, which may grow too.
func (c *Cluster) own() string {
	var names []string
	for i := range c.Classes {
		if _, shipped := machine(c.Classes[i].Name); !shipped {
			names = append(names, c.Classes[i].Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return ", and of this cluster " + strings.Join(names, ", ")
}

// Drain takes the node with this name out, with all its device groups.
func (c *Cluster) Drain(name string) error {
	before := len(c.Nodes)
	c.Nodes = slices.DeleteFunc(slices.Clone(c.Nodes), func(n Node) bool { return n.Name == name || strings.HasPrefix(n.Name, name+"/") })
	if len(c.Nodes) == before {
		return fmt.Errorf("there is no node %q to drain", name)
	}
	return nil
}

// Clone is a copy that may be changed.
func (c *Cluster) Clone() Cluster {
	return Cluster{Classes: slices.Clone(c.Classes), Nodes: slices.Clone(c.Nodes), LeftOut: c.LeftOut}
}

// OfMap is the cluster that governor topology shows, without the nodes that take no new
// work. With held, the GPUs that are held now stay so all the time; without, the trace
// has the whole cluster. Unhealthy GPUs are never used, and MIG instances, shares of GPUs
// and groups of more than sets.MaxGPUs are left out.
func OfMap(m clustermap.Map, held bool) (Cluster, error) {
	var c Cluster
	left, named := map[string]int{}, map[string]int{}
	for i := range m.Nodes {
		named[m.Nodes[i].Name]++
	}
	for i := range m.Nodes {
		n := &m.Nodes[i]
		if !n.Ready {
			continue
		}
		for j := range n.Groups {
			g := &n.Groups[j]
			if why := unsimulated(g); why != "" {
				left[g.Device+" ("+why+")"]++
				continue
			}
			class, err := c.classOf(n, g)
			if err != nil {
				return Cluster{}, err
			}
			name := n.Name
			if named[name] > 1 {
				name += fmt.Sprintf("@%.8s", n.ID)
			}
			if len(n.Groups) > 1 {
				name += "/" + shortDevice(g.Device)
			}
			c.Nodes = append(c.Nodes, Node{Name: name, Class: class, Out: outOf(g, held)})
		}
	}
	for _, device := range slices.Sorted(maps.Keys(left)) {
		c.LeftOut = append(c.LeftOut, fmt.Sprintf("%s on %d of the nodes", device, left[device]))
	}
	if len(c.Nodes) == 0 {
		return Cluster{}, errors.New(strings.Join(append([]string{"no node of the cluster has whole GPUs and takes new work"}, c.LeftOut...), "; "))
	}
	slices.SortFunc(c.Classes, func(a, b Class) int { return strings.Compare(a.Name, b.Name) })
	return c, c.uniqueNames()
}

func outOf(g *clustermap.Group, held bool) uint64 {
	var out uint64
	for i := range g.GPUs {
		if state := g.GPUs[i].State; state == clustermap.Unhealthy || held && state != clustermap.Free {
			out |= 1 << i
		}
	}
	return out
}

// unsimulated says why a device group is left out; "" when it is not.
func unsimulated(g *clustermap.Group) string {
	_, typ, _, named := gpu.SplitName(g.Device)
	switch {
	case !named || typ != gpu.TypeGPU:
		return "no whole GPUs"
	case len(g.GPUs) == 0 || len(g.GPUs) > sets.MaxGPUs:
		return fmt.Sprintf("%d in one group, up to %d are simulated", len(g.GPUs), sets.MaxGPUs)
	}
	return ""
}

// classOf is the class of a device group, a new one for a new kind.
func (c *Cluster) classOf(n *clustermap.Node, g *clustermap.Group) (string, error) {
	class := Class{Device: g.Device, GPUs: len(g.GPUs), CPU: n.CPUMHz, MemoryMiB: n.MemoryMiB}
	if g.Topology != "" {
		m, err := topology.Parse(g.Topology)
		if err != nil || m.Size() != len(g.GPUs) {
			return "", fmt.Errorf("the topology of %s on node %s does not fit its %d GPUs", g.Device, n.Name, len(g.GPUs))
		}
		class.Topology = m
	}
	kinds := 0
	for i := range c.Classes {
		have := &c.Classes[i]
		if have.Device != class.Device {
			continue
		}
		if have.same(&class) {
			return have.Name, nil
		}
		kinds++
	}
	if class.Name = shortDevice(g.Device); kinds > 0 {
		class.Name += "#" + strconv.Itoa(kinds+1)
	}
	c.Classes = append(c.Classes, class)
	return class.Name, nil
}

// same reports whether nodes of both are equal but for their names.
func (c *Class) same(o *Class) bool {
	text := func(m *topology.Matrix) string {
		if m == nil {
			return ""
		}
		return m.Encode()
	}
	return c.Device == o.Device && c.GPUs == o.GPUs && c.CPU == o.CPU && c.MemoryMiB == o.MemoryMiB && text(c.Topology) == text(o.Topology)
}

// uniqueNames tells nodes of one name apart.
func (c *Cluster) uniqueNames() error {
	slices.SortFunc(c.Nodes, func(a, b Node) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Class, b.Class)) })
	for i := 1; i < len(c.Nodes); i++ {
		if c.Nodes[i].Name == c.Nodes[i-1].Name {
			return fmt.Errorf("two nodes are called %q", c.Nodes[i].Name)
		}
	}
	return nil
}

// shortDevice is a device's name without its vendor and type.
func shortDevice(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
