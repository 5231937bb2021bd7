package jobspec

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/quotaagent/budget"
)

func TestFacts_sayWhatTheJobAsksFor(t *testing.T) {
	t.Parallel()
	ask := extract(t, `{"ID":"a","Name":"nightly","Type":"batch","Priority":70,"NodePool":"gpu","Datacenters":["dc1"],"Meta":{"team":"x"},
		"TaskGroups":[{"Name":"g","Count":2,"Tasks":[{"Name":"t","Resources":{"Devices":[
		{"Name":"nvidia/gpu","Count":2,"Constraints":[{"LTarget":"${device.model}","Operand":"=","RTarget":"H100"},
			{"LTarget":"${device.attr.memory}","Operand":">","RTarget":"40 GiB"}]},
		{"Name":"nvidia/mig/1g.10gb"},{"Name":"gpu","Constraints":[{"LTarget":"A100","Operand":"is","RTarget":"${device.model}"}]}]}}]}]}`)
	must.Eq(t, budget.JobFacts{
		ID: "a", Name: "nightly", Namespace: "default", Region: "global", Type: "batch", NodePool: "gpu", Priority: 70, GPUs: 8,
		Datacenters: []string{"dc1"}, Meta: map[string]string{"team": "x"},
		Devices: []budget.DeviceFacts{
			{Group: "g", Task: "t", Name: "nvidia/gpu", Vendor: "nvidia", Type: "gpu", Model: "H100", Count: 2},
			{Group: "g", Task: "t", Name: "nvidia/mig/1g.10gb", Vendor: "nvidia", Type: "mig", Model: "1g.10gb", Count: 1},
			{Group: "g", Task: "t", Name: "gpu", Type: "gpu", Model: "A100", Count: 1},
		},
	}, ask.Facts())
}

func TestFacts_boundMeta(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3000)
	got := Ask{Meta: map[string]string{"a": long, "b": long + "y", "c": "1", "governor_budget": long}}.Facts().Meta
	must.Eq(t, map[string]string{"c": "1", "governor_budget": long}, got)
	got = Ask{Meta: map[string]string{"a": long, "b": long}}.Facts().Meta
	must.Eq(t, map[string]string{"a": long}, got)
}

func TestFacts_metaNeverExceedsItsBoundForOthers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		meta := rapid.MapOfN(rapid.StringN(0, 20, 40), rapid.StringN(0, 3000, 6000), 0, 8).Draw(t, "meta")
		own := rapid.StringN(0, 100, 200).Draw(t, "own")
		meta[ownMeta+"x"] = own
		kept := Ask{Meta: meta}.Facts().Meta
		size := 0
		for k, v := range kept {
			must.EqOp(t, meta[k], v)
			size += len(k) + len(v)
		}
		must.EqOp(t, own, kept[ownMeta+"x"])
		must.LessEq(t, metaMax, size)
	})
}

func TestMayServe(t *testing.T) {
	t.Parallel()
	model := func(operand, text string) Constraint {
		return Constraint{LTarget: "${device.model}", Operand: operand, RTarget: text}
	}
	cases := []struct {
		name string
		c    []Constraint
		want bool
	}{
		{"nvidia/gpu", nil, true},
		{"nvidia/mig", nil, false},
		{"nvidia/gpu/H100", nil, true},
		{"gpu", []Constraint{model("=", "H100")}, true},
		{"gpu", []Constraint{model("=", "A100")}, false},
		{"gpu", []Constraint{{LTarget: "A100", Operand: "==", RTarget: "${device.model}"}}, false},
		{"gpu", []Constraint{model("!=", "H100")}, false},
		{"gpu", []Constraint{model("regexp", "^H")}, true},
		{"gpu", []Constraint{model("regexp", "^A")}, false},
		{"gpu", []Constraint{model("regexp", "(")}, true},
		{"gpu", []Constraint{model("set_contains_any", "A100, H100")}, true},
		{"gpu", []Constraint{model("set_contains_any", "A100,L4")}, false},
		{"gpu", []Constraint{model("version", ">1")}, true},
		{"gpu", []Constraint{model("=", "${meta.model}")}, true},
		{"gpu", []Constraint{{LTarget: "${device.vendor}", Operand: "is", RTarget: "amd"}}, false},
	}
	for _, tc := range cases {
		t.Run(fmt.Sprint(tc.name, tc.c), func(t *testing.T) {
			t.Parallel()
			must.EqOp(t, tc.want, DeviceAsk{Name: tc.name, Constraints: tc.c}.MayServe("nvidia", "gpu", "H100"))
		})
	}
}
