package jobspec

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func parseJob(t *testing.T, raw string) *api.Job {
	t.Helper()
	var j api.Job
	must.NoError(t, json.Unmarshal([]byte(raw), &j))
	return &j
}

func extract(t *testing.T, raw string) Ask {
	t.Helper()
	ask, err := Extract(parseJob(t, raw), Defaults{Region: "global", Namespace: "default"})
	must.NoError(t, err)
	return ask
}

// gpuTask is a task with one device block.
func gpuTask(name, device, extra string) string {
	return fmt.Sprintf(`{"Name":%q%s,"Resources":{"Devices":[{"Name":%q}]}}`, name, extra, device)
}

func TestExtract_defaultsAreNomads(t *testing.T) {
	t.Parallel()
	ask := extract(t, `{"ID":"a","TaskGroups":[{"Name":"g","Tasks":[`+gpuTask("t", "nvidia/gpu", "")+`]}]}`)
	must.Eq(t, Ask{
		Region: "global", Namespace: "default", JobID: "a", Name: "a", Type: "service", NodePool: "default", Priority: 50,
		Groups: []GroupAsk{{
			Name: "g", Count: 1, MaxParallel: 1, KillTimeout: 5 * time.Second, UnlimitedReschedules: true,
			Devices: []DeviceAsk{{Task: "t", Index: 0, Name: "nvidia/gpu", Count: 1}},
		}},
	}, ask)
}

func TestExtract_readsEverythingThatCounts(t *testing.T) {
	t.Parallel()
	ask := extract(t, `{"ID":"a","Type":"service","Meta":{"team":"x"},"Update":{"Canary":2},"TaskGroups":[
		{"Name":"cpu","Count":50,"Tasks":[{"Name":"t"}]},
		{"Name":"g","Count":3,"ShutdownDelay":7000000000,"MaxRunDuration":3600000000000,
		 "Tasks":[
		  {"Name":"a","KillTimeout":60000000000,"ShutdownDelay":9000000000,"Resources":{"Devices":[
		    {"Name":"intel/fpga","Count":9},{"Name":"nvidia/gpu/H100","Count":4},{"Name":"mig"}]}},
		  {"Name":"b","Resources":{"Devices":[{"Name":"gpu","Count":0}]}}],
		 "Services":[{"Name":"web","Connect":{"SidecarService":{},"SidecarTask":{"KillTimeout":90000000000,
		   "Resources":{"Devices":[{"Name":"gpu","Count":2}]}}}}]}]}`)
	must.Eq(t, map[string]string{"team": "x"}, ask.Meta)
	must.Eq(t, []GroupAsk{{
		Name: "g", Count: 3, Canaries: 2, MaxParallel: 1, KillTimeout: 90 * time.Second, ShutdownDelay: 9 * time.Second,
		MaxRunDuration: time.Hour, UnlimitedReschedules: true,
		Devices: []DeviceAsk{
			{Task: "a", Index: 1, Name: "nvidia/gpu/H100", Count: 4},
			{Task: "a", Index: 2, Name: "mig", Count: 1},
			{Task: "b", Index: 0, Name: "gpu", Count: 0},
			{Task: "connect-proxy-web", Index: 0, Name: "gpu", Count: 2},
		},
	}}, ask.Groups)
	must.EqOp(t, 5*7, ask.GPUs())
}

func TestExtract_countsAndReschedules(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		group, job string // fields, each with a comma before it
		want       GroupAsk
	}{
		"zero stays zero":                       {group: `,"Count":0`, want: GroupAsk{UnlimitedReschedules: true}},
		"no count takes scaling's minimum":      {group: `,"Scaling":{"Min":4}`, want: GroupAsk{Count: 4, UnlimitedReschedules: true}},
		"a negative count is zero":              {group: `,"Count":-5`, want: GroupAsk{UnlimitedReschedules: true}},
		"huge counts are bounded":               {group: `,"Count":9000000000000000000`, want: GroupAsk{Count: maxCount, UnlimitedReschedules: true}},
		"canaries of a group":                   {group: `,"Update":{"Canary":1}`, want: GroupAsk{Count: 1, Canaries: 1, UnlimitedReschedules: true}},
		"the group's canaries before the job's": {group: `,"Update":{"Canary":1}`, job: `,"Update":{"Canary":5}`, want: GroupAsk{Count: 1, Canaries: 1, UnlimitedReschedules: true}},
		"canaries of a system job are a share":  {group: `,"Update":{"Canary":50}`, job: `,"Type":"system"`, want: GroupAsk{Count: 1}},
		"a group's own reschedule policy":       {group: `,"ReschedulePolicy":{"Attempts":7,"Interval":1,"Unlimited":false}`, want: GroupAsk{Count: 1, Reschedules: 7}},
		"the job's reschedule policy":           {job: `,"Reschedule":{"Attempts":3,"Interval":1,"Unlimited":false}`, want: GroupAsk{Count: 1, Reschedules: 3}},
		"batch jobs try once more":              {job: `,"Type":"batch"`, want: GroupAsk{Count: 1, Reschedules: 1}},
		"system jobs do not reschedule":         {job: `,"Type":"system"`, want: GroupAsk{Count: 1}},
		"sysbatch jobs do not reschedule":       {job: `,"Type":"sysbatch"`, want: GroupAsk{Count: 1}},
		"a stopped job asks for nothing":        {group: `,"Count":9`, job: `,"Stop":true`, want: GroupAsk{UnlimitedReschedules: true}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ask := extract(t, `{"ID":"a","TaskGroups":[{"Name":"g","Tasks":[`+gpuTask("t", "gpu", "")+`]`+tc.group+`}]`+tc.job+`}`)
			tc.want.Name, tc.want.KillTimeout = "g", 5*time.Second
			if ask.Type == api.JobTypeService {
				tc.want.MaxParallel = min(1, tc.want.Count) // Nomad's default
			}
			tc.want.Devices = []DeviceAsk{{Task: "t", Name: "gpu", Count: 1}}
			must.Eq(t, []GroupAsk{tc.want}, ask.Groups)
		})
	}
}

