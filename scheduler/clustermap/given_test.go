package clustermap_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/clustermap"
	"github.com/nomad-governor/governor/scheduler/place"
)

func TestGivenOf(t *testing.T) {
	t.Parallel()
	of := func(m *topology.Matrix, ids ...string) []clustermap.Given {
		n := node("a", m, make([]cluster.Device, 4)...)
		return clustermap.GivenOf(&n, ids, place.New())
	}
	good, bad := of(pairs(), "GPU-a-2", "GPU-a-0")[0], of(pairs(), "GPU-a-0", "GPU-a-1")[0]
	must.Eq(t, []int{0, 2}, good.Indexes)
	must.Eq(t, "NV4", good.Weakest)
	must.Greater(t, 0, good.RingMBps)
	must.Eq(t, good.IdealMBps, good.RingMBps)
	must.Eq(t, "NODE", bad.Weakest)
	must.Eq(t, good.IdealMBps, bad.IdealMBps)
	must.Less(t, good.RingMBps, bad.RingMBps)

	must.Eq(t, []clustermap.Given{{Device: "nvidia/gpu/A", Indexes: []int{3}}}, of(pairs(), "GPU-a-3"))
	must.Eq(t, []clustermap.Given{{Device: "nvidia/gpu/A", Indexes: []int{0, 1}}}, of(nil, "GPU-a-0", "GPU-a-1"))
	must.SliceEmpty(t, of(pairs(), "GPU-b-0"))
	must.SliceEmpty(t, of(pairs()))
}
