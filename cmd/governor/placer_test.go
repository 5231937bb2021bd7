package main

import (
	"testing"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/rewrite"
	"github.com/shoenig/test/must"
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
