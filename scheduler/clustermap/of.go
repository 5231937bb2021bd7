package clustermap

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"strconv"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/sets"
)

// setFinder finds the sets with the best links: place.Placer.
type setFinder interface {
	Best(m *topology.Matrix, free uint64, k int) (set uint64, q sets.Quality, ok bool)
}

// Of is the map of a snapshot. The order of the snapshot's nodes does not matter.
func Of(s cluster.Snapshot, finder setFinder) Map {
	m := Map{Nodes: make([]Node, 0, len(s.Nodes)), Room: []Room{}, Warnings: s.Warnings}
	room := map[string]*Room{}
	for i := range s.Nodes {
		n := nodeOf(&s.Nodes[i], finder)
		m.Nodes = append(m.Nodes, n)
		for j := range n.Groups {
			addRoom(room, &n, &n.Groups[j])
		}
	}
	slices.SortFunc(m.Nodes, func(a, b Node) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	for _, device := range slices.Sorted(maps.Keys(room)) {
		m.Room = append(m.Room, *room[device])
	}
	return m
}

func nodeOf(n *cluster.Node, finder setFinder) Node {
	out := Node{ID: n.ID, Name: n.Name, Datacenter: n.Datacenter, Pool: cmp.Or(n.Pool, "default"), Class: n.Class, Ready: n.Ready,
		CPUMHz: n.CPU.Total, MemoryMiB: n.MemoryMiB.Total, Groups: make([]Group, 0, len(n.Groups))}
	for i := range n.Groups {
		g := groupOf(&n.Groups[i], finder)
		if last := len(out.Groups) - 1; last >= 0 && out.Groups[last].Device == g.Device && g.Topology == "" {
			out.Groups[last].add(g) // cluster.Divide made two of what Nomad has as one
		} else {
			out.Groups = append(out.Groups, g)
		}
	}
	return out
}

// add adds the devices of another group of the same name.
func (g *Group) add(more Group) {
	for _, d := range more.GPUs {
		d.Index = len(g.GPUs)
		g.GPUs = append(g.GPUs, d)
	}
	g.Free += more.Free
	g.parts = append(g.parts, more.parts...)
}

func groupOf(g *cluster.Group, finder setFinder) Group {
	out := Group{Device: g.Name(), GPUs: make([]GPU, 0, len(g.Devices))}
	if g.Part == cluster.Share {
		out.gpus = g.Room(g.All())
	}
	topo := g.Topology
	if topo != nil && topo.Size() != len(g.Devices) {
		topo = nil
	}
	var free uint64
	for i := range g.Devices {
		d := &g.Devices[i]
		gpu := GPU{Index: i, ID: d.ID, PCIBusID: d.PCIBusID, NUMANode: -1, State: stateOf(d),
			Alloc: d.Use.AllocID, Namespace: d.Use.Namespace, JobID: d.Use.JobID, Group: d.Use.Group}
		if topo != nil {
			gpu.NUMANode = topo.NUMA(i)
		}
		if gpu.State == Free {
			out.Free++
			if i < cluster.MaxDevices {
				free |= 1 << i
			}
		}
		if g.Part == cluster.Share && gpu.State == Free {
			out.parts = append(out.parts, g.GPUs[i])
		}
		out.GPUs = append(out.GPUs, gpu)
	}
	if topo != nil {
		out.Islands, out.Links, out.Sets, out.Topology = topo.Islands(), linksOf(topo), setsOf(topo, free, finder), topo.Encode()
		out.NICs = nicsOf(topo)
	}
	return out
}

func stateOf(d *cluster.Device) State {
	switch {
	case d.Use.Held() && d.Use.Stopping:
		return Freeing
	case d.Use.Held():
		return Held
	case !d.Healthy:
		return Unhealthy
	case d.Reserved:
		return Reserved
	}
	return Free
}

// setsOf are the best sets of the sizes that jobs have: powers of two.
func setsOf(m *topology.Matrix, free uint64, finder setFinder) []Set {
	var out []Set
	all := uint64(1)<<m.Size() - 1 // a shift by 64 gives 0, minus 1 is all of them
	for k := 2; k <= bits.OnesCount64(free); k *= 2 {
		set, q, ok := finder.Best(m, free, k)
		_, ideal, possible := finder.Best(m, all, k)
		if !ok || !possible {
			continue
		}
		best := Set{GPUs: k, Indexes: indexes(set), RingMBps: q.RingMBps, IdealMBps: ideal.RingMBps}
		if q.NICPath != topology.PathUnknown {
			best.NetworkMBps, best.NICPath = q.NetworkMBps, q.NICPath.String()
		}
		out = append(out, best)
	}
	return out
}

func indexes(set uint64) []int {
	out := make([]int, 0, bits.OnesCount64(set))
	for ; set != 0; set &= set - 1 {
		out = append(out, bits.TrailingZeros64(set))
	}
	return out
}

// linksOf names what connects each pair, X for a GPU and itself.
func linksOf(m *topology.Matrix) [][]string {
	rows := make([][]string, m.Size())
	for i := range rows {
		rows[i] = make([]string, m.Size())
		for j := range rows[i] {
			rows[i][j] = linkName(m, i, j)
		}
	}
	return rows
}

func nicsOf(m *topology.Matrix) []NIC {
	var out []NIC
	for nic := range m.NICs() {
		n := NIC{MBps: m.NICMBps(nic), Paths: make([]string, m.Size())}
		for i := range n.Paths {
			n.Paths[i] = m.NICPath(i, nic).String()
		}
		out = append(out, n)
	}
	return out
}

// linkName is what nvidia-smi topo -m calls the connection.
func linkName(m *topology.Matrix, i, j int) string {
	if i == j {
		return "X"
	}
	if n := m.Links(i, j); n > 0 {
		return "NV" + strconv.Itoa(n)
	}
	return m.Path(i, j).String()
}

// addRoom counts for how many allocations a group has room.
func addRoom(room map[string]*Room, n *Node, g *Group) {
	r := room[g.Device]
	if r == nil {
		r = &Room{Device: g.Device, Fits: []Fits{}}
		room[g.Device] = r
	}
	r.Total += len(g.GPUs)
	for k, at := 1, 0; k <= max(1, g.most()); k, at = 2*k, at+1 {
		if at == len(r.Fits) {
			r.Fits = append(r.Fits, Fits{GPUs: k})
		}
		if n.Ready {
			r.Fits[at].Allocations += g.fits(k)
		}
	}
	if n.Ready {
		r.Free += g.Free
	}
}

// most is how many devices one allocation can have at most: of shares one of each GPU.
func (g *Group) most() int {
	if g.gpus > 0 {
		return g.gpus
	}
	return len(g.GPUs)
}

// fits is for how many allocations of k devices there is room. Of shares each has k of as
// many GPUs: the most is the largest n for which the GPUs have n*k free shares, where none
// counts for more than n.
func (g *Group) fits(k int) int {
	if g.gpus == 0 {
		return g.Free / k
	}
	free := map[uint8]int{}
	for _, gpu := range g.parts {
		free[gpu]++
	}
	for n := g.Free / k; n > 0; n-- {
		count := 0
		for _, shares := range free {
			count += min(shares, n)
		}
		if count >= n*k {
			return n
		}
	}
	return 0
}
