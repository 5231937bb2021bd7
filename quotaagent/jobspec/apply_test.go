package jobspec

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

var escape = Constraint{LTarget: "${node.unique.id}", Operand: "is_set"}

func TestApply_addsAtTheEndAndChangesNothingElse(t *testing.T) {
	t.Parallel()
	affinity := Affinity{LTarget: "${node.unique.id}", RTarget: "n1", Operand: "=", Weight: -100}
	cases := map[string]struct {
		group string
		patch GroupPatch
		want  string
	}{
		"a missing list": {
			`{"Name":"g","Future":1.50}`, GroupPatch{Group: "g", Constraints: []Constraint{escape}},
			`{"Name":"g","Future":1.50,"Constraints":[{"LTarget":"${node.unique.id}","RTarget":"","Operand":"is_set"}]}`,
		},
		"a null list": {
			`{"Name":"g","Affinities":null}`, GroupPatch{Group: "g", Affinities: []Affinity{affinity}},
			`{"Name":"g","Affinities":[{"LTarget":"${node.unique.id}","RTarget":"n1","Operand":"=","Weight":-100}]}`,
		},
		"a list in another case": {
			`{"name":"g","constraints":[{"X":1}]}`, GroupPatch{Group: "g", Constraints: []Constraint{escape}},
			`{"name":"g","constraints":[{"X":1},{"LTarget":"${node.unique.id}","RTarget":"","Operand":"is_set"}]}`,
		},
		"a device block": {
			`{"Name":"g","Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"a"},{"Name":"b"}]}}]}`,
			GroupPatch{Group: "g", Devices: []DevicePatch{{Task: "t", Index: 1, Constraints: []Constraint{{"${device.ids}", "a,b", "set_contains_any"}}}}},
			`{"Name":"g","Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"a"},{"Name":"b","Constraints":[` +
				`{"LTarget":"${device.ids}","RTarget":"a,b","Operand":"set_contains_any"}]}]}}]}`,
		},
		"a device block of a sidecar": {
			`{"Name":"g","Services":[{},{"Name":"web","Connect":{"SidecarTask":{"Resources":{"Devices":[{"Name":"gpu"}]}}}}]}`,
			GroupPatch{Group: "g", Devices: []DevicePatch{{Task: "connect-proxy-web", Constraints: []Constraint{escape}}}},
			`{"Name":"g","Services":[{},{"Name":"web","Connect":{"SidecarTask":{"Resources":{"Devices":[{"Name":"gpu","Constraints":[` +
				`{"LTarget":"${node.unique.id}","RTarget":"","Operand":"is_set"}]}]}}}}]}`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wrap := func(group string) string {
				return `{"Submission":{"Source":"job {\n}"},"Job":{"ID":"a","TaskGroups":[{"Name":"other"},` + group + `],"Z":1e2}}`
			}
			doc, err := Parse([]byte(wrap(tc.group)), SubmissionLimits)
			must.NoError(t, err)
			must.NoError(t, Apply(doc, Patch{Groups: []GroupPatch{tc.patch}}))
			must.EqOp(t, wrap(tc.want), string(doc.Encode()))
		})
	}
}

func TestApply_refusesWhatIsNotThere(t *testing.T) {
	t.Parallel()
	group := func(g string) string { return `{"Job":{"TaskGroups":[` + g + `]}}` }
	device := GroupPatch{Group: "g", Devices: []DevicePatch{{Task: "t", Index: 1, Constraints: []Constraint{escape}}}}
	cases := map[string]struct {
		doc   string
		patch GroupPatch
		want  string
	}{
		"no job":             {`{}`, GroupPatch{Group: "g"}, "the document has no Job object"},
		"no groups":          {`{"Job":{}}`, GroupPatch{Group: "g"}, `patch task group "g": TaskGroups has no such entry`},
		"no such group":      {group(`{"Name":"h"}`), GroupPatch{Group: "g"}, `patch task group "g": TaskGroups has no such entry`},
		"two of that name":   {group(`{"Name":"g"},{"Name":"g"}`), GroupPatch{Group: "g"}, `TaskGroups has two entries of that name`},
		"no such task":       {group(`{"Name":"g","Tasks":[]}`), device, `device 1 of task "t": Tasks has no such entry`},
		"no such block":      {group(`{"Name":"g","Tasks":[{"Name":"t","Resources":{"Devices":[{}]}}]}`), device, `the task has no such device block`},
		"a null block":       {group(`{"Name":"g","Tasks":[{"Name":"t","Resources":{"Devices":[{},null]}}]}`), device, `the device block is not an object`},
		"constraints a word": {group(`{"Name":"g","Constraints":"x"}`), GroupPatch{Group: "g", Constraints: []Constraint{escape}}, `Constraints is not a list`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc, err := Parse([]byte(tc.doc), SubmissionLimits)
			must.NoError(t, err)
			must.ErrorContains(t, Apply(doc, Patch{Groups: []GroupPatch{tc.patch}}), tc.want)
		})
	}
}

