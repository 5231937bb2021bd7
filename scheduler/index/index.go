package index

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/nomad-governor/governor/scheduler/sets"
)

// What an Index cannot do, to be told apart with errors.Is.
var (
	ErrUnknownClass = errors.New("no such class")
	ErrUnknownNode  = errors.New("no such node")
	ErrDuplicate    = errors.New("is there already")
	ErrInvalid      = errors.New("is not valid")
	ErrTaken        = errors.New("not free")
	ErrFree         = errors.New("not taken")
)

// Class is what a set of nodes has in common: its topology, and whatever else
// the caller tells them apart by (node pool, datacenter, Nomad's computed class).
type Class struct {
	// ID is the class's name; of classes that are equally good the first wins.
	ID string
	// Joint is the tables of the topology. All classes of an index must have the
	// same weights; classes of one topology may share one Joint.
	Joint *sets.Joint
	// CPU in MHz and memory in MiB of a usual node. They divide nodes into
	// levels and do not limit them.
	CPU       int
	MemoryMiB int
}

// Node is one machine of a class.
type Node struct {
	ID    string
	Class string
	// Rack is where it stands, for gangs; empty when not known.
	Rack string
	// Free is a mask of the GPUs that are healthy and not held.
	Free uint64
	// CPU in MHz and memory in MiB that are free.
	CPU       int
	MemoryMiB int
}

// Index is the nodes of a cluster by class, free GPUs, CPU and memory. It is not
// safe for concurrent use.
type Index struct {
	classes []*class // by ID
	byClass map[string]*class
	ranks   map[*sets.Joint]*ranking
	nodes   []node
	ids     ids
	unused  []int32 // places in nodes of machines that are gone

	names    []string // of nodes, "" where there is none
	inBucket items    // nodes, in the bucket of their class
	inRack   items    // nodes all of whose GPUs are free, in their rack
}

// node is a Node as the index keeps it.
type node struct {
	key       uint64
	class     *class
	rack      int32
	cpu       int
	memoryMiB int
	free      uint16
	level     uint8
}

// class is a Class with its nodes.
type class struct {
	Class
	all   uint16 // the mask of all GPUs
	ranks *ranking
	// byMask has the nodes with a set of free GPUs, by level; nil where there never
	// was one. present has the levels at which there are some now.
	byMask  []*buckets
	present []uint64
	// some[k] has the ranks of the sets of free GPUs that some node has.
	some []bitmap

	racks   racks
	atLevel [levels * levels]int32
}

// New returns an index without classes.
func New() *Index { return newIndex(0) }

// newIndex has room for some nodes.
func newIndex(nodes int) *Index {
	x := &Index{byClass: map[string]*class{}, ranks: map[*sets.Joint]*ranking{}, ids: newIDs(nodes)}
	x.nodes, x.names = make([]node, 0, nodes), make([]string, 0, nodes)
	x.inBucket = items{names: &x.names, at: make([]int32, 0, nodes)}
	x.inRack = items{names: &x.names, at: make([]int32, 0, nodes)}
	return x
}

// Build returns an index of a whole cluster. It is what adding one node after the
// other makes, in a fraction of the time.
func Build(classes []Class, nodes []Node) (*Index, error) {
	x := newIndex(len(nodes))
	for _, c := range classes {
		if err := x.AddClass(c); err != nil {
			return nil, err
		}
	}
	for i := range nodes {
		at, err := x.admit(&nodes[i])
		if err != nil {
			return nil, err
		}
		if !x.remember(at) {
			return nil, fmt.Errorf("node %q %w", nodes[i].ID, ErrDuplicate)
		}
		n := &x.nodes[at]
		n.level = n.class.levelOf(n.cpu, n.memoryMiB)
		if n.free == 0 {
			continue
		}
		n.class.bucketsOf(n.free)[n.level].nodes.add(&x.inBucket, entry{n.key, at})
		n.class.present[n.free] |= 1 << n.level
		if n.free == n.class.all {
			n.class.atLevel[n.level]++
			n.class.racks.add(&x.inRack, at, n)
		}
	}
	for _, c := range x.classes {
		for free, present := range c.present {
			if present != 0 {
				c.appear(uint16(free))
			}
			for ; present != 0; present &= present - 1 {
				c.byMask[free][bits.TrailingZeros64(present)].nodes.settle(&x.inBucket)
			}
		}
		c.racks.settle(&x.inRack)
	}
	return x, nil
}

// AddClass makes a class known; it must be there before its nodes.
func (x *Index) AddClass(c Class) error {
	switch {
	case c.Joint == nil || c.Joint.GPUs() == 0 || c.CPU < 0 || c.MemoryMiB < 0:
		return fmt.Errorf("class %q %w", c.ID, ErrInvalid)
	case x.byClass[c.ID] != nil:
		return fmt.Errorf("class %q %w", c.ID, ErrDuplicate)
	case len(x.classes) > 0 && x.classes[0].Joint.Weights() != c.Joint.Weights():
		return fmt.Errorf("class %q has other weights than the rest and %w", c.ID, ErrInvalid)
	}
	ranks := x.ranks[c.Joint]
	if ranks == nil {
		ranks = newRanking(c.Joint)
		x.ranks[c.Joint] = ranks
	}
	gpus := c.Joint.GPUs()
	added := &class{Class: c, all: uint16(1<<gpus - 1), ranks: ranks, byMask: make([]*buckets, 1<<gpus), present: make([]uint64, 1<<gpus), some: make([]bitmap, gpus+1)}
	for k := 1; k <= gpus; k++ {
		added.some[k] = newBitmap(1 << gpus)
	}
	added.racks.byName = map[string]int32{}
	added.racks.all.names = &added.racks.names
	x.byClass[c.ID] = added
	at, _ := slices.BinarySearchFunc(x.classes, c.ID, func(c *class, id string) int { return cmp.Compare(c.ID, id) })
	x.classes = slices.Insert(x.classes, at, added)
	return nil
}

