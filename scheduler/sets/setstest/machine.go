package setstest

import "github.com/nomad-governor/governor/internal/gpu/topology"

// DGX1V is the cube mesh of eight V100.
func DGX1V() *topology.Matrix {
	m := empty(8, 25781, 15750)
	for _, p := range [][2]int{{0, 1}, {2, 3}, {4, 5}, {6, 7}} {
		m.Set(p[0], p[1], 0, topology.PathSingle)
	}
	link(m, 2, [][2]int{{0, 3}, {0, 4}, {1, 2}, {1, 5}, {2, 3}, {4, 7}, {5, 6}, {6, 7}})
	link(m, 1, [][2]int{{0, 1}, {0, 2}, {1, 3}, {2, 6}, {3, 7}, {4, 5}, {4, 6}, {5, 7}})
	return m
}

// NVLinkPairs is eight GPUs, bridged two by two: {0,1}, {2,3}, {4,5} and {6,7}.
func NVLinkPairs() *topology.Matrix {
	m := empty(8, 25781, 31500)
	link(m, 4, [][2]int{{0, 1}, {2, 3}, {4, 5}, {6, 7}})
	return m
}

// Switched is a machine whose GPUs all reach each other through NVSwitch.
func Switched(gpus, links, linkMBps int) *topology.Matrix {
	m := empty(gpus, linkMBps, 31500)
	m.SetSwitched(true)
	for i := range gpus {
		for j := range i {
			m.Set(i, j, links, m.Path(i, j))
		}
	}
	return m
}

// PCIe16 is sixteen GPUs without NVLink, four behind each PCIe switch.
func PCIe16() *topology.Matrix {
	m := empty(16, 0, 31500)
	for i := range 16 {
		for j := range i {
			if i/4 == j/4 {
				m.Set(i, j, 0, topology.PathSingle)
			}
		}
	}
	return m
}

// empty has two NUMA nodes and no NVLinks.
func empty(gpus, linkMBps, pcieMBps int) *topology.Matrix {
	m := topology.New(gpus, linkMBps, pcieMBps)
	for i := range gpus {
		m.SetNUMA(i, i*2/gpus)
		for j := range i {
			path := topology.PathSystem
			if i*2/gpus == j*2/gpus {
				path = topology.PathNode
			}
			m.Set(i, j, 0, path)
		}
	}
	return m
}

func link(m *topology.Matrix, links int, pairs [][2]int) {
	for _, p := range pairs {
		m.Set(p[0], p[1], links, m.Path(p[0], p[1]))
	}
}
