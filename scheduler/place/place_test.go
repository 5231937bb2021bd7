package place_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func snapshot(nodes ...cluster.Node) cluster.Snapshot { return cluster.Snapshot{Nodes: nodes} }

func TestEveryCandidateNodeGetsItsOwnBestSet(t *testing.T) {
	t.Parallel()
	s := snapshot(node("v1", modelV100, dgx1v(), 0, 3), node("empty", modelV100, dgx1v()), node("l40s", "L40S", l40sx4()))
	offer, explanation := place.New().Place(s, jobOf(2))

	must.Nil(t, offer.Infeasible)
	must.Len(t, 3, offer.Groups[0].Nodes)
	// Both DGX have an NV2 pair; v1 has fewer GPUs left, so it comes first.
	must.Eq(t, "id-v1", offer.Groups[0].Preferred)
	must.Eq(t, "v1", offer.Groups[0].Nodes[0].NodeName)
	must.Eq(t, "l40s", offer.Groups[0].Nodes[2].NodeName)
	for _, c := range explanation.Groups[0].Choices[:2] {
		must.Eq(t, "NV2 pair", c.Sets[0].Link)
	}
	must.Eq(t, "NODE pair", explanation.Groups[0].Choices[2].Sets[0].Link)
}

func TestAmongEquallyGoodNodesOnlyAPinnedGroupPrefersOne(t *testing.T) {
	t.Parallel()
	s := snapshot(node("b", modelV100, dgx1v()), node("a", modelV100, dgx1v()))
	offer, _ := place.New().Place(s, jobOf(2))
	must.Eq(t, offer.Groups[0].Nodes[0].NodeID, offer.Groups[0].Preferred)
	other, _ := place.New().Place(snapshot(s.Nodes[1], s.Nodes[0]), jobOf(2))
	must.Eq(t, offer, other)

	ask := jobOf(2)
	ask.Groups[0].Count = 2
	offer, _ = place.New().Place(s, ask)
	must.Eq(t, "", offer.Groups[0].Preferred)
}

func TestBusyUnhealthyAndForeignGPUsAreNotOffered(t *testing.T) {
	t.Parallel()
	n := node("v1", modelV100, dgx1v(), 0, 1, 2)
	n.Groups[0].Devices[3].Healthy = false
	n.Groups[0].Devices[4].Use = cluster.Use{AllocID: "a", Namespace: "default", JobID: "job", Group: "train"}
	offer, _ := place.New().Place(snapshot(n), jobOf(4))
	// GPU 4 is held by the very group that is placed: the new allocation replaces it.
	must.Eq(t, []string{"GPU-v1-4", "GPU-v1-5", "GPU-v1-6", "GPU-v1-7"}, offer.Groups[0].Nodes[0].Sets[0].IDs)

	n.Groups[0].Devices[4].Use.Stopping = true
	offer, explanation := place.New().Place(snapshot(n), jobOf(4))
	must.Len(t, 0, offer.Groups[0].Nodes)
	must.StrContains(t, explanation.String(), "3 of 8 GPUs free")

	// With two allocations the running one may stay: its GPUs are not free.
	n.Groups[0].Devices[4].Use.Stopping = false
	ask := jobOf(4)
	ask.Groups[0].Count, ask.Groups[0].DistinctHosts = 2, true
	_, explanation = place.New().Place(snapshot(n), ask)
	must.StrContains(t, explanation.String(), "3 of 8 GPUs free")
}

func TestANodeWithoutPromisesComesBeforeABetterOneWith(t *testing.T) {
	t.Parallel()
	promised := node("a", modelV100, dgx1v())
	for i := range promised.Groups[0].Devices {
		promised.Groups[0].Devices[i].Reserved = true
	}
	offer, explanation := place.New().Place(snapshot(promised, node("b", "L40S", l40sx4())), jobOf(2))
	must.Eq(t, "id-b", offer.Groups[0].Preferred)
	must.Len(t, 2, offer.Groups[0].Nodes)
	must.Eq(t, "b before a: GPUs of a are promised to another job", explanation.Groups[0].Preferred)
}

func TestASingleGPUIsTakenFromTheMachineWhereItBreaksNoPair(t *testing.T) {
	t.Parallel()
	// The seventh GPU of a is spare, the sixth of b breaks up a pair.
	s := snapshot(node("a", "H100", dgxh100(), 0), node("b", "H100", dgxh100(), 0, 1))
	offer, explanation := place.New().Place(s, jobOf(1))
	must.Eq(t, "id-a", offer.Groups[0].Preferred)
	must.Eq(t, "a before b: what stays free is worth more, which counts more than that b is fuller", explanation.Groups[0].Preferred)
}