func TestApply_anEmptyPatchChangesNothing(t *testing.T) {
	t.Parallel()
	doc, err := Parse([]byte(`{"no":"job"}`), SubmissionLimits)
	must.NoError(t, err)
	must.NoError(t, Apply(doc, Patch{}))
	must.EqOp(t, `{"no":"job"}`, string(doc.Encode()))
}

// The oracle does the same through api.Job, for jobs that api.Job can hold.
func TestApply_equalsTheSameEditThroughTheTypedJob(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		job := genJob(t)
		raw, err := json.Marshal(api.JobRegisterRequest{Job: job})
		must.NoError(t, err)
		doc, request, err := ParseRegister(raw)
		must.NoError(t, err)
		patch := genPatch(t, job)
		must.NoError(t, Apply(doc, patch))
		applyTyped(request.Job, patch)
		var got api.JobRegisterRequest
		must.NoError(t, doc.Decode(&got))
		must.Eq(t, request.Job, got.Job)
	})
}

func genPatch(t *rapid.T, job *api.Job) Patch {
	var patch Patch
	for _, g := range job.TaskGroups {
		gp := GroupPatch{Group: *g.Name}
		for range rapid.IntRange(0, 2).Draw(t, "constraints") {
			gp.Constraints = append(gp.Constraints, Constraint{LTarget: rapid.String().Draw(t, "l"), Operand: "=", RTarget: "<&>"})
		}
		if rapid.Bool().Draw(t, "affinity") {
			gp.Affinities = []Affinity{{LTarget: "l", Operand: "=", Weight: rapid.IntRange(-100, 100).Draw(t, "weight")}}
		}
		for _, task := range g.Tasks {
			for i := range task.Resources.Devices {
				gp.Devices = append(gp.Devices, DevicePatch{Task: task.Name, Index: i, Constraints: []Constraint{escape}})
			}
		}
		patch.Groups = append(patch.Groups, gp)
	}
	return patch
}

func applyTyped(job *api.Job, patch Patch) {
	typed := func(cs []Constraint) (out []*api.Constraint) {
		for _, c := range cs {
			// JSON holds no broken UTF-8.
			out = append(out, api.NewConstraint(strings.ToValidUTF8(c.LTarget, "\ufffd"), c.Operand, c.RTarget))
		}
		return out
	}
	for _, gp := range patch.Groups {
		g := job.LookupTaskGroup(gp.Group)
		g.Constraints = append(g.Constraints, typed(gp.Constraints)...)
		for _, a := range gp.Affinities {
			g.Affinities = append(g.Affinities, api.NewAffinity(a.LTarget, a.Operand, a.RTarget, int8(a.Weight)))
		}
		for _, dp := range gp.Devices {
			for _, task := range g.Tasks {
				if task.Name == dp.Task {
					d := task.Resources.Devices[dp.Index]
					d.Constraints = append(d.Constraints, typed(dp.Constraints)...)
				}
			}
		}
	}
}

func TestApplyDropsConstraintsOnATarget(t *testing.T) {
	t.Parallel()
	doc, _, err := ParseRegister([]byte(`{"Job":{"ID":"x","Constraints":[{"LTarget":"${meta.a}"}],"TaskGroups":[
		{"Name":"g","Constraints":[{"LTarget":"${meta.a}","RTarget":"1"},{"LTarget":"${meta.b}"},{"RTarget":"none"}]},
		{"Name":"h","Constraints":null},{"Name":"i"}]}}`))
	must.NoError(t, err)
	must.NoError(t, Apply(doc, Patch{Drop: "${meta.a}", Groups: []GroupPatch{{Group: "g", Constraints: []Constraint{{LTarget: "${meta.a}", RTarget: "2", Operand: "="}}}}}))
	must.Eq(t, `{"Job":{"ID":"x","Constraints":[{"LTarget":"${meta.a}"}],"TaskGroups":[`+
		`{"Name":"g","Constraints":[{"LTarget":"${meta.b}"},{"RTarget":"none"},{"LTarget":"${meta.a}","RTarget":"2","Operand":"="}]},`+
		`{"Name":"h","Constraints":null},{"Name":"i"}]}}`, string(doc.Encode()))
}
