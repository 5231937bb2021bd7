package place_test

import (
	"fmt"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
)

type pair [2]int

// box builds a matrix: the default path for all pairs, then the given links
// (by number of NVLinks) and paths.
func box(n, linkMBps, pcieMBps int, numa []int, far topology.Path, links map[int][]pair, paths map[topology.Path][]pair) *topology.Matrix {
	m := topology.New(n, linkMBps, pcieMBps)
	for i := range n {
		m.SetNUMA(i, numa[i])
		for j := i + 1; j < n; j++ {
			m.Set(i, j, 0, far)
		}
	}
	for path, pairs := range paths {
		for _, p := range pairs {
			m.Set(p[0], p[1], 0, path)
		}
	}
	for count, pairs := range links {
		for _, p := range pairs {
			m.Set(p[0], p[1], count, m.Path(p[0], p[1]))
		}
	}
	return m
}

func half(n int) []int {
	numa := make([]int, n)
	for i := n / 2; i < n; i++ {
		numa[i] = 1
	}
	return numa
}

func full(n, linkCount, linkMBps int) *topology.Matrix {
	m := box(n, linkMBps, 31500, half(n), topology.PathSystem, nil, nil)
	m.SetSwitched(true)
	for i := range n {
		for j := i + 1; j < n; j++ {
			m.Set(i, j, linkCount, topology.PathSystem)
		}
	}
	return m
}

// dgx1v is the cube mesh of eight V100.
func dgx1v() *topology.Matrix {
	return box(8, 25781, 15750, half(8), topology.PathSystem,
		map[int][]pair{
			2: {{0, 3}, {0, 4}, {1, 2}, {1, 5}, {2, 3}, {4, 7}, {5, 6}, {6, 7}},
			1: {{0, 1}, {0, 2}, {1, 3}, {2, 6}, {3, 7}, {4, 5}, {4, 6}, {5, 7}},
		},
		map[topology.Path][]pair{topology.PathSingle: {{0, 1}, {2, 3}, {4, 5}, {6, 7}}})
}

func dgxh100() *topology.Matrix { return full(8, 18, 26562) }

// rtx3090x4 has NVLink pairs that are not neighbours in PCI order.
func rtx3090x4() *topology.Matrix {
	return box(4, 14062, 31500, half(4), topology.PathNode, map[int][]pair{4: {{0, 2}, {1, 3}}},
		map[topology.Path][]pair{topology.PathHostBridge: {{0, 1}, {2, 3}}})
}

func rtx8000x4() *topology.Matrix {
	return box(4, 25781, 15750, half(4), topology.PathSystem, map[int][]pair{2: {{0, 3}, {1, 2}}},
		map[topology.Path][]pair{topology.PathNode: {{0, 1}, {2, 3}}})
}

func l40sx4() *topology.Matrix {
	return box(4, 0, 31500, half(4), topology.PathSystem, nil,
		map[topology.Path][]pair{topology.PathNode: {{0, 1}, {2, 3}}})
}

func pcieBox8() *topology.Matrix {
	return box(8, 0, 31500, half(8), topology.PathSystem, nil, map[topology.Path][]pair{
		topology.PathMultiple: {{0, 2}, {0, 3}, {1, 2}, {1, 3}, {4, 6}, {4, 7}, {5, 6}, {5, 7}},
		topology.PathSingle:   {{0, 1}, {2, 3}, {4, 5}, {6, 7}},
	})
}

func fixtures() map[string]*topology.Matrix {
	return map[string]*topology.Matrix{
		"dgx1v": dgx1v(), "dgxh100": dgxh100(), "rtx3090x4": rtx3090x4(),
		"rtx8000x4": rtx8000x4(), "l40sx4": l40sx4(), "pcie-box-8": pcieBox8(),
	}
}

const modelV100 = "Tesla V100-SXM2-16GB"

// node is a ready GPU node with a healthy, idle group of the given topology;
// busy lists the GPUs that another job holds.
func node(name, model string, m *topology.Matrix, busy ...int) cluster.Node {
	g := cluster.Group{Vendor: gpu.Vendor, Type: gpu.TypeGPU, Model: model, Topology: m, TopologyText: m.Encode(),
		Attributes: map[string]cluster.Value{gpu.AttrMemory: cluster.NumberValue(16160, "MiB")}}
	for i := range m.Size() {
		g.Devices = append(g.Devices, cluster.Device{
			ID: fmt.Sprintf("GPU-%s-%d", name, i), PCIBusID: fmt.Sprintf("0000:%02x:00.0", i+1), Healthy: true})
	}
	for _, i := range busy {
		g.Devices[i].Use = cluster.Use{AllocID: "other", Namespace: "default", JobID: "other", Group: "g"}
	}
	return cluster.Node{ID: "id-" + name, Name: name, Datacenter: "dc1", Pool: "default", Ready: true,
		Drivers: []string{"docker", "exec"}, CPU: cluster.Capacity{Total: 64000, Free: 64000},
		MemoryMiB: cluster.Capacity{Total: 512000, Free: 512000}, Groups: []cluster.Group{g}}
}

// jobOf asks for one group with one task for each count.
func jobOf(counts ...int) cluster.Ask {
	g := cluster.GroupAsk{Name: "train", Count: 1, Drivers: []string{"exec"}, CPU: 500, MemoryMiB: 256}
	for i, count := range counts {
		g.Devices = append(g.Devices, cluster.DeviceAsk{Task: fmt.Sprintf("task%d", i), Name: "nvidia/gpu", Count: count})
	}
	return cluster.Ask{Namespace: "default", JobID: "job", Type: "batch", Datacenters: []string{"*"}, Groups: []cluster.GroupAsk{g}}
}