func TestNodesAreComparedByBandwidthAndByHowFullTheyAre(t *testing.T) {
	t.Parallel()
	idle, box, half := node("idle", modelV100, dgx1v()), node("box", "A", pcieBox8()), node("half", "L40S", l40sx4(), 2, 3)
	cases := map[string]struct {
		s    cluster.Snapshot
		k    int
		want string
	}{
		"half the bandwidth is too little": {snapshot(idle, node("a", modelV100, dgx1v(), 1, 3, 4, 6)), 2,
			"idle before a: ring 40.0 GB/s against 20.0 GB/s, which counts more than that a is fuller"},
		"two thirds of it may be enough": {snapshot(half, box), 2,
			"half before box: best fit, free GPUs left there: 0 against 6, which counts more than ring 29.9 GB/s against 18.9 GB/s there"},
		"scattered GPUs come after ones on a switch": {snapshot(node("a", modelV100, dgx1v(), 1, 3, 4, 6), box), 4,
			"box before a: ring 26.8 GB/s against 6.3 GB/s, which counts more than that a is fuller"},
		"faster and fuller": {snapshot(half, node("a", modelV100, dgx1v(), 0, 1, 2, 3, 5, 6)), 2,
			"a before half: ring 40.0 GB/s against 18.9 GB/s"},
		"one GPU": {snapshot(box, half), 1, "half before box: best fit, free GPUs left there: 1 against 7"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, explanation := place.New().Place(c.s, jobOf(c.k))
			must.Eq(t, c.want, explanation.Groups[0].Preferred)
		})
	}
}

func TestAmongEqualSetsTheNodeThatLosesLeastIsTaken(t *testing.T) {
	t.Parallel()
	// Both have three GPUs left after the choice. On a the choice breaks up a
	// quad, on b the four free GPUs are far apart anyway.
	s := snapshot(node("a", modelV100, dgx1v(), 4, 5, 6, 7), node("b", modelV100, dgx1v(), 0, 2, 5, 7))
	offer, explanation := place.New().Place(s, jobOf(1))
	must.Eq(t, "id-b", offer.Groups[0].Preferred)
	must.Eq(t, "b before a: what stays free is worth more", explanation.Groups[0].Preferred)
}

func TestStateDecidesBetweenNodesWithEqualRings(t *testing.T) {
	t.Parallel()
	s := snapshot(node("v1", modelV100, dgx1v(), 0, 3), node("v2", modelV100, dgx1v()), node("l40s", "L40S", l40sx4()))
	ask := jobOf(2)
	ask.Loading = map[string]cluster.Loading{"id-v1": {Takes: 2 * time.Second}, "id-v2": {Takes: time.Second}, "id-l40s": {}}
	offer, _ := place.New().Place(s, ask)
	// v1 would be the better fit, and l40s has it already, with half the ring.
	must.Eq(t, []string{"v2", "v1", "l40s"}, nodeNames(offer))
	ask.Loading["id-v2"] = ask.Loading["id-v1"]
	offer, _ = place.New().Place(s, ask)
	must.Eq(t, []string{"v1", "v2", "l40s"}, nodeNames(offer))
	one := jobOf(1)
	one.Loading = ask.Loading
	offer, _ = place.New().Place(s, one)
	must.Eq(t, "l40s", nodeNames(offer)[0], must.Sprint("one GPU has no ring"))
}

func nodeNames(o cluster.Offer) []string {
	var names []string
	for _, n := range o.Groups[0].Nodes {
		names = append(names, n.NodeName)
	}
	return names
}

