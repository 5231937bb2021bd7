package clustermap_test

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/clustermap"
	"github.com/nomad-governor/governor/scheduler/place"
)

// pairs is a box of two NVLink pairs: 0 with 2, and 1 with 3.
func pairs() *topology.Matrix {
	m := topology.New(4, 14062, 31500)
	for i := range 4 {
		m.SetNUMA(i, i/2)
		for j := i + 1; j < 4; j++ {
			m.Set(i, j, 0, topology.PathNode)
		}
	}
	m.Set(0, 2, 4, topology.PathNode)
	m.Set(1, 3, 4, topology.PathNode)
	return m
}

func node(name string, m *topology.Matrix, devices ...cluster.Device) cluster.Node {
	g := cluster.Group{Vendor: gpu.Vendor, Type: gpu.TypeGPU, Model: "A", Topology: m, Devices: devices}
	if m != nil {
		g.TopologyText = m.Encode()
	}
	for i := range g.Devices {
		g.Devices[i].ID = fmt.Sprintf("GPU-%s-%d", name, i)
	}
	return cluster.Node{ID: "id-" + name, Name: name, Ready: true, Groups: []cluster.Group{g}}
}

func TestStatesAndSets(t *testing.T) {
	t.Parallel()
	use := cluster.Use{AllocID: "a", Namespace: "ml", JobID: "train", Group: "g"}
	stopping := use
	stopping.Stopping = true
	full := node("a", pairs(), cluster.Device{Healthy: true}, cluster.Device{Healthy: true, Use: use}, cluster.Device{Healthy: true}, cluster.Device{Healthy: true})
	none := node("b", nil, cluster.Device{}, cluster.Device{Healthy: true, Use: stopping}, cluster.Device{Healthy: true, Reserved: true}, cluster.Device{Use: use})
	none.Ready = false
	m := clustermap.Of(cluster.Snapshot{Nodes: []cluster.Node{none, full}, Warnings: []string{"w"}}, place.New())

	must.Eq(t, []string{"w"}, m.Warnings)
	a, b := m.Nodes[0].Groups[0], m.Nodes[1].Groups[0]
	must.Eq(t, "default", m.Nodes[0].Pool)
	must.Eq(t, clustermap.GPU{Index: 1, ID: "GPU-a-1", NUMANode: 0, State: clustermap.Held, Alloc: "a", Namespace: "ml", JobID: "train", Group: "g"}, a.GPUs[1])
	must.Eq(t, 3, a.Free)
	must.Eq(t, [][]int{{0, 2}, {1, 3}}, a.Islands)
	must.Eq(t, []string{"X", "NODE", "NV4", "NODE"}, a.Links[0])
	must.SliceLen(t, 1, a.Sets, must.Sprint("no set of 4 is free"))
	must.Eq(t, []int{0, 2}, a.Sets[0].Indexes)
	must.Eq(t, a.Sets[0].IdealMBps, a.Sets[0].RingMBps)
	var states []clustermap.State
	for _, d := range b.GPUs {
		states = append(states, d.State)
		must.Eq(t, -1, d.NUMANode)
	}
	must.Eq(t, []clustermap.State{clustermap.Unhealthy, clustermap.Freeing, clustermap.Reserved, clustermap.Held}, states)
	must.Nil(t, b.Links)
	must.Eq(t, "", b.Topology)
	must.Eq(t, pairs().Encode(), a.Topology)
	must.Eq(t, []clustermap.Room{{Device: "nvidia/gpu/A", Total: 8, Free: 3, Fits: []clustermap.Fits{{GPUs: 1, Allocations: 3}, {GPUs: 2, Allocations: 1}, {GPUs: 4, Allocations: 0}}}}, m.Room)
}

// A topology of another number of GPUs than there are says nothing.
func TestATopologyOfOtherGPUsIsNotShown(t *testing.T) {
	t.Parallel()
	m := clustermap.Of(cluster.Snapshot{Nodes: []cluster.Node{node("a", pairs(), cluster.Device{Healthy: true})}}, place.New())
	must.Nil(t, m.Nodes[0].Groups[0].Links)
	must.Nil(t, m.Nodes[0].Groups[0].Sets)
}

func TestTheMapCountsEveryGPUOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var s cluster.Snapshot
		for i := range rapid.IntRange(0, 4).Draw(t, "nodes") {
			var devices []cluster.Device
			for range 4 {
				d := cluster.Device{Healthy: rapid.Bool().Draw(t, "healthy"), Reserved: rapid.Bool().Draw(t, "reserved")}
				if rapid.Bool().Draw(t, "held") {
					d.Use = cluster.Use{AllocID: "a", Stopping: rapid.Bool().Draw(t, "stopping")}
				}
				devices = append(devices, d)
			}
			n := node(fmt.Sprint(i), pairs(), devices...)
			n.Ready = rapid.Bool().Draw(t, "ready")
			s.Nodes = append(s.Nodes, n)
		}
		m := clustermap.Of(s, place.New())
		free, total := 0, 0
		for _, n := range m.Nodes {
			for _, g := range n.Groups {
				total += len(g.GPUs)
				if n.Ready {
					free += g.Free
				}
				for _, set := range g.Sets {
					must.LessEq(t, set.IdealMBps, set.RingMBps)
					for _, i := range set.Indexes {
						must.Eq(t, clustermap.Free, g.GPUs[i].State)
					}
				}
			}
		}
		if total > 0 {
			must.Eq(t, total, m.Room[0].Total)
			must.Eq(t, free, m.Room[0].Free)
			must.Eq(t, free, m.Room[0].Fits[0].Allocations)
		}
		rand.New(rand.NewSource(1)).Shuffle(len(s.Nodes), func(i, j int) { s.Nodes[i], s.Nodes[j] = s.Nodes[j], s.Nodes[i] })
		must.Eq(t, m, clustermap.Of(s, place.New()), must.Sprint("the order of nodes does not matter"))
	})
}

// Shares of one GPU are no room for an allocation that wants two.
func TestRoomAmongShares(t *testing.T) {
	t.Parallel()
	of := func(gpus ...string) cluster.Snapshot {
		g := cluster.Group{Vendor: gpu.Vendor, Type: gpu.TypeShare, Model: "A"}
		for i, states := range gpus {
			for j, state := range states {
				d := cluster.Device{ID: fmt.Sprintf("GPU-%d::%d", i, j), PCIBusID: fmt.Sprintf("0000:%02x:00.0", i), Healthy: true}
				if state == 't' {
					d.Use = cluster.Use{AllocID: "a", Namespace: "ml", JobID: "j", Group: "g"}
				}
				g.Devices = append(g.Devices, d)
			}
		}
		return cluster.Snapshot{Nodes: []cluster.Node{{ID: "n", Name: "n", Ready: true, Groups: cluster.Divide([]cluster.Group{g})}}}
	}
	for _, c := range []struct {
		gpus []string
		want []clustermap.Fits
	}{
		{[]string{"ffff"}, []clustermap.Fits{{GPUs: 1, Allocations: 4}}},
		{[]string{"ffff", "tttf"}, []clustermap.Fits{{GPUs: 1, Allocations: 5}, {GPUs: 2, Allocations: 1}}},
		{[]string{"fff", "fff", "tff", "ttt"}, []clustermap.Fits{{GPUs: 1, Allocations: 8}, {GPUs: 2, Allocations: 4}, {GPUs: 4}}},
		{[]string{"fff", "fff", "ttf", "ttt"}, []clustermap.Fits{{GPUs: 1, Allocations: 7}, {GPUs: 2, Allocations: 3}, {GPUs: 4}}},
	} {
		m := clustermap.Of(of(c.gpus...), place.New())
		must.Eq(t, c.want, m.Room[0].Fits, must.Sprint(c.gpus))
	}
	many := make([]string, 8)
	for i := range many {
		many[i] = "ffffffffft"
	}
	s := of(many...)
	m := clustermap.Of(s, place.New())
	must.Len(t, 1, m.Nodes[0].Groups, must.Sprint("one name, one group"))
	must.Len(t, 80, m.Nodes[0].Groups[0].GPUs)
	must.Eq(t, 72, m.Room[0].Free)
	must.Eq(t, clustermap.Fits{GPUs: 8, Allocations: 9}, m.Room[0].Fits[3])
	for _, d := range m.Nodes[0].Groups[0].GPUs {
		given := clustermap.GivenOf(&s.Nodes[0], []string{d.ID}, place.New())
		must.Len(t, 1, given)
		must.Eq(t, []int{d.Index}, given[0].Indexes)
	}
}
