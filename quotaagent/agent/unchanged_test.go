package agent

import (
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/shoenig/test/must"
)

// job is a canonical job with one GPU group; pinned has the placement's
// constraints.
func specOf(image string, pinned bool) *api.Job {
	count := uint64(1)
	device := &api.RequestedDevice{Name: "nvidia/gpu", Count: &count}
	task := &api.Task{Name: "t", Driver: "docker", Config: map[string]any{"image": image}, Resources: &api.Resources{Devices: []*api.RequestedDevice{device}}}
	group := api.NewTaskGroup("g", 1).AddTask(task)
	job := api.NewBatchJob("train", "train", "global", 50).AddTaskGroup(group)
	if pinned {
		group.Constrain(api.NewConstraint("${node.unique.id}", "is_set", ""))
		device.Constraints = []*api.Constraint{api.NewConstraint("${device.ids}", "set_contains_any", "GPU-1")}
	}
	job.Canonicalize()
	return job
}

// with adds an entry that is empty, which Nomad takes for a change all the same.
func with(job *api.Job, field string) *api.Job {
	task := job.TaskGroups[0].Tasks[0]
	switch field {
	case "Env":
		task.Env = map[string]string{"X": ""}
	case "Config":
		task.Config["privileged"] = false
	case "Meta":
		job.Meta = map[string]string{"x": ""}
	}
	return job
}

func patchOf() jobspec.Patch {
	return jobspec.Patch{Groups: []jobspec.GroupPatch{{Group: "g",
		Constraints: []jobspec.Constraint{{LTarget: "${node.unique.id}", Operand: "is_set"}},
		Devices: []jobspec.DevicePatch{{Task: "t", Index: 0,
			Constraints: []jobspec.Constraint{{LTarget: "${device.ids}", Operand: "set_contains_any", RTarget: "GPU-1"}}}}}}}
}

func registered(job *api.Job) *api.Job {
	status, index, stable := "running", uint64(42), true
	job.Status, job.JobModifyIndex, job.ModifyIndex, job.Stable = &status, &index, &index, &stable
	job.Affinities = []*api.Affinity{} // as the server may write an empty list
	return job
}

func TestUnchanged(t *testing.T) {
	t.Parallel()
	other := patchOf()
	other.Groups[0].Devices[0].Constraints[0].RTarget = "GPU-2"
	lost := patchOf()
	lost.Groups[0].Group = "no such group"
	stopped := registered(specOf("a", true))
	stop := true
	stopped.Stop = &stop
	cases := map[string]struct {
		submitted, stored *api.Job
		patch             jobspec.Patch
		want              bool
	}{
		"the same with its placement":  {specOf("a", false), registered(specOf("a", true)), patchOf(), true},
		"the same without a placement": {specOf("a", false), registered(specOf("a", false)), jobspec.Patch{}, true},
		"another placement":            {specOf("a", false), registered(specOf("a", true)), other, false},
		"its placement is gone":        {specOf("a", false), registered(specOf("a", true)), jobspec.Patch{}, false},
		"another image":                {specOf("b", false), registered(specOf("a", true)), patchOf(), false},
		"a patch that fits nowhere":    {specOf("a", false), registered(specOf("a", true)), lost, false},
		"stopped meanwhile":            {specOf("a", false), stopped, patchOf(), false},
		"an empty variable more":       {with(specOf("a", false), "Env"), registered(specOf("a", false)), jobspec.Patch{}, false},
		"an empty variable less":       {specOf("a", false), registered(with(specOf("a", false), "Env")), jobspec.Patch{}, false},
		"an empty setting more":        {with(specOf("a", false), "Config"), registered(specOf("a", false)), jobspec.Patch{}, false},
		"empty metadata more":          {with(specOf("a", false), "Meta"), registered(specOf("a", false)), jobspec.Patch{}, false},
		"the same empty variable":      {with(specOf("a", false), "Env"), registered(with(specOf("a", false), "Env")), jobspec.Patch{}, true},
		"nothing registered":           {specOf("a", false), nil, patchOf(), false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.Eq(t, c.want, unchanged(c.submitted, c.stored, c.patch))
		})
	}
}

// The limit is just enough for the job. It has run for half an hour, and the
// same file is submitted again: nothing starts again, so nothing more is held.
func TestTheSameFileAgainNeedsNoRoomForASecondRun(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.edit(testPolicy(8, "8.1"))
	s := r.job("train", 1, 8)
	s.Job = specOf("a", false)
	must.False(t, r.run(s).Denied)
	r.nomad.start("default", "train", 0, 8)
	r.clock.advance(30 * time.Minute)
	must.NoError(t, r.settle())
	before := r.balance("acme").Held

	again := r.job("train", 1, 8)
	again.Job = specOf("a", false)
	stored := registered(specOf("a", false))
	stored.JobModifyIndex, stored.ModifyIndex = again.Stored.JobModifyIndex, again.Stored.ModifyIndex
	again.Stored = stored
	v := r.admit(again)
	must.False(t, v.Denied, must.Sprint(v.Message))
	must.Eq(t, before, r.balance("acme").Held)
	r.accept(again, v, true)
	must.Eq(t, before, r.balance("acme").Held)

	again.Job = specOf("b", false)
	must.True(t, r.admit(again).Denied, must.Sprint("a changed job starts again"))
}
