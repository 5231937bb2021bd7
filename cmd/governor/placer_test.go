package main

import (
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/nomad-governor/governor/scheduler/rewrite"
)

func TestOffered_onlyAPinNarrowsWhatABlockCanEndUpWith(t *testing.T) {
	t.Parallel()
	const model = "nvidia/gpu/Tesla V100"
	offer := cluster.Offer{Groups: []cluster.GroupOffer{{Group: "g", Nodes: []cluster.NodeOffer{{
		Sets: []cluster.Set{{Task: "t", Index: 1, Device: model, IDs: []string{"GPU-1"}}},
	}}}}}
	pin := rewrite.GroupPatch{Group: "g", Devices: []rewrite.DevicePatch{{Task: "t", Index: 1,
		Constraints: []cluster.Constraint{{LTarget: cluster.TargetDeviceIDs, Operand: "set_contains_any", RTarget: "GPU-1"}}}}}
	snapshot := cluster.Snapshot{Nodes: []cluster.Node{{Groups: []cluster.Group{
		{Vendor: "nvidia", Type: "gpu", Model: "Tesla V100", Devices: []cluster.Device{{ID: "GPU-1"}}},
	}}}}
	cases := map[string]struct {
		patch rewrite.Patch
		block jobspec.DeviceAsk
		want  []string
	}{
		"pinned to the offer":           {rewrite.Patch{Groups: []rewrite.GroupPatch{pin}}, jobspec.DeviceAsk{Task: "t", Index: 1}, []string{model}},
		"a pin that stays":              {rewrite.Patch{Groups: []rewrite.GroupPatch{pin}, Kept: []string{"g"}}, jobspec.DeviceAsk{Task: "t", Index: 1}, []string{model}},
		"another block":                 {rewrite.Patch{Groups: []rewrite.GroupPatch{pin}}, jobspec.DeviceAsk{Task: "t"}, nil},
		"only a preference of the node": {rewrite.Patch{Groups: []rewrite.GroupPatch{{Group: "g"}}}, jobspec.DeviceAsk{Task: "t", Index: 1}, nil},
		"nothing added":                 {rewrite.Patch{}, jobspec.DeviceAsk{Task: "t", Index: 1}, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.Eq(t, tc.want, offered(offer, tc.patch, snapshot)("g", tc.block))
		})
	}
}

func TestModeOf_theAuthorThenTheBudgetThenThePoolThenTheAgent(t *testing.T) {
	t.Parallel()
	p := &placer{mode: "require", pools: map[string]string{"batch": "off", "default": "prefer"}}
	cases := map[string]struct {
		says     string
		how      agent.Placing
		pool     *string
		mode, by string
	}{
		"the author":         {says: "off", how: agent.Placing{Mode: "prefer", Budget: "acme"}, pool: new("batch"), mode: "off", by: "the job's meta"},
		"the budget":         {how: agent.Placing{Mode: "prefer", Budget: "acme"}, pool: new("batch"), mode: "prefer", by: "budget acme"},
		"the pool":           {pool: new("batch"), mode: "off", by: "the agent's configuration for node pool batch"},
		"the default pool":   {mode: "prefer", by: "the agent's configuration for node pool default"},
		"no name is default": {pool: new(""), mode: "prefer", by: "the agent's configuration for node pool default"},
		"another pool":       {pool: new("all"), mode: "require", by: "the agent's configuration"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := gate.Submission{Job: &api.Job{NodePool: c.pool}}
			if c.says != "" {
				s.Ask.Meta = map[string]string{admission.PlacementMeta: c.says}
			}
			mode, by := p.modeOf(s, c.how)
			must.Eq(t, c.mode, mode)
			must.Eq(t, c.by, by)
		})
	}
}

func TestModerate_whatTheModeDoesNotWantIsNotOffered(t *testing.T) {
	t.Parallel()
	offered := func() (cluster.Offer, place.Explanation) {
		return cluster.Offer{Groups: []cluster.GroupOffer{{Group: "g", Preferred: "n1", Nodes: []cluster.NodeOffer{{NodeID: "n1"}}}}},
			place.Explanation{Groups: []place.GroupExplanation{{Group: "g", Preferred: "n1 before n2"}}}
	}
	job := func(mode string) *api.Job { return &api.Job{Meta: map[string]string{admission.PlacementMeta: mode}} }
	cases := map[string]struct {
		agents, says string
		stored       *api.Job
		preferred    string
		nodes        int
		again        []string
	}{
		"the agent's":                      {agents: "require", preferred: "n1", nodes: 1},
		"the agent's is another":           {agents: "prefer", preferred: "n1"},
		"the author's comes first":         {agents: "off", says: "require", preferred: "n1", nodes: 1},
		"off":                              {agents: "require", says: "off"},
		"prefer":                           {agents: "require", says: "prefer", preferred: "n1"},
		"one that is wrong is the agent's": {agents: "require", says: "best", preferred: "n1", nodes: 1},
		"changed to off":                   {agents: "require", says: "off", stored: job("require"), again: []string{"g"}},
		"changed back":                     {agents: "require", says: "require", stored: job("off"), preferred: "n1", nodes: 1, again: []string{"g"}},
		"as before":                        {agents: "require", says: "prefer", stored: job("prefer"), preferred: "n1"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := gate.Submission{Stored: c.stored}
			if c.says != "" {
				s.Ask.Meta = map[string]string{admission.PlacementMeta: c.says}
			}
			offer, why := offered()
			got, again := (&placer{mode: c.agents}).moderate(s, agent.Placing{}, offer, &why)
			must.Eq(t, c.again, again)
			must.Eq(t, c.preferred, got.Groups[0].Preferred)
			must.Eq(t, c.nodes, len(got.Groups[0].Nodes))
			must.Eq(t, c.nodes == 0, why.Groups[0].Unpinned != "")
			must.Eq(t, c.preferred != "", why.Groups[0].Preferred != "")
			must.Eq(t, 1, len(offer.Groups[0].Nodes), must.Sprint("the offer itself is not changed"))
		})
	}
}
