package nomadstate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
)

// nodeUses is what the live allocations of one node hold.
type nodeUses struct {
	cpu, memoryMiB int
	// devices by full device name and id.
	devices map[string]map[string]cluster.Use
}

// indexUses adds up what live allocations hold, by node. CPU and memory count
// for those that are meant to run, as in Nomad; they are the sum over all
// tasks, an upper bound where tasks run one after the other.
func indexUses(allocs []*api.AllocationListStub) map[string]*nodeUses {
	uses := map[string]*nodeUses{}
	for _, a := range allocs {
		if a.AllocatedResources == nil {
			continue
		}
		u := uses[a.NodeID]
		if u == nil {
			u = &nodeUses{devices: map[string]map[string]cluster.Use{}}
			uses[a.NodeID] = u
		}
		stopping := a.DesiredStatus != api.AllocDesiredStatusRun
		holder := cluster.Use{AllocID: a.ID, Namespace: a.Namespace, JobID: a.JobID, Group: a.TaskGroup, Stopping: stopping}
		for _, res := range a.AllocatedResources.Tasks {
			if res != nil && !stopping {
				holder.CPU += int(res.Cpu.CpuShares)
				holder.MemoryMiB += int(res.Memory.MemoryMB)
			}
		}
		u.cpu, u.memoryMiB = u.cpu+holder.CPU, u.memoryMiB+holder.MemoryMiB
		for _, res := range a.AllocatedResources.Tasks {
			u.add(res, holder)
		}
	}
	return uses
}

func (u *nodeUses) add(res *api.AllocatedTaskResources, holder cluster.Use) {
	if res == nil {
		return
	}
	for _, d := range gpusOf(res) {
		name := gpu.DeviceName(d.Vendor, d.Type, d.Name)
		if u.devices[name] == nil {
			u.devices[name] = map[string]cluster.Use{}
		}
		for _, id := range d.DeviceIDs {
			// A device has two holders while one that stops gives it to its successor, which
			// waits for it. Else there should not be two; the lower id wins, so that the
			// answer does not depend on the order.
			other, taken := u.devices[name][id]
			if !taken || other.Stopping && !holder.Stopping || other.Stopping == holder.Stopping && holder.AllocID < other.AllocID {
				u.devices[name][id] = holder
			}
		}
	}
}

// node converts one node; the notes are warnings.
func (r *Reader) node(stub *api.NodeListStub, details nodeDetails, uses *nodeUses) (cluster.Node, []string) {
	if uses == nil {
		uses = &nodeUses{}
	}
	n := cluster.Node{
		ID: stub.ID, Name: stub.Name, Datacenter: stub.Datacenter, Pool: stub.NodePool, Class: stub.NodeClass,
		Ready: stub.Status == api.NodeStatusReady && !stub.Drain &&
			stub.SchedulingEligibility == api.NodeSchedulingEligible,
		Attributes: details.attributes, Meta: details.meta, Volumes: details.volumes, Drivers: drivers(stub.Drivers),
	}
	n.CPU.Total = int(stub.NodeResources.Cpu.CpuShares)
	n.MemoryMiB.Total = int(stub.NodeResources.Memory.MemoryMB)
	n.CPU.Free, n.MemoryMiB.Free = n.CPU.Total-uses.cpu, n.MemoryMiB.Total-uses.memoryMiB
	if reserved := stub.ReservedResources; reserved != nil {
		n.CPU.Free -= int(reserved.Cpu.CpuShares)
		n.MemoryMiB.Free -= int(reserved.Memory.MemoryMB)
	}
	var notes []string
	for _, res := range stub.NodeResources.Devices {
		if res == nil || !gpu.IsType(res.Type) {
			continue
		}
		group, note := r.group(res, uses)
		if note != "" {
			notes = append(notes, fmt.Sprintf("node %s: %s: %s", stub.Name, group.Name(), note))
		}
		n.Groups = append(n.Groups, group)
	}
	slices.SortFunc(n.Groups, func(a, b cluster.Group) int { return strings.Compare(a.Name(), b.Name()) })
	n.Groups = cluster.Divide(n.Groups)
	n.Rack, n.Block, n.Clique = n.Text(r.fabric.Rack), n.Text(r.fabric.Block), clique(n.Groups)
	return n, notes
}