// Add puts a node into the index.
func (x *Index) Add(n Node) error {
	if _, ok := x.find(n.ID); ok {
		return fmt.Errorf("node %q %w", n.ID, ErrDuplicate)
	}
	at, err := x.admit(&n)
	if err != nil {
		return err
	}
	x.remember(at)
	x.insert(at)
	return nil
}

// admit gives a node that is new a place, and files it nowhere yet.
func (x *Index) admit(n *Node) (int32, error) {
	c := x.byClass[n.Class]
	if c == nil {
		return 0, fmt.Errorf("node %q of class %q: %w", n.ID, n.Class, ErrUnknownClass)
	}
	if n.ID == "" || n.Free > uint64(c.all) || n.CPU < 0 || n.MemoryMiB < 0 {
		return 0, fmt.Errorf("node %q %w", n.ID, ErrInvalid)
	}
	at := x.unusedPlace(n.ID)
	x.nodes[at] = node{key: keyOf(n.ID), class: c, rack: c.racks.named(n.Rack), cpu: n.CPU, memoryMiB: n.MemoryMiB, free: uint16(n.Free)}
	return at, nil
}

// unusedPlace is where a new node goes.
func (x *Index) unusedPlace(id string) int32 {
	if end := len(x.unused) - 1; end >= 0 {
		at := x.unused[end]
		x.unused = x.unused[:end]
		x.names[at] = id
		return at
	}
	x.nodes = append(x.nodes, node{})
	x.names = append(x.names, id)
	x.inBucket.at, x.inRack.at = append(x.inBucket.at, 0), append(x.inRack.at, 0)
	return int32(len(x.nodes) - 1)
}

// Remove takes a node out; what was offered of it is gone with it.
func (x *Index) Remove(id string) error {
	at, ok := x.find(id)
	if !ok {
		return fmt.Errorf("node %q: %w", id, ErrUnknownNode)
	}
	x.extract(at)
	x.forget(at)
	x.nodes[at] = node{}
	x.names[at] = ""
	x.unused = append(x.unused, at)
	return nil
}

// Len is the number of nodes.
func (x *Index) Len() int { return x.ids.count }

// Node tells what the index knows of a node.
func (x *Index) Node(id string) (Node, bool) {
	at, ok := x.find(id)
	if !ok {
		return Node{}, false
	}
	n := &x.nodes[at]
	return Node{ID: id, Class: n.class.ID, Rack: n.class.racks.names[n.rack], Free: uint64(n.free), CPU: n.cpu, MemoryMiB: n.memoryMiB}, true
}

// insert files a node under what it has free.
func (x *Index) insert(at int32) {
	n := &x.nodes[at]
	x.file(at, n)
	if n.free == n.class.all {
		n.class.atLevel[n.level]++
		n.class.racks.push(&x.inRack, at, n)
	}
}

// file puts a node into its bucket. One without free GPUs serves nobody, so that it has
// none.
func (x *Index) file(at int32, n *node) {
	c := n.class
	n.level = c.levelOf(n.cpu, n.memoryMiB)
	if n.free == 0 {
		return
	}
	if c.present[n.free] == 0 {
		c.appear(n.free)
	}
	c.present[n.free] |= 1 << n.level
	c.bucketsOf(n.free)[n.level].push(&x.inBucket, at, n)
}

// bucketsOf are those of a set of free GPUs, new ones where there are none.
func (c *class) bucketsOf(free uint16) *buckets {
	b := c.byMask[free]
	if b == nil {
		b = &buckets{}
		c.byMask[free] = b
	}
	return b
}

// extract is the inverse of insert.
func (x *Index) extract(at int32) {
	n := &x.nodes[at]
	x.unfile(at, n)
	if n.free == n.class.all {
		n.class.atLevel[n.level]--
		n.class.racks.remove(&x.inRack, at, n)
	}
}

// unfile is the inverse of file.
func (x *Index) unfile(at int32, n *node) {
	if n.free == 0 {
		return
	}
	c := n.class
	b := &c.byMask[n.free][n.level]
	b.nodes.remove(&x.inBucket, at)
	if len(b.nodes) == 0 {
		c.present[n.free] &^= 1 << n.level
		if c.present[n.free] == 0 {
			c.vanish(n.free)
		}
	}
}

// appear and vanish keep track of the sets of free GPUs that some node has.
func (c *class) appear(free uint16) {
	for k := 1; k <= bits.OnesCount16(free); k++ {
		c.some[k].add(int(c.ranks.of[k][free]))
	}
}

func (c *class) vanish(free uint16) {
	for k := 1; k <= bits.OnesCount16(free); k++ {
		c.some[k].remove(int(c.ranks.of[k][free]))
	}
}

// keyOf spreads node ids over the numbers (FNV-1a and a finalizer). Ties end by
// it and not by the id, which would need a comparison of texts at every step.
func keyOf(id string) uint64 {
	hash := uint64(0xcbf29ce484222325)
	for i := range len(id) {
		hash = (hash ^ uint64(id[i])) * 0x100000001b3
	}
	hash = (hash ^ hash>>33) * 0xff51afd7ed558ccd
	return hash ^ hash>>33
}
