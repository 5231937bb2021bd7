package index

import "fmt"

// Kind is what happened in the cluster.
type Kind uint8

// The kinds of Event.
const (
	NodeAdded   Kind = iota // Node is new, or replaces the one with its id
	NodeRemoved             // the node with Node.ID is gone
	Taken                   // Node.Free, CPU and MemoryMiB of it are free no more
	Freed                   // Node.Free, CPU and MemoryMiB of it are free again
)

// Event is one change that others made: a node that came or went, or an
// allocation that began or ended.
type Event struct {
	Kind Kind
	// Node is the whole node when it is added; of the other kinds the id, and
	// what changed.
	Node Node
}

// Apply makes the index know of an event. One that cannot be true (GPUs taken
// twice, a node that is not there) is an error and changes nothing.
func (x *Index) Apply(e Event) error {
	switch e.Kind {
	case NodeAdded:
		return x.replace(e.Node)
	case NodeRemoved:
		return x.Remove(e.Node.ID)
	case Taken:
		return x.taken(&e.Node)
	case Freed:
		return x.freed(&e.Node)
	}
	return fmt.Errorf("event of kind %d %w", e.Kind, ErrInvalid)
}

func (x *Index) replace(n Node) error {
	before, ok := x.Node(n.ID)
	if !ok {
		return x.Add(n)
	}
	if err := x.Remove(n.ID); err != nil {
		return err
	}
	err := x.Add(n)
	if err != nil {
		// It was there, so there is a place for it.
		_ = x.Add(before)
	}
	return err
}

func (x *Index) taken(of *Node) error {
	at, n, err := x.changed(of)
	if err != nil {
		return err
	}
	set := uint16(of.Free)
	if set&^n.free != 0 {
		return fmt.Errorf("GPUs %b of node %q: %w", set&^n.free, of.ID, ErrTaken)
	}
	if n.cpu < of.CPU || n.memoryMiB < of.MemoryMiB {
		return fmt.Errorf("CPU or memory of node %q: %w", of.ID, ErrTaken)
	}
	x.change(at, n.free&^set, -of.CPU, -of.MemoryMiB)
	return nil
}

func (x *Index) freed(of *Node) error {
	at, n, err := x.changed(of)
	if err != nil {
		return err
	}
	set := uint16(of.Free)
	if set&n.free != 0 {
		return fmt.Errorf("GPUs %b of node %q: %w", set&n.free, of.ID, ErrFree)
	}
	x.change(at, n.free|set, of.CPU, of.MemoryMiB)
	return nil
}

// changed finds the node of an event and checks that the change is a possible one.
func (x *Index) changed(of *Node) (int32, *node, error) {
	at, ok := x.find(of.ID)
	if !ok {
		return 0, nil, fmt.Errorf("node %q: %w", of.ID, ErrUnknownNode)
	}
	n := &x.nodes[at]
	if of.Free > uint64(n.class.all) || of.CPU < 0 || of.MemoryMiB < 0 {
		return 0, nil, fmt.Errorf("change of node %q %w", of.ID, ErrInvalid)
	}
	return at, n, nil
}