// clique names the NVLink domain of several nodes that all GPUs of a node belong to; ""
// when there is none.
func clique(groups []cluster.Group) string {
	name := ""
	for i := range groups {
		of, known := groups[i].Clique()
		if !known || i > 0 && of != name {
			return ""
		}
		name = of
	}
	return name
}

func drivers(infos map[string]*api.DriverInfo) []string {
	if infos == nil {
		return nil
	}
	names := []string{}
	for name, info := range infos {
		if info != nil && info.Detected && info.Healthy {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (r *Reader) group(res *api.NodeDeviceResource, uses *nodeUses) (cluster.Group, string) {
	g := cluster.Group{Vendor: res.Vendor, Type: res.Type, Model: res.Name, Attributes: map[string]cluster.Value{}}
	var text string
	for name, attribute := range res.Attributes {
		if attribute == nil {
			continue
		}
		if name == gpu.AttrTopology {
			text = attribute.String()
			continue
		}
		g.Attributes[name] = value(attribute)
	}
	for _, instance := range res.Instances {
		if instance == nil {
			continue
		}
		d := cluster.Device{ID: instance.ID, Healthy: instance.Healthy, Use: uses.devices[g.Name()][instance.ID]}
		if instance.Locality != nil {
			d.PCIBusID = sysfsBusID(instance.Locality.PciBusID)
		}
		g.Devices = append(g.Devices, d)
	}
	slices.SortFunc(g.Devices, func(a, b cluster.Device) int {
		return cmp.Or(strings.Compare(a.PCIBusID, b.PCIBusID), strings.Compare(a.ID, b.ID))
	})
	matrix, note := r.matrix(&g, text)
	if matrix != nil {
		g.Topology, g.TopologyText = matrix, text
	}
	return g, note
}

func value(a *api.Attribute) cluster.Value {
	switch {
	case a.IntVal != nil:
		return cluster.NumberValue(float64(*a.IntVal), a.Unit)
	case a.FloatVal != nil:
		return cluster.NumberValue(*a.FloatVal, a.Unit)
	case a.BoolVal != nil:
		return cluster.BoolValue(*a.BoolVal)
	case a.StringVal != nil:
		return cluster.TextValue(*a.StringVal)
	}
	return cluster.TextValue("")
}

// matrix parses the topology and checks that its indexes can be told from the
// PCI bus ids. Without a usable one the note says what that means.
func (r *Reader) matrix(g *cluster.Group, text string) (*topology.Matrix, string) {
	const consequence = "; GPUs are chosen in PCI order"
	if text == "" {
		if g.Type != gpu.TypeGPU {
			return nil, "" // parts of GPUs have no links
		}
		return nil, "publishes no " + gpu.AttrTopology + consequence
	}
	m, err := r.parse(text)
	if err != nil {
		return nil, err.Error() + consequence
	}
	if m.Size() != len(g.Devices) {
		return nil, fmt.Sprintf("the topology is of %d GPUs, the group has %d%s", m.Size(), len(g.Devices), consequence)
	}
	for i, d := range g.Devices {
		if d.PCIBusID == "" || i > 0 && d.PCIBusID == g.Devices[i-1].PCIBusID {
			return nil, fmt.Sprintf("device %s has no PCI bus id of its own%s", d.ID, consequence)
		}
	}
	return m, ""
}

// matricesMax bounds the memory for parsed topologies.
const matricesMax = 256

func (r *Reader) parse(text string) (*topology.Matrix, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.matrices[text]; m != nil {
		return m, nil
	}
	m, err := topology.Parse(text)
	if err != nil {
		return nil, err
	}
	if len(r.matrices) >= matricesMax {
		clear(r.matrices)
	}
	r.matrices[text] = m
	return m, nil
}

// sysfsBusID writes a PCI bus id as sysfs does, "0000:3b:00.0": NVML pads the
// domain to eight digits, and some plugins leave C's NUL bytes at the end.
func sysfsBusID(id string) string {
	id = strings.ToLower(strings.TrimRight(id, "\x00"))
	domain, rest, ok := strings.Cut(id, ":")
	if !ok || strings.Count(rest, ":") != 1 {
		return id
	}
	domain = strings.TrimLeft(domain, "0")
	if len(domain) < 4 {
		domain = strings.Repeat("0", 4-len(domain)) + domain
	}
	return domain + ":" + rest
}
