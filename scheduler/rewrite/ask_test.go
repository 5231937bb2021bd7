package rewrite_test

import (
	"encoding/json"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/rewrite"
	"github.com/shoenig/test/must"
)

func TestAskReadsWhatPlacementNeeds(t *testing.T) {
	t.Parallel()
	job := gpuJob()
	job.Datacenters = []string{"dc*"}
	job.Constrain(api.NewConstraint("${attr.kernel.name}", "=", "linux"))
	group := job.TaskGroups[0]
	group.Constrain(api.NewConstraint("", "distinct_hosts", "true"))
	group.Update = &api.UpdateStrategy{Canary: new(1)}
	group.Scaling = &api.ScalingPolicy{Max: new(int64(5))}
	main := group.Tasks[0]
	main.Resources.CPU, main.Resources.MemoryMB = new(2000), new(4096)
	main.Resources.Devices = append([]*api.RequestedDevice{{Name: "intel/fpga"}}, main.Resources.Devices...)
	prestart := api.NewTask("prepare", "docker")
	prestart.Lifecycle = &api.TaskLifecycle{Hook: api.TaskLifecycleHookPrestart}
	group.AddTask(prestart)
	job.AddTaskGroup(api.NewTaskGroup("web", 3)) // asks for no GPU

	ask := rewrite.AskOf(job)
	must.Eq(t, cluster.Ask{Namespace: "default", JobID: "train", Type: "batch", Datacenters: []string{"dc*"},
		Groups: []cluster.GroupAsk{{
			Name: "g", Count: 1, Canaries: 1, CountMax: 5, DistinctHosts: true, Drivers: []string{"docker", "exec"},
			Constraints: []cluster.Constraint{
				{LTarget: "${attr.kernel.name}", Operand: "=", RTarget: "linux"}, {Operand: "distinct_hosts", RTarget: "true"}},
			CPU: 2000, MemoryMiB: 4096,
			Devices: []cluster.DeviceAsk{{Task: "main", Index: 1, Name: "nvidia/gpu", Count: 2}},
		}}}, ask)

	job.Periodic = &api.PeriodicConfig{}
	must.True(t, rewrite.AskOf(job).Template)
}

func TestDistinctHostsCanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{"": true, "true": true, "yes": true, "false": false, "0": false} {
		job := gpuJob()
		job.Constrain(api.NewConstraint("", "distinct_hosts", value))
		must.Eq(t, want, rewrite.AskOf(job).Groups[0].DistinctHosts, must.Sprintf("value %q", value))
	}
}

// FuzzRewrite feeds it whatever decodes as a job: it must not panic, and be
// deterministic.
func FuzzRewrite(f *testing.F) {
	raw, err := json.Marshal(gpuJob())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(raw), string(raw))
	f.Add(`{"TaskGroups":[null,{"Tasks":[null,{"Resources":{"Devices":[null]},"Templates":[null],"Artifacts":[null],"VolumeMounts":[null]}],"Volumes":{"a":null}}]}`, `{}`)
	f.Add(`{"ID":null,"TaskGroups":[{"Name":"g","Affinities":[null],"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"gpu","Affinities":[null],"Constraints":[null]}]}}]}]}`,
		`{"TaskGroups":[{"Name":"g","Affinities":[null],"Tasks":[null,{"Name":"t","Resources":{"Devices":[{"Name":"gpu","Affinities":[null]}]}}]}]}`)
	f.Fuzz(func(t *testing.T, submitted, stored string) {
		var a, b api.Job
		if json.Unmarshal([]byte(submitted), &a) != nil || json.Unmarshal([]byte(stored), &b) != nil {
			return
		}
		in := rewrite.Input{Submitted: &a, Stored: &b, Offer: offerOf(&api.Job{}, "")}
		must.Eq(t, rewrite.Rewrite(in), rewrite.Rewrite(in))
	})
}
