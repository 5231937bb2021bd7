package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
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
			must.Eq(t, c.want, unchanged(gate.Submission{Job: c.submitted, Stored: c.stored}, c.patch))
		})
	}
}

// The pairs are what `nomad job run -output` printed and what Nomad 1.11.3 then
// had registered. Each edit makes that Nomad register a new version.
func TestUnchangedOnWhatNomadRegisters(t *testing.T) {
	t.Parallel()
	parallel, delay := 2, time.Duration(0)
	edits := map[string]struct {
		edit func(s *gate.Submission)
		want bool
	}{
		"nothing":           {func(*gate.Submission) {}, true},
		"an empty list":     {func(s *gate.Submission) { s.Job.Constraints = append([]*api.Constraint{}, s.Job.Constraints...) }, true},
		"an empty map":      {func(s *gate.Submission) { s.Job.TaskGroups[0].Meta = map[string]string{} }, true},
		"another submitter": {func(s *gate.Submission) { s.Identity.Accessor = "b" }, false},
		"no token":          {func(s *gate.Submission) { s.Identity = gate.Identity{Names: []string{gate.NameAnonymous}} }, false},
		"an empty block":    {func(s *gate.Submission) { s.Job.UI = &api.JobUIConfig{} }, false},
		"an empty tag":      {func(s *gate.Submission) { s.Job.VersionTag = &api.JobVersionTag{} }, false},
		"a tag is gone":     {func(s *gate.Submission) { s.Stored.VersionTag = &api.JobVersionTag{Name: "v1"} }, false},
		"an empty payload":  {func(s *gate.Submission) { s.Job.Payload = []byte{} }, false},
		"a delay of zero":   {func(s *gate.Submission) { s.Job.TaskGroups[0].ShutdownDelay = &delay }, false},
		"an empty argument": {func(s *gate.Submission) { s.Job.TaskGroups[0].Tasks[0].Config["args"] = []any{} }, false},
		"a null setting":    {func(s *gate.Submission) { s.Job.TaskGroups[0].Tasks[0].Config["x"] = nil }, false},
		"other updates":     {func(s *gate.Submission) { s.Job.Update = &api.UpdateStrategy{MaxParallel: &parallel} }, false},
	}
	for _, kind := range []string{"batch", "service"} {
		for name, c := range edits {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				raw, err := os.ReadFile(filepath.Join("testdata", "again_"+kind+".json"))
				must.NoError(t, err)
				var pair struct{ Submitted, Stored *api.Job }
				must.NoError(t, json.Unmarshal(raw, &pair))
				pair.Submitted.Namespace, pair.Submitted.Region = pair.Stored.Namespace, pair.Stored.Region // as the gate resolves them
				pair.Submitted.Canonicalize()
				s := gate.Submission{Job: pair.Submitted, Stored: pair.Stored}
				c.edit(&s)
				must.Eq(t, c.want, unchanged(s, jobspec.Patch{}))
			})
		}
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
	stored.NomadTokenID = &again.Identity.Accessor
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
