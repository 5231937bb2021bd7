package jobspec

import (
	"encoding/json"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

func gatedJob(groups ...[]*api.Constraint) *api.Job {
	job := api.NewBatchJob("train", "train", "global", 50)
	for i, constraints := range groups {
		g := api.NewTaskGroup(string(rune('a'+i)), 1)
		g.Constraints = constraints
		job.TaskGroups = append(job.TaskGroups, g)
	}
	return job
}

func TestAJobIsGatedWhenNoGroupCanStart(t *testing.T) {
	t.Parallel()
	gate := []*api.Constraint{api.NewConstraint("${attr.kernel.name}", "=", "linux"), api.NewConstraint(GateTarget, "=", "held by governor: x")}
	must.False(t, Gated(nil))
	must.False(t, Gated(gatedJob()))
	must.False(t, Gated(gatedJob(gate, nil)), must.Sprint("one group can start"))
	must.True(t, Gated(gatedJob(gate, gate)))

	closed := gatedJob(gate, nil)
	open, had := Ungated(closed)
	must.True(t, had)
	must.Len(t, 1, open.TaskGroups[0].Constraints)
	must.Len(t, 2, closed.TaskGroups[0].Constraints, must.Sprint("the job itself stays"))
	same, had := Ungated(open)
	must.False(t, had)
	must.True(t, same == open)
}

func TestTheGateIsOneConstraintForEachGroup(t *testing.T) {
	t.Parallel()
	stored, err := ParseStored(json.RawMessage(`{"ID":"train","Unknown":{"x":1.0},"TaskGroups":[
		{"Name":"a","Constraints":[{"LTarget":"${meta.governor_gate}","RTarget":"old","Operand":"="}]},{"Name":"b","Constraints":null}]}`))
	must.NoError(t, err)
	raw, err := stored.With(Gate(stored.Job, "waits for budget acme"))
	must.NoError(t, err)
	constraint := `{"LTarget":"${meta.governor_gate}","RTarget":"held by governor: waits for budget acme","Operand":"="}`
	must.EqJSON(t, `{"ID":"train","Unknown":{"x":1.0},"TaskGroups":[{"Name":"a","Constraints":[`+constraint+`]},{"Name":"b","Constraints":[`+constraint+`]}]}`, string(raw))

	again, err := ParseStored(raw)
	must.NoError(t, err)
	must.True(t, Gated(again.Job))
	open, err := again.With(Patch{Drop: GateTarget})
	must.NoError(t, err)
	must.EqJSON(t, `{"ID":"train","Unknown":{"x":1.0},"TaskGroups":[{"Name":"a","Constraints":[]},{"Name":"b","Constraints":[]}]}`, string(open))
}

func TestAStoppedJobKeepsEverythingElse(t *testing.T) {
	t.Parallel()
	stored, err := ParseStored(json.RawMessage(`{"ID":"train","Stop":false,"Meta":{"a":"b"},"TaskGroups":[{"Name":"a"}]}`))
	must.NoError(t, err)
	raw, err := stored.Stopped(Patch{})
	must.NoError(t, err)
	must.EqJSON(t, `{"ID":"train","Stop":true,"Meta":{"a":"b"},"TaskGroups":[{"Name":"a"}]}`, string(raw))
	_, err = ParseStored(json.RawMessage(`null`))
	must.ErrorContains(t, err, "read a job of Nomad")
}
