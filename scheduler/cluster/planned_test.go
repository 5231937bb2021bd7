package cluster_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/scheduler/cluster"
)

// oneNode is a snapshot of one node with four GPUs; the first two are held by "a".
func oneNode() cluster.Snapshot {
	held := cluster.Use{AllocID: "a", Namespace: "default", JobID: "other", CPU: 500, MemoryMiB: 100}
	return cluster.Snapshot{Nodes: []cluster.Node{{ID: "n1", Ready: true, CPU: cluster.Capacity{Total: 1000, Free: 500}, MemoryMiB: cluster.Capacity{Total: 400, Free: 300},
		Groups: []cluster.Group{{Vendor: "nvidia", Type: "gpu", Model: "M", Devices: []cluster.Device{
			{ID: "g0", Healthy: true, Use: held}, {ID: "g1", Healthy: true, Use: held}, {ID: "g2", Healthy: true}, {ID: "g3", Healthy: true}}}}}}}
}

func plan(startMS int64, ids ...string) cluster.Planned {
	return cluster.Planned{Namespace: "default", JobID: "gang", StartMS: startMS, Devices: map[string][]string{"n1": ids}}
}

func TestAgainst_ownPlansAndWorkThatIsOverInTimeDoNotCount(t *testing.T) {
	t.Parallel()
	plans := []cluster.Planned{plan(100_000, "g2")}
	must.SliceEmpty(t, cluster.Against(plans, "default", "gang", 0))
	must.Len(t, 1, cluster.Against(plans, "other", "gang", 0))
	must.Len(t, 1, cluster.Against(plans, "default", "job", 0), must.Sprint("work without an end is never over"))
	must.Len(t, 1, cluster.Against(plans, "default", "job", 40_001), must.Sprint("Nomad needs a moment to stop it"))
	must.SliceEmpty(t, cluster.Against(plans, "default", "job", 40_000))
	must.Len(t, 1, plans)
}

func TestTaken_whatIsPlannedAndFreeIsTheGangs(t *testing.T) {
	t.Parallel()
	s := oneNode()
	var aside cluster.SetAside
	same := aside.Taken(s, nil)
	must.True(t, same.Same(&s))

	taken := aside.Taken(s, []cluster.Planned{plan(1, "g1", "g2")})
	devices := taken.Nodes[0].Groups[0].Devices
	must.Eq(t, "a", devices[1].Use.AllocID, must.Sprint("who has it keeps it"))
	must.Eq(t, "gang", devices[2].Use.JobID)
	must.False(t, devices[3].Use.Held())
	must.False(t, s.Nodes[0].Groups[0].Devices[2].Use.Held(), must.Sprint("the snapshot itself stays"))

	again := aside.Taken(s, []cluster.Planned{plan(1, "g1", "g2")})
	must.True(t, again.Same(&taken), must.Sprint("placement's index is kept"))
	other := aside.Taken(s, []cluster.Planned{plan(1, "g1", "g3")})
	must.False(t, other.Same(&taken))
	must.True(t, other.Nodes[0].Groups[0].Devices[3].Use.Held())
}

func TestIdle_givesBackDevicesCPUAndMemory(t *testing.T) {
	t.Parallel()
	idle := cluster.Idle(oneNode(), []cluster.Planned{plan(1, "g0", "g1", "g2")})
	n := idle.Nodes[0]
	must.False(t, n.Groups[0].Devices[0].Use.Held())
	must.Eq(t, 1000, n.CPU.Free, must.Sprint("an allocation with two devices counts once"))
	must.Eq(t, 400, n.MemoryMiB.Free)
}

func TestStands(t *testing.T) {
	t.Parallel()
	ends := map[string]int64{"a": 50}
	for name, c := range map[string]struct {
		plan   cluster.Planned
		change func(s *cluster.Snapshot)
		ends   map[string]int64
		start  int64
		stands bool
	}{
		"in time":                  {plan(60, "g0", "g2"), nil, ends, 50, true},
		"too late":                 {plan(40, "g0", "g2"), nil, ends, 0, false},
		"a holder without an end":  {plan(60, "g0", "g2"), nil, nil, 0, false},
		"all free already":         {plan(60, "g2", "g3"), nil, ends, 0, false},
		"one that is gone":         {plan(60, "g0", "g9"), nil, ends, 0, false},
		"one that is unhealthy":    {plan(60, "g0", "g2"), func(s *cluster.Snapshot) { s.Nodes[0].Groups[0].Devices[2].Healthy = false }, ends, 0, false},
		"a node that is not ready": {plan(60, "g0", "g2"), func(s *cluster.Snapshot) { s.Nodes[0].Ready = false }, ends, 0, false},
	} {
		s := oneNode()
		if c.change != nil {
			c.change(&s)
		}
		start, stands := c.plan.Stands(&s, c.ends)
		must.Eq(t, c.stands, stands, must.Sprint(name))
		if stands {
			must.Eq(t, c.start, start, must.Sprint(name))
		}
	}
}
