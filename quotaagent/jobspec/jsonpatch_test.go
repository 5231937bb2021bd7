package jobspec

import (
	"encoding/json"
	"testing"

	"github.com/shoenig/test/must"
)

func TestOperations_saysWhatAPatchChanges(t *testing.T) {
	t.Parallel()
	const job = `{"ID":"a","Future~/x":1.50,"TaskGroups":[{"Name":"g","Constraints":null,"Affinities":[{"LTarget":"a","Weight":50}],` +
		`"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"nvidia/gpu"},{"Name":"nvidia/gpu","Constraints":[{"LTarget":"x"}]}]}}]},{"Name":"h"}]}`
	stored, err := ParseStored(json.RawMessage(job))
	must.NoError(t, err)
	none, err := stored.Operations(Patch{})
	must.NoError(t, err)
	must.SliceEmpty(t, none)
	got, err := stored.Operations(Patch{Groups: []GroupPatch{
		{Group: "g", Constraints: []Constraint{{LTarget: "${node.unique.id}", Operand: "is_set"}}, Affinities: []Affinity{{LTarget: "n", RTarget: "1", Operand: "is", Weight: 100}},
			Devices: []DevicePatch{{Task: "t", Index: 1, Constraints: []Constraint{{LTarget: "${device.ids}", RTarget: "b", Operand: "set_contains_any"}}}}},
		{Group: "h", Constraints: []Constraint{{LTarget: "l", RTarget: "r", Operand: "="}}},
	}})
	must.NoError(t, err)
	text, err := json.MarshalIndent(got, "", " ")
	must.NoError(t, err)
	must.EqOp(t, `[
 {
  "op": "add",
  "path": "/TaskGroups/0/Constraints",
  "value": [
   {
    "LTarget": "${node.unique.id}",
    "RTarget": "",
    "Operand": "is_set"
   }
  ]
 },
 {
  "op": "add",
  "path": "/TaskGroups/0/Affinities",
  "value": [
   {
    "LTarget": "a",
    "Weight": 50
   },
   {
    "LTarget": "n",
    "RTarget": "1",
    "Operand": "is",
    "Weight": 100
   }
  ]
 },
 {
  "op": "add",
  "path": "/TaskGroups/0/Tasks/0/Resources/Devices/1/Constraints",
  "value": [
   {
    "LTarget": "x"
   },
   {
    "LTarget": "${device.ids}",
    "RTarget": "b",
    "Operand": "set_contains_any"
   }
  ]
 },
 {
  "op": "add",
  "path": "/TaskGroups/1/Constraints",
  "value": [
   {
    "LTarget": "l",
    "RTarget": "r",
    "Operand": "="
   }
  ]
 }
]`, string(text))
}

func TestUnpinned_takesOutWhatPlacementWrote(t *testing.T) {
	t.Parallel()
	const plain = `{"ID":"a","TaskGroups":[{"Name":"g","Constraints":[{"LTarget":"k","Operand":"="}],"Affinities":[],"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"gpu","Constraints":[]}]}}]}]}`
	stored, err := ParseStored(json.RawMessage(plain))
	must.NoError(t, err)
	same, changed, err := stored.Unpinned()
	must.NoError(t, err)
	must.False(t, changed)
	must.EqOp(t, stored.Job, same.Job)
	pinned, err := stored.With(Patch{Groups: []GroupPatch{{Group: "g", Constraints: []Constraint{{LTarget: nodeTarget, Operand: escapeOperand}},
		Affinities: []Affinity{{LTarget: nodeTarget, RTarget: "n1", Operand: preferredOperand, Weight: 100}},
		Devices:    []DevicePatch{{Task: "t", Constraints: []Constraint{{LTarget: devicesTarget, RTarget: "x,y", Operand: pinOperand}}}}}}})
	must.NoError(t, err)
	again, err := ParseStored(pinned)
	must.NoError(t, err)
	clean, changed, err := again.Unpinned()
	must.NoError(t, err)
	must.True(t, changed)
	raw, err := clean.job()
	must.NoError(t, err)
	must.EqOp(t, plain, string(raw))

	// A pin without the escape that always goes with it is somebody else's.
	theirs, err := ParseStored(json.RawMessage(`{"ID":"a","TaskGroups":[{"Name":"g","Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"gpu","Constraints":[{"LTarget":"${device.ids}","RTarget":"x","Operand":"set_contains_any"}]}]}}]}]}`))
	must.NoError(t, err)
	_, changed, err = theirs.Unpinned()
	must.NoError(t, err)
	must.False(t, changed)
}