func TestNodesThatNomadWouldNotUseAreNotOffered(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		node func(*cluster.Node)
		ask  func(*cluster.Ask)
		want string
	}{
		"not ready":        {func(n *cluster.Node) { n.Ready = false }, nil, "not ready"},
		"other datacenter": {nil, func(a *cluster.Ask) { a.Datacenters = []string{"eu-*"} }, "another datacenter"},
		"other pool":       {func(n *cluster.Node) { n.Pool = "gpu" }, nil, "another node pool"},
		"no driver":        {func(n *cluster.Node) { n.Drivers = []string{"docker"} }, nil, "driver exec is missing"},
		"no CPU":           {func(n *cluster.Node) { n.CPU.Free = 499 }, nil, "too little free CPU"},
		"no memory":        {func(n *cluster.Node) { n.MemoryMiB.Free = 255 }, nil, "too little free memory"},
		"constraint": {nil, func(a *cluster.Ask) {
			a.Groups[0].Constraints = []cluster.Constraint{{LTarget: "${node.class}", Operand: "=", RTarget: "fast"}}
		}, "constraint ${node.class} = fast"},
		"device constraint": {nil, func(a *cluster.Ask) {
			a.Groups[0].Devices[0].Constraints = []cluster.Constraint{{LTarget: "${device.attr.memory}", Operand: ">=", RTarget: "40 GiB"}}
		}, "no nvidia/gpu that the job accepts"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad, good, ask := node("bad", modelV100, dgx1v()), node("good", modelV100, dgx1v()), jobOf(2)
			if c.node != nil {
				c.node(&bad)
			}
			if c.ask != nil {
				c.ask(&ask)
				good.Class, good.Datacenter = "fast", "eu-1"
				good.Groups[0].Attributes["memory"] = cluster.NumberValue(81920, "MiB")
			}
			offer, explanation := place.New().Place(snapshot(bad, good), ask)
			must.Nil(t, offer.Infeasible)
			must.Len(t, 1, offer.Groups[0].Nodes)
			must.Eq(t, "good", offer.Groups[0].Nodes[0].NodeName)
			must.Len(t, 1, explanation.Groups[0].Rejected)
			must.StrContains(t, explanation.Groups[0].Rejected[0].Reason, c.want)
		})
	}
}

func TestTasksOfOneGroupGetDisjointSetsTheMostSpecificFirst(t *testing.T) {
	t.Parallel()
	n := node("mixed", modelV100, dgx1v(), 0, 1, 2, 3)
	l40s := node("mixed", "L40S", l40sx4())
	for i := range l40s.Groups[0].Devices {
		l40s.Groups[0].Devices[i].ID = fmt.Sprintf("GPU-l40s-%d", i)
	}
	n.Groups = append(n.Groups, l40s.Groups...)
	ask := jobOf(4, 4)
	ask.Groups[0].Devices[1].Name = "nvidia/gpu/" + modelV100

	offer, _ := place.New().Place(snapshot(n), ask)
	sets := offer.Groups[0].Nodes[0].Sets
	must.Eq(t, "nvidia/gpu/L40S", sets[0].Device)
	must.Eq(t, "nvidia/gpu/"+modelV100, sets[1].Device)
	must.Len(t, 4, sets[0].IDs)
	must.Len(t, 4, sets[1].IDs)
}

func TestATaskGivesWayToOneWithFewerChoices(t *testing.T) {
	t.Parallel()
	n := node("mixed", modelV100, dgx1v(), 0, 1, 2, 3)
	n.Groups = append(n.Groups, node("l40s", "L40S", l40sx4()).Groups...)
	ask := jobOf(4, 4)
	// Equally specific by their looks, but only the second must have the V100.
	ask.Groups[0].Devices[0].Constraints = []cluster.Constraint{{LTarget: "${device.attr.memory}", Operand: ">=", RTarget: "1 GiB"}}
	ask.Groups[0].Devices[1].Constraints = []cluster.Constraint{{LTarget: "${device.model}", Operand: "=", RTarget: modelV100}}
	offer, _ := place.New().Place(snapshot(n), ask)
	must.Len(t, 1, offer.Groups[0].Nodes)
	must.Eq(t, "nvidia/gpu/L40S", offer.Groups[0].Nodes[0].Sets[0].Device)
	must.Eq(t, "nvidia/gpu/"+modelV100, offer.Groups[0].Nodes[0].Sets[1].Device)
}

func TestTheMoreSpecificTaskGetsTheBetterSet(t *testing.T) {
	t.Parallel()
	// Of the free GPUs only 1 and 2 are an NV2 pair.
	ask := jobOf(2, 2)
	ask.Groups[0].Devices[1].Name = "nvidia/gpu/" + modelV100
	offer, _ := place.New().Place(snapshot(node("v1", modelV100, dgx1v(), 0, 3, 5, 7)), ask)
	must.Eq(t, []string{"GPU-v1-1", "GPU-v1-2"}, offer.Groups[0].Nodes[0].Sets[1].IDs)
	must.Eq(t, []string{"GPU-v1-4", "GPU-v1-6"}, offer.Groups[0].Nodes[0].Sets[0].IDs)
}

