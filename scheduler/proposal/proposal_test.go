package proposal_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/nomad-governor/governor/scheduler/proposal"
)

func TestAQuestionHasItsDefaults(t *testing.T) {
	t.Parallel()
	q := proposal.Question{GPUs: 2}
	must.NoError(t, q.Check())
	must.Eq(t, 1, q.Most())
	must.Eq(t, cluster.Ask{Type: "batch", Datacenters: []string{"*"}, Groups: []cluster.GroupAsk{{
		Name: "ask", Count: 1, Devices: []cluster.DeviceAsk{{Task: "ask", Name: "nvidia/gpu", Count: 2}},
	}}}, q.Ask())
	q = proposal.Question{GPUs: 1, Count: 3, DistinctHosts: true, Device: "nvidia/gpu/H100", CPU: 5, Memory: 6, NodePool: "gpu", Datacenters: []string{"eu-*"},
		Drivers: []string{"exec", "docker"}, Constraints: []proposal.Constraint{{Attribute: "${node.class}", Value: "fast"}},
		DeviceConstraints: []proposal.Constraint{{Attribute: "${device.attr.memory}", Operator: ">=", Value: "40 GiB"}}, Nodes: 7}
	must.NoError(t, q.Check())
	must.Eq(t, 7, q.Most())
	must.Eq(t, cluster.Ask{Type: "batch", Datacenters: []string{"eu-*"}, Pool: "gpu", Groups: []cluster.GroupAsk{{
		Name: "ask", Count: 3, DistinctHosts: true, Drivers: []string{"docker", "exec"}, CPU: 5, MemoryMiB: 6,
		Constraints: []cluster.Constraint{{LTarget: "${node.class}", Operand: "=", RTarget: "fast"}},
		Devices: []cluster.DeviceAsk{{Task: "ask", Name: "nvidia/gpu/H100", Count: 1,
			Constraints: []cluster.Constraint{{LTarget: "${device.attr.memory}", Operand: ">=", RTarget: "40 GiB"}}}},
	}}}, q.Ask())
}

func TestWhatCannotBeAskedIsExplained(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2000)
	cases := map[string]struct {
		q    proposal.Question
		want string
	}{
		"nothing":             {proposal.Question{}, "gpus is 0; write 1 to 64, or give a Job"},
		"too many GPUs":       {proposal.Question{GPUs: 65}, "gpus is 65; write 1 to 64"},
		"a negative amount":   {proposal.Question{GPUs: 1, Memory: -1}, "memory is -1; write 0 to"},
		"a job and an ask":    {proposal.Question{Job: json.RawMessage("{}"), NodePool: "gpu"}, "give one of them"},
		"nodes":               {proposal.Question{Job: json.RawMessage("{}"), Nodes: -1}, "nodes is -1; the answer has 1 to 64 nodes"},
		"no device of GPUs":   {proposal.Question{GPUs: 1, Device: "fpga"}, `device is "fpga", which is no name of GPUs`},
		"an empty constraint": {proposal.Question{GPUs: 1, DeviceConstraints: []proposal.Constraint{{}}}, "device_constraints[0] has neither attribute nor operator"},
		"a long text":         {proposal.Question{GPUs: 1, NodePool: long}, "has 2000 bytes; a text may have 1024"},
		"a long list":         {proposal.Question{GPUs: 1, Drivers: make([]string, 65)}, "a list has 65 elements; it may have 64"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.ErrorContains(t, c.q.Check(), c.want)
		})
	}
	job := proposal.Question{Job: json.RawMessage("{}"), Nodes: 64}
	must.NoError(t, job.Check())
}

// machines makes a cluster of NVSwitch machines of which some GPUs are held.
func machines(t *rapid.T) cluster.Snapshot {
	m := topology.New(8, 26562, 63000)
	m.SetSwitched(true)
	for i := range 8 {
		for j := range i {
			m.Set(i, j, 18, topology.PathSystem)
		}
	}
	var s cluster.Snapshot
	for i := range rapid.IntRange(0, 8).Draw(t, "nodes") {
		g := cluster.Group{Vendor: "nvidia", Type: "gpu", Model: "H100", Topology: m, TopologyText: m.Encode()}
		for j := range 8 {
			d := cluster.Device{ID: fmt.Sprintf("GPU-%d-%d", i, j), Healthy: true}
			if rapid.Bool().Draw(t, "held") {
				d.Use = cluster.Use{AllocID: "a", JobID: "other"}
			}
			g.Devices = append(g.Devices, d)
		}
		s.Nodes = append(s.Nodes, cluster.Node{ID: fmt.Sprint("id-", i), Name: fmt.Sprint("n", i), Ready: true, Groups: []cluster.Group{g},
			CPU: cluster.Capacity{Total: 100, Free: 100}, MemoryMiB: cluster.Capacity{Total: 100, Free: 100}})
	}
	return s
}

// The answer to any question has the GPUs of the offer, and as many nodes as were asked for
// and can be had; its JSON reads back.
func TestTheAnswerIsTheOffer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, p := machines(t), place.New()
		q := proposal.Question{GPUs: rapid.IntRange(1, 9).Draw(t, "gpus"), Nodes: rapid.IntRange(0, 8).Draw(t, "most"), CPU: rapid.IntRange(0, 120).Draw(t, "cpu")}
		must.NoError(t, q.Check())
		offer, why := p.Choose(s, q.Ask(), q.Most())
		answer := proposal.AnswerOf(offer, why, q.Most())
		must.Eq(t, offer.Infeasible != nil, answer.Infeasible != "")
		must.Eq(t, why.String(), answer.Explanation)
		body, err := answer.Encode()
		must.NoError(t, err)
		var back proposal.Answer
		must.NoError(t, json.Unmarshal(body, &back))
		must.Eq(t, answer, back)
		if offer.Infeasible != nil {
			must.SliceEmpty(t, answer.Groups)
			return
		}
		g := answer.Groups[0]
		must.Len(t, min(q.Most(), g.Candidates), g.Nodes)
		must.Eq(t, offer.Groups[0].Preferred, g.Preferred)
		for i, n := range g.Nodes {
			must.Eq(t, offer.Groups[0].Nodes[i].NodeID, n.ID)
			must.Eq(t, offer.Groups[0].Nodes[i].Sets[0].IDs, n.Sets[0].IDs)
			must.Len(t, q.GPUs, n.Sets[0].IDs)
		}
	})
}