func TestExtract_ownScopeWithoutDefaults(t *testing.T) {
	t.Parallel()
	ask, err := Extract(parseJob(t, `{"ID":"a","Region":"eu","Namespace":"ml","Periodic":{},"ParameterizedJob":{},
		"Name":"nightly","NodePool":"gpu","Priority":70,"Datacenters":["a","b-*"],"ParentID":"p"}`), Defaults{})
	must.NoError(t, err)
	must.Eq(t, Ask{Region: "eu", Namespace: "ml", JobID: "a", Type: "service", Periodic: true, Parameterized: true,
		Name: "nightly", NodePool: "gpu", Priority: 70, Datacenters: []string{"a", "b-*"}, ParentID: "p"}, ask)
}

func TestExtract_refusesWhatNomadCannotRead(t *testing.T) {
	t.Parallel()
	_, err := Extract(parseJob(t, `{"ID":"a","TaskGroups":[null]}`), Defaults{})
	must.ErrorContains(t, err, "TaskGroups[0] is null")
	_, err = Extract(parseJob(t, `{"ID":"a","TaskGroups":[{"Tasks":[{"Templates":[null]}]}]}`), Defaults{})
	must.ErrorContains(t, err, "the job has an empty (null) entry in one of its lists")
}

func TestExtract_leavesTheJobAlone(t *testing.T) {
	t.Parallel()
	job := parseJob(t, `{"ID":"a","TaskGroups":[{"Name":"g","Tasks":[`+gpuTask("t", "gpu", "")+`]}]}`)
	before, err := json.Marshal(job)
	must.NoError(t, err)
	_, err = Extract(job, Defaults{})
	must.NoError(t, err)
	after, err := json.Marshal(job)
	must.NoError(t, err)
	must.EqOp(t, string(before), string(after))
}

// genJob draws jobs with any mix of groups, tasks, devices and sidecars.
func genJob(t *rapid.T) *api.Job {
	id := "job"
	job := &api.Job{ID: &id}
	for i := range rapid.IntRange(0, 3).Draw(t, "groups") {
		name := fmt.Sprint("g", i)
		g := &api.TaskGroup{Name: &name}
		if rapid.Bool().Draw(t, "has count") {
			count := rapid.OneOf(rapid.IntRange(0, 5), rapid.Just(math.MaxInt)).Draw(t, "count")
			g.Count = &count
		}
		for k := range rapid.IntRange(0, 3).Draw(t, "tasks") {
			g.Tasks = append(g.Tasks, &api.Task{Name: fmt.Sprint("t", k), Resources: genResources(t)})
		}
		if rapid.Bool().Draw(t, "sidecar") {
			g.Services = []*api.Service{{Name: "s", Connect: &api.ConsulConnect{
				SidecarService: &api.ConsulSidecarService{}, SidecarTask: &api.SidecarTask{Resources: genResources(t)},
			}}}
		}
		job.TaskGroups = append(job.TaskGroups, g)
	}
	return job
}

func genResources(t *rapid.T) *api.Resources {
	r := &api.Resources{}
	for range rapid.IntRange(0, 2).Draw(t, "devices") {
		d := &api.RequestedDevice{Name: rapid.SampledFrom([]string{"gpu", "nvidia/gpu", "intel/fpga", "nvidia/", "mig"}).Draw(t, "device")}
		if rapid.Bool().Draw(t, "has device count") {
			count := rapid.OneOf(rapid.Uint64Range(0, 4), rapid.Just(uint64(math.MaxUint64))).Draw(t, "device count")
			d.Count = &count
		}
		r.Devices = append(r.Devices, d)
	}
	return r
}

func TestExtract_neverAsksForLessAfterMoreIsRequested(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		job := genJob(t)
		before, err := Extract(job, Defaults{})
		must.NoError(t, err)
		must.GreaterEq(t, 0, before.GPUs())
		extra := "extra"
		one := uint64(rapid.IntRange(1, 4).Draw(t, "more"))
		job.TaskGroups = append(job.TaskGroups, &api.TaskGroup{Name: &extra, Tasks: []*api.Task{{
			Name: "t", Resources: &api.Resources{Devices: []*api.RequestedDevice{{Name: "gpu", Count: &one}}},
		}}})
		after, err := Extract(job, Defaults{})
		must.NoError(t, err)
		must.EqOp(t, before.GPUs()+int(one), after.GPUs())
	})
}

func TestExtract_indexesPointAtTheBlocksTheyName(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		job := genJob(t)
		ask, err := Extract(job, Defaults{})
		must.NoError(t, err)
		for _, g := range ask.Groups {
			must.True(t, len(g.Devices) > 0)
			for _, d := range g.Devices {
				if strings.HasPrefix(d.Task, connectProxyPrefix) {
					continue
				}
				blocks := job.LookupTaskGroup(g.Name)
				for _, task := range blocks.Tasks {
					if task.Name == d.Task {
						must.EqOp(t, d.Name, task.Resources.Devices[d.Index].Name)
					}
				}
			}
		}
	})
}