func twoGroups(first, second int) cluster.Ask {
	ask := jobOf(first)
	other := jobOf(second).Groups[0]
	other.Name = "eval"
	ask.Groups = append(ask.Groups, other)
	return ask
}

func TestGroupsOfOneJobGetDisjointSetsOnEveryNode(t *testing.T) {
	t.Parallel()
	s := snapshot(node("v1", modelV100, dgx1v()), node("v2", modelV100, dgx1v()))
	offer, _ := place.New().Place(s, twoGroups(2, 4))
	must.Len(t, 2, offer.Groups[0].Nodes)
	must.Len(t, 2, offer.Groups[1].Nodes)
	for _, a := range offer.Groups[0].Nodes {
		for _, b := range offer.Groups[1].Nodes {
			for _, id := range a.Sets[0].IDs {
				must.SliceNotContains(t, b.Sets[0].IDs, id)
			}
		}
	}
}

func TestGroupsDivideTheNodesWhenEachNeedsAWholeOne(t *testing.T) {
	t.Parallel()
	s := snapshot(node("v1", modelV100, dgx1v()), node("v2", modelV100, dgx1v()))
	offer, _ := place.New().Place(s, twoGroups(8, 8))
	must.Len(t, 1, offer.Groups[0].Nodes)
	must.Len(t, 1, offer.Groups[1].Nodes)
	must.NotEq(t, offer.Groups[0].Nodes[0].NodeID, offer.Groups[1].Nodes[0].NodeID)
}

func TestNothingIsPinnedWhereItCouldNotBeExact(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change func(*cluster.Ask)
		want   string
	}{
		"several allocations": {func(a *cluster.Ask) { a.Groups[0].Count = 2 }, "runs 2 allocations"},
		"canaries":            {func(a *cluster.Ask) { a.Groups[0].Canaries = 1 }, "runs 2 allocations"},
		"scaling":             {func(a *cluster.Ask) { a.Groups[0].CountMax = 5 }, "runs 5 allocations"},
		"system":              {func(a *cluster.Ask) { a.Type = "system" }, "a system job runs on every node"},
		"sysbatch":            {func(a *cluster.Ask) { a.Type = "sysbatch" }, "a sysbatch job runs on every node"},
		"template":            {func(a *cluster.Ask) { a.Template = true }, "every launch"},
		"pinned by the user": {func(a *cluster.Ask) {
			a.Groups[0].Devices[0].Constraints = []cluster.Constraint{{LTarget: "${device.ids}", Operand: "set_contains", RTarget: "GPU-v1-0,GPU-v1-1"}}
		}, `group "train" names its devices itself`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ask := jobOf(2)
			c.change(&ask)
			s := snapshot(node("v1", modelV100, dgx1v(), 7), node("v2", modelV100, dgx1v()))
			offer, explanation := place.New().Place(s, ask)
			must.Nil(t, offer.Infeasible)
			must.Len(t, 0, offer.Groups[0].Nodes)
			must.StrContains(t, explanation.String(), c.want)
		})
	}
}

func TestDistinctHostsMakeSeveralAllocationsExact(t *testing.T) {
	t.Parallel()
	ask := jobOf(2)
	ask.Groups[0].Count, ask.Groups[0].DistinctHosts = 2, true
	offer, _ := place.New().Place(snapshot(node("v1", modelV100, dgx1v(), 7), node("v2", modelV100, dgx1v())), ask)
	must.Len(t, 2, offer.Groups[0].Nodes)
	must.Eq(t, "", offer.Groups[0].Preferred)

	offer, explanation := place.New().Place(snapshot(node("v1", modelV100, dgx1v())), ask)
	must.Len(t, 0, offer.Groups[0].Nodes)
	must.StrContains(t, explanation.String(), "fewer nodes than allocations")
}

func TestSeveralAllocationsPreferTheNodeThatRunsMostOfThem(t *testing.T) {
	t.Parallel()
	ask := jobOf(2)
	ask.Groups[0].Count = 4
	s := snapshot(node("v1", modelV100, dgx1v(), 0), node("v2", modelV100, dgx1v()))
	offer, explanation := place.New().Place(s, ask)
	must.Eq(t, "id-v2", offer.Groups[0].Preferred)
	must.Eq(t, "v2 before v1: it can run 4 of the allocations, not 3", explanation.Groups[0].Preferred)
}

