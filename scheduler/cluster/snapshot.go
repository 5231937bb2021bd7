package cluster

import (
	"strings"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// MaxDevices is how many devices one group has: sets are 64-bit masks. What Nomad has
// more of under one name (many shares, many small MIG instances) are several groups here,
// see Divide.
const MaxDevices = 64

// Snapshot is the state of all nodes that have devices. It is read-only once
// built.
type Snapshot struct {
	// Nodes sorted by ID.
	Nodes []Node
	// Warnings tell what could not be read, sorted; placement goes on without it. Incomplete
	// says that some of it may be there the next time, although nothing changes.
	Warnings   []string
	Incomplete bool
}

// Node is one Nomad client with devices.
type Node struct {
	ID         string
	Name       string
	Datacenter string
	Pool       string
	Class      string
	// Ready says that Nomad may place new work here: status ready, eligible and
	// not draining.
	Ready bool
	// Attributes and Meta of the node; nil when they were not read. Constraints
	// on unknown attributes are taken to hold, and Nomad decides.
	Attributes map[string]string
	Meta       map[string]string
	// Volumes are the names of the node's host volumes, sorted; nil when they were not
	// read.
	Volumes []string
	// Block and Rack are where the node is in the network, the wider first, and
	// Clique the NVLink domain of several nodes that its GPUs belong to; "" where that
	// is not known.
	Block, Rack, Clique string
	// Drivers that are detected and healthy, sorted; nil when not known.
	Drivers []string
	// CPU in MHz and memory in MiB.
	CPU       Capacity
	MemoryMiB Capacity
	// Groups sorted by vendor, type and model.
	Groups []Group
}

// Capacity is an amount of one resource of a node.
type Capacity struct {
	Total int
	// Free is Total without what Nomad reserves and what allocations hold.
	Free int
}

// Group is Nomad's device group: all instances of one model on one node.
type Group struct {
	Vendor string
	Type   string
	Model  string
	// Attributes of the group, without the topology.
	Attributes map[string]Value
	// Topology is the link matrix, or nil when the node does not publish a usable
	// one. Its indexes are those of Devices.
	Topology *topology.Matrix
	// TopologyText is the encoded matrix: equal texts are equal topologies.
	TopologyText string
	// Devices in ascending order of their PCI bus ids.
	Devices []Device
	// Part is what they are of a GPU, and GPUs, where that is not all of it, the number of
	// each device's GPU on the node. See Divide.
	Part Part
	GPUs []uint8
}

// Name is the full device name, "nvidia/gpu/Tesla V100-SXM2-16GB".
func (g *Group) Name() string { return gpu.DeviceName(g.Vendor, g.Type, g.Model) }

// Clique names the NVLink domain of several nodes that the GPUs of the group belong to,
// by the attributes that the device plugin publishes; known is false when there is none.
func (g *Group) Clique() (name string, known bool) {
	cluster, has := g.Attributes[gpu.AttrFabricCluster]
	clique, hasClique := g.Attributes[gpu.AttrFabricClique]
	if !has || !hasClique {
		return "", false
	}
	return cluster.String() + "/" + clique.String(), true
}

// IDs of all devices of the group in order, joined by commas: what Nomad
// resolves ${device.ids} to.
func (g *Group) joinedIDs() string {
	ids := make([]string, len(g.Devices))
	for i, d := range g.Devices {
		ids[i] = d.ID
	}
	return strings.Join(ids, ",")
}

// Device is one instance: a GPU or a MIG slice.
type Device struct {
	ID       string
	PCIBusID string
	Healthy  bool
	// Use says who holds it; the zero value means nobody.
	Use Use
	// Reserved says that it was promised to a job that has no allocation yet.
	Reserved bool
}

// Use is the allocation that holds a device.
type Use struct {
	AllocID   string
	Namespace string
	JobID     string
	Group     string
	// Stopping says that the allocation is to stop but the client has not yet
	// reported that it did: Nomad counts the device as taken until then.
	Stopping bool
	// CPU in MHz and MemoryMiB are what the whole allocation takes from its node; 0 for
	// one that stops, whose share Nomad gives to others already.
	CPU, MemoryMiB int
}

// Held reports whether somebody holds the device.
func (u Use) Held() bool { return u.AllocID != "" }

// Same reports whether both are one picture of the cluster: the same nodes in memory,
// which nobody changes. Two that are equal need not be the same.
func (s *Snapshot) Same(o *Snapshot) bool {
	return len(s.Nodes) > 0 && len(s.Nodes) == len(o.Nodes) && &s.Nodes[0] == &o.Nodes[0]
}

// Holds reports whether an allocation of the job holds a device that it is not
// about to give back.
func (s *Snapshot) Holds(namespace, jobID string) bool {
	for i := range s.Nodes {
		for _, group := range s.Nodes[i].Groups {
			for _, d := range group.Devices {
				if d.Use.Held() && !d.Use.Stopping && d.Use.Namespace == namespace && d.Use.JobID == jobID {
					return true
				}
			}
		}
	}
	return false
}

// InDatacenter reports whether one of the job's datacenter patterns matches the
// node's. As in Nomad, "*" stands for any text, also in the middle of a name,
// and a job without datacenters runs everywhere.
func (n *Node) InDatacenter(patterns []string) bool {
	if len(patterns) == 0 {
		return true
	}
	for _, p := range patterns {
		if globMatch(p, n.Datacenter) {
			return true
		}
	}
	return false
}

// InPool reports whether the node is in the pool; "all" is Nomad's name for
// every pool and an empty pool is "default".
func (n *Node) InPool(pool string) bool {
	const poolAll, poolDefault = "all", "default"
	if pool == "" {
		pool = poolDefault
	}
	have := n.Pool
	if have == "" {
		have = poolDefault
	}
	return pool == poolAll || pool == have
}

// globMatch matches "*" as any text, everything else literally.
func globMatch(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return strings.HasSuffix(text, last)
}
