package clustermap

// Map is the cluster as it is shown. Its JSON is stable.
type Map struct {
	// Nodes by name, then id.
	Nodes []Node `json:"nodes"`
	// Room by device name.
	Room []Room `json:"room"`
	// Warnings tell what could not be read.
	Warnings []string `json:"warnings,omitempty"`
}

// Hide takes the names of jobs and allocations of some namespaces out of the map; as stands
// for each of the jobs.
func (m *Map) Hide(namespace func(string) bool, as string) {
	for i := range m.Nodes {
		for j := range m.Nodes[i].Groups {
			gpus := m.Nodes[i].Groups[j].GPUs
			for k := range gpus {
				if g := &gpus[k]; g.Namespace != "" && namespace(g.Namespace) {
					g.Namespace, g.JobID, g.Group, g.Alloc = "", as, "", ""
				}
			}
		}
	}
}

// Node is one client with GPUs.
type Node struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Datacenter string `json:"datacenter"`
	Pool       string `json:"node_pool"`
	Class      string `json:"node_class,omitempty"`
	// Ready says that Nomad may place new work here.
	Ready bool `json:"ready"`
	// CPUMHz and MemoryMiB are all that jobs may have of it; 0 where not known.
	CPUMHz    int     `json:"cpu_mhz,omitempty"`
	MemoryMiB int     `json:"memory_mib,omitempty"`
	Groups    []Group `json:"groups"`
}

// Group is all instances of one device name on a node.
type Group struct {
	Device string `json:"device"`
	GPUs   []GPU  `json:"gpus"`
	// Free counts those that new work could get now.
	Free int `json:"free"`
	// Islands are the sets of GPUs that NVLink connects, by index; nil where the node
	// publishes no topology.
	Islands [][]int `json:"islands,omitempty"`
	// Links is what connects each pair as nvidia-smi topo -m names it (NV18, PIX, SYS);
	// nil where the node publishes no topology.
	Links [][]string `json:"links,omitempty"`
	// NICs are those of the node that carry RDMA; nil where it publishes none.
	NICs []NIC `json:"nics,omitempty"`
	// Topology is the matrix behind them as the node publishes it (internal/gpu/topology);
	// "" where it publishes none.
	Topology string `json:"topology,omitempty"`
	// Sets are the best sets of 2, 4, 8, ... GPUs that are free now.
	Sets []Set `json:"sets,omitempty"`

	// Of shares: how many GPUs they are of, and the number of each free one's GPU.
	gpus  int
	parts []uint8
}

// GPU is one device.
type GPU struct {
	Index    int    `json:"index"`
	ID       string `json:"id"`
	PCIBusID string `json:"pci_bus_id,omitempty"`
	// NUMANode is that of the host; -1 where it is not known.
	NUMANode int    `json:"numa_node"`
	State    State  `json:"state"`
	Alloc    string `json:"alloc_id,omitempty"`
	// Namespace, JobID and Group of the allocation that holds it.
	Namespace string `json:"namespace,omitempty"`
	JobID     string `json:"job_id,omitempty"`
	Group     string `json:"group,omitempty"`
}

// State is what a GPU is doing.
type State string

// The states of a GPU.
const (
	// Free: new work could get it now.
	Free State = "free"
	// Held: an allocation has it.
	Held State = "held"
	// Freeing: its allocation is told to stop, and the client has not said that it did.
	Freeing State = "freeing"
	// Reserved: promised to a job seconds ago whose allocation is not there yet.
	Reserved State = "reserved"
	// Unhealthy: Nomad gives it to nobody.
	Unhealthy State = "unhealthy"
)

// Set is the best set of some size.
type Set struct {
	GPUs int `json:"gpus"`
	// Indexes of the GPUs.
	Indexes []int `json:"indexes"`
	// RingMBps is the bottleneck of the best ring through the set, in effective MB/s per
	// direction, and IdealMBps that of the best set of an idle node.
	RingMBps  int `json:"ring_mbps"`
	IdealMBps int `json:"ideal_mbps"`
	// NetworkMBps is what each GPU of the set has to other hosts when all of them send, in
	// MB/s per direction, and NICPath how the farthest reaches its NICs; left out
	// without NICs.
	NetworkMBps int    `json:"network_mbps,omitempty"`
	NICPath     string `json:"nic_path,omitempty"`
}

// NIC is a network card. Its number is its place in the list.
type NIC struct {
	// MBps is what it carries in one direction; 0 where that is not known.
	MBps int `json:"mbps"`
	// Paths is how each GPU reaches it as nvidia-smi topo -m names it (PIX, NODE, SYS).
	Paths []string `json:"paths"`
}

// Room is for how many allocations of so many GPUs on one node there is room now, on
// nodes that are ready.
type Room struct {
	Device string `json:"device"`
	// Total and Free are GPUs, on all nodes and on those that are ready.
	Total int    `json:"total"`
	Free  int    `json:"free"`
	Fits  []Fits `json:"fits"`
}

// Fits is how many allocations of one size.
type Fits struct {
	GPUs        int `json:"gpus"`
	Allocations int `json:"allocations"`
}