func TestReservedGPUsAreUsedLast(t *testing.T) {
	t.Parallel()
	n := node("v1", modelV100, dgx1v())
	for i := range 4 {
		n.Groups[0].Devices[i].Reserved = true
	}
	offer, explanation := place.New().Place(snapshot(n), jobOf(4))
	must.Eq(t, []string{"GPU-v1-4", "GPU-v1-5", "GPU-v1-6", "GPU-v1-7"}, offer.Groups[0].Nodes[0].Sets[0].IDs)
	must.False(t, explanation.Groups[0].UsesReserved)

	offer, explanation = place.New().Place(snapshot(n), jobOf(6))
	must.Len(t, 6, offer.Groups[0].Nodes[0].Sets[0].IDs)
	must.True(t, explanation.Groups[0].UsesReserved)
}

func TestWhatNoNodeCanEverServeIsInfeasible(t *testing.T) {
	t.Parallel()
	v1 := node("v1", modelV100, dgx1v(), 0, 1, 2, 3, 4, 5, 6, 7)
	v1.Ready = false
	s := snapshot(v1, node("l40s", "L40S", l40sx4()))
	cases := map[string]struct {
		ask  cluster.Ask
		want string
	}{
		"more than any node has": {jobOf(16), `no node can ever run group "train": task "task0" asks for 16 x nvidia/gpu on one node, ` +
			`but the largest matching node, v1, has 8. Devices in the cluster: nvidia/gpu/L40S, nvidia/gpu/Tesla V100-SXM2-16GB`},
		"together more than any node has": {jobOf(5, 5), `no node can ever run group "train": its tasks together ask for 10 GPUs on one node, ` +
			`but the largest matching node, v1, has 8. Devices in the cluster: nvidia/gpu/L40S, nvidia/gpu/Tesla V100-SXM2-16GB`},
	}
	unknown := jobOf(1)
	unknown.Groups[0].Devices[0].Name = "nvidia/gpu/H100"
	cases["a model that does not exist"] = struct {
		ask  cluster.Ask
		want string
	}{unknown, `no node can ever run group "train": task "task0" asks for 1 x nvidia/gpu/H100 on one node, ` +
		`but no node that the job may use has such a device. Devices in the cluster: nvidia/gpu/L40S, nvidia/gpu/Tesla V100-SXM2-16GB`}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			offer, explanation := place.New().Place(s, c.ask)
			must.NotNil(t, offer.Infeasible)
			must.Eq(t, c.want, explanation.String())
		})
	}
	offer, _ := place.New().Place(s, jobOf(8))
	must.Nil(t, offer.Infeasible) // busy and not ready, but it will pass
	offer, _ = place.New().Place(snapshot(), jobOf(1))
	must.StrContains(t, offer.Infeasible.String(), "The cluster has no GPUs now")
}

func TestAGroupWithoutTopologyIsServedInPCIOrder(t *testing.T) {
	t.Parallel()
	n := node("v1", modelV100, dgx1v(), 1)
	n.Groups[0].Topology = nil
	offer, explanation := place.New().Place(snapshot(n), jobOf(2))
	must.Eq(t, []string{"GPU-v1-0", "GPU-v1-2"}, offer.Groups[0].Nodes[0].Sets[0].IDs)
	must.StrContains(t, explanation.String(), "links not known")
}

func TestVeryManyCandidatesAreCutToTheBest(t *testing.T) {
	t.Parallel()
	var s cluster.Snapshot
	for i := range 70 {
		s.Nodes = append(s.Nodes, node(fmt.Sprintf("n%02d", i), modelV100, dgx1v(), i%4))
	}
	offer, _ := place.New().Place(s, jobOf(2))
	must.Len(t, 64, offer.Groups[0].Nodes)

	ask := jobOf(2)
	ask.Groups[0].Constraints = []cluster.Constraint{{LTarget: "${attr.kernel.version}", Operand: "=", RTarget: "6"}}
	offer, explanation := place.New().Place(s, ask)
	must.Len(t, 0, offer.Groups[0].Nodes)
	must.StrContains(t, explanation.String(), "only Nomad can evaluate")
}

func TestAJobWithVeryManyBlocksEndsTheSearchAndIsLeftToNomad(t *testing.T) {
	t.Parallel()
	n := node("mixed", modelV100, dgx1v())
	n.Groups = append(n.Groups, node("l40s", "L40S", l40sx4()).Groups...)
	counts := make([]int, 40)
	for i := range counts {
		counts[i] = 1
	}
	// 40 blocks on 12 GPUs: to prove that no way fits would take 2^12 tries and more.
	offer, _ := place.New().Place(snapshot(n), jobOf(counts...))
	must.Nil(t, offer.Infeasible)
	must.Len(t, 0, offer.Groups[0].Nodes)
}

func TestKeptGroupsAreLeftOut(t *testing.T) {
	t.Parallel()
	offer, explanation := place.New().Place(snapshot(node("v1", modelV100, dgx1v())), twoGroups(2, 4))
	must.Eq(t, "eval", offer.Without([]string{"train"}).Groups[0].Group)
	must.StrNotContains(t, explanation.Without([]string{"train"}).String(), `"train"`)
	must.Len(t, 2, offer.Groups)
}

// drawSnapshot makes a small random cluster of fixture machines.
func drawSnapshot(t *rapid.T) cluster.Snapshot {
	kinds := []*topology.Matrix{dgx1v(), dgxh100(), rtx8000x4(), l40sx4(), pcieBox8()}
	var s cluster.Snapshot
	for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
		m := rapid.SampledFrom(kinds).Draw(t, "kind")
		n := node(fmt.Sprintf("n%d", i), "M", m, rapid.SliceOfDistinct(rapid.IntRange(0, m.Size()-1), rapid.ID).Draw(t, "busy")...)
		for j := range n.Groups[0].Devices {
			n.Groups[0].Devices[j].Healthy = rapid.IntRange(0, 9).Draw(t, "healthy") > 0
			n.Groups[0].Devices[j].Reserved = rapid.Bool().Draw(t, "reserved")
		}
		n.Ready = rapid.IntRange(0, 5).Draw(t, "ready") > 0
		s.Nodes = append(s.Nodes, n)
	}
	return s
}

func drawAsk(t *rapid.T) cluster.Ask {
	ask := jobOf(rapid.SliceOfN(rapid.IntRange(1, 4), 1, 3).Draw(t, "counts")...)
	if rapid.Bool().Draw(t, "second group") {
		ask.Groups = append(ask.Groups, twoGroups(1, rapid.IntRange(1, 8).Draw(t, "second")).Groups[1])
	}
	return ask
}

func TestOffersAreSafeForAnyCluster(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, ask := drawSnapshot(t), drawAsk(t)
		offer, _ := place.New().Place(s, ask)
		used := map[string]string{}
		for i, group := range offer.Groups {
			for _, n := range group.Nodes {
				at := slices.IndexFunc(s.Nodes, func(x cluster.Node) bool { return x.ID == n.NodeID })
				must.True(t, s.Nodes[at].Ready)
				for j, set := range n.Sets {
					must.Len(t, ask.Groups[i].Devices[j].Count, set.IDs)
					for _, id := range set.IDs {
						must.Eq(t, "", used[id], must.Sprintf("%s is offered to %s and %s", id, used[id], set.Task))
						used[id] = set.Task
						d := s.Nodes[at].Groups[0].Devices[slices.IndexFunc(s.Nodes[at].Groups[0].Devices,
							func(d cluster.Device) bool { return d.ID == id })]
						must.True(t, d.Healthy && !d.Use.Held())
					}
				}
			}
		}
	})
}

func TestTheOrderOfNodesDoesNotChangeTheOffer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, ask := drawSnapshot(t), drawAsk(t)
		offer, explanation := place.New().Place(s, ask)
		seed := rapid.Uint64().Draw(t, "seed")
		shuffled := cluster.Snapshot{Nodes: slices.Clone(s.Nodes)}
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(shuffled.Nodes), func(i, j int) {
			shuffled.Nodes[i], shuffled.Nodes[j] = shuffled.Nodes[j], shuffled.Nodes[i]
		})
		again, explanationAgain := place.New().Place(shuffled, ask)
		must.Eq(t, offer, again)
		must.Eq(t, explanation.String(), explanationAgain.String())
	})
}

func TestMoreFreeGPUsNeverLoseACandidate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, ask := drawSnapshot(t), jobOf(rapid.IntRange(1, 8).Draw(t, "k"))
		before, _ := place.New().Place(s, ask)
		if before.Infeasible != nil {
			return
		}
		at := rapid.IntRange(0, len(s.Nodes)-1).Draw(t, "node")
		for i := range s.Nodes[at].Groups[0].Devices {
			s.Nodes[at].Groups[0].Devices[i].Use = cluster.Use{}
		}
		after, _ := place.New().Place(s, ask)
		must.GreaterEq(t, len(before.Groups[0].Nodes), len(after.Groups[0].Nodes))
	})
}
