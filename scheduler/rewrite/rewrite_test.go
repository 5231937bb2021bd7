package rewrite_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/rewrite"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// gpuJob is a batch job with one group of one task that asks for two GPUs.
func gpuJob() *api.Job {
	job := api.NewBatchJob("train", "train", "global", 50)
	job.Namespace = new("default")
	job.AddTaskGroup(gpuGroup("g", "main"))
	return job
}

func gpuGroup(name string, tasks ...string) *api.TaskGroup {
	group := api.NewTaskGroup(name, 1)
	for _, task := range tasks {
		t := api.NewTask(task, "exec").SetConfig("command", "/bin/train")
		t.Resources = &api.Resources{Devices: []*api.RequestedDevice{{Name: "nvidia/gpu", Count: new(uint64(2))}}}
		group.AddTask(t)
	}
	return group
}

// copyOf goes through JSON, as every job between gate and Nomad does.
func copyOf(job *api.Job) *api.Job {
	raw, err := json.Marshal(job)
	if err != nil {
		panic(err)
	}
	var out api.Job
	if err := json.Unmarshal(raw, &out); err != nil {
		panic(err)
	}
	return &out
}

// apply adds a patch to a copy of the job, as the gate does to the document.
func apply(job *api.Job, patch rewrite.Patch) *api.Job {
	out := copyOf(job)
	for _, p := range patch.Groups {
		for _, group := range out.TaskGroups {
			if *group.Name != p.Group {
				continue
			}
			group.Constraints = append(group.Constraints, nomadConstraints(p.Constraints)...)
			for _, a := range p.Affinities {
				group.Affinities = append(group.Affinities, api.NewAffinity(a.LTarget, a.Operand, a.RTarget, int8(a.Weight)))
			}
			for _, d := range p.Devices {
				for _, task := range group.Tasks {
					if task.Name == d.Task {
						block := task.Resources.Devices[d.Index]
						block.Constraints = append(block.Constraints, nomadConstraints(d.Constraints)...)
					}
				}
			}
		}
	}
	return out
}

func nomadConstraints(in []cluster.Constraint) []*api.Constraint {
	var out []*api.Constraint
	for _, c := range in {
		out = append(out, &api.Constraint{LTarget: c.LTarget, Operand: c.Operand, RTarget: c.RTarget})
	}
	return out
}

// stored is what Nomad would answer for a registered job: defaults filled in,
// indexes set, and a constraint that Nomad implies on its own.
func stored(job *api.Job) *api.Job {
	out := copyOf(job)
	out.Canonicalize()
	out.Status, out.Version, out.JobModifyIndex = new("running"), new(uint64(3)), new(uint64(77))
	if len(out.Datacenters) == 0 { // Nomad's servers fill in more than its library
		out.Datacenters = []string{"*"}
	}
	if *out.NodePool == "" {
		out.NodePool = new("default")
	}
	for _, group := range out.TaskGroups {
		group.Constraints = append(group.Constraints, &api.Constraint{LTarget: "${attr.vault.version}", Operand: "semver", RTarget: ">= 0.6.1"})
	}
	return out
}

// offerOf pins every device block to made-up GPUs on two nodes; salt makes
// different ones.
func offerOf(job *api.Job, salt string) cluster.Offer {
	var offer cluster.Offer
	for _, g := range rewrite.AskOf(job).Groups {
		group := cluster.GroupOffer{Group: g.Name, Preferred: "node-1" + salt}
		for _, node := range []string{"node-1" + salt, "node-2" + salt} {
			n := cluster.NodeOffer{NodeID: node, NodeName: node}
			for i, d := range g.Devices {
				set := cluster.Set{Task: d.Task, Index: d.Index, Device: d.Name}
				for k := range d.Count {
					set.IDs = append(set.IDs, fmt.Sprintf("GPU-%s-%s-%d-%d", node, g.Name, i, k))
				}
				n.Sets = append(n.Sets, set)
			}
			group.Nodes = append(group.Nodes, n)
		}
		offer.Groups = append(offer.Groups, group)
	}
	return offer
}

func document(t must.T, job *api.Job) string {
	raw, err := json.MarshalIndent(job, "", " ")
	must.NoError(t, err)
	return string(raw)
}

func TestAFirstRegistrationGetsUnionEscapeAndPreference(t *testing.T) {
	t.Parallel()
	job := gpuJob()
	patch := rewrite.Rewrite(rewrite.Input{Submitted: job, Offer: offerOf(job, "")})
	must.Eq(t, rewrite.Patch{Groups: []rewrite.GroupPatch{{
		Group:       "g",
		Constraints: []cluster.Constraint{{LTarget: "${node.unique.id}", Operand: "is_set"}},
		Affinities:  []rewrite.Affinity{{LTarget: "${node.unique.id}", Operand: "is", RTarget: "node-1", Weight: 100}},
		Devices: []rewrite.DevicePatch{{Task: "main", Constraints: []cluster.Constraint{{
			LTarget: "${device.ids}", Operand: "set_contains_any",
			RTarget: "GPU-node-1-g-0-0,GPU-node-1-g-0-1,GPU-node-2-g-0-0,GPU-node-2-g-0-1"}}}},
	}}}, patch)
}

// pinnedFirst is the stored job after a first registration.
func pinnedFirst(job *api.Job) *api.Job {
	return stored(apply(job, rewrite.Rewrite(rewrite.Input{Submitted: job, Offer: offerOf(job, "")})))
}

func TestWhenPinsAreKeptAndWhenTheyAreNew(t *testing.T) {
	t.Parallel()
	const kept, renewed, none = "kept", "new", "none"
	cases := map[string]struct {
		stored  func(*api.Job) *api.Job
		change  func(*api.Job)
		running bool
		want    string
	}{
		"the same job runs":                        {stored: pinnedFirst, running: true, want: kept},
		"the same job has ended":                   {stored: pinnedFirst, want: kept},
		"a running job gets another image":         {stored: pinnedFirst, running: true, change: func(j *api.Job) { j.TaskGroups[0].Tasks[0].Config["command"] = "x" }, want: kept},
		"an ended job moves to another datacenter": {stored: pinnedFirst, change: func(j *api.Job) { j.Datacenters = []string{"dc2"} }, want: renewed},
		"an ended job moves to another pool":       {stored: pinnedFirst, change: func(j *api.Job) { j.NodePool = new("gpu") }, want: renewed},
		"an ended job names what was filled in": {stored: pinnedFirst, change: func(j *api.Job) {
			j.Datacenters, j.NodePool = []string{"*"}, new("default")
		}, want: kept},
		"an ended job gets another image":                {stored: pinnedFirst, change: func(j *api.Job) { j.TaskGroups[0].Tasks[0].Config["command"] = "x" }, want: renewed},
		"a running job asks for more GPUs":               {stored: pinnedFirst, running: true, change: func(j *api.Job) { j.TaskGroups[0].Tasks[0].Resources.Devices[0].Count = new(uint64(4)) }, want: renewed},
		"a running job adds a device constraint":         {stored: pinnedFirst, running: true, change: addDeviceConstraint, want: renewed},
		"a running job without pins":                     {stored: stored, running: true, want: none},
		"an ended job without pins, submitted again":     {stored: stored, want: none},
		"a running job without pins changes its devices": {stored: stored, running: true, change: addDeviceConstraint, want: renewed},
		"a stopped job": {stored: func(j *api.Job) *api.Job {
			s := pinnedFirst(j)
			s.Stop = new(true)
			return s
		}, want: renewed},
		"the group is new": {stored: func(j *api.Job) *api.Job {
			s := pinnedFirst(j)
			s.TaskGroups[0].Name = new("before")
			return s
		}, running: true, want: renewed},
		"the user took his own pin away": {stored: func(j *api.Job) *api.Job {
			s := stored(j)
			s.TaskGroups[0].Tasks[0].Resources.Devices[0].Constraints = []*api.Constraint{
				{LTarget: "${device.ids}", Operand: "set_contains_any", RTarget: "GPU-a,GPU-b"}}
			return s
		}, running: true, want: renewed},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := gpuJob()
			was := c.stored(job)
			if c.change != nil {
				c.change(job)
			}
			patch := rewrite.Rewrite(rewrite.Input{Submitted: job, Stored: was, StoredRunning: c.running, Offer: offerOf(job, "-later")})
			got := none
			if len(patch.Groups) > 0 {
				must.Len(t, 1, patch.Groups[0].Devices)
				must.Len(t, 1, patch.Groups[0].Constraints)
				must.Len(t, 1, patch.Groups[0].Affinities)
				got = renewed
				if patch.Groups[0].Affinities[0].RTarget == "node-1" {
					got = kept
				}
			}
			must.Eq(t, c.want, got)
			if c.want == renewed {
				must.Len(t, 0, patch.Kept)
			} else {
				must.Eq(t, []string{"g"}, patch.Kept)
			}
		})
	}
}

// What Nomad's servers make of a job and its library does not is no change of its author's.
func TestWhatTheServersFillInIsNoChange(t *testing.T) {
	t.Parallel()
	proxied := []*api.Service{{Name: "s", Connect: &api.ConsulConnect{SidecarService: &api.ConsulSidecarService{}, SidecarTask: &api.SidecarTask{Name: "envoy"}}}}
	for name, c := range map[string]struct {
		submit, store func(j *api.Job)
		changed       bool
	}{
		"no kill timeout": {submit: func(j *api.Job) { j.TaskGroups[0].Tasks[0].KillTimeout = new(time.Duration(0)) },
			store: func(j *api.Job) { j.TaskGroups[0].Tasks[0].KillTimeout = new(5 * time.Second) }},
		"another kill timeout": {submit: func(j *api.Job) { j.TaskGroups[0].Tasks[0].KillTimeout = new(time.Second) },
			store: func(j *api.Job) { j.TaskGroups[0].Tasks[0].KillTimeout = new(5 * time.Second) }, changed: true},
		"no priority":      {submit: func(j *api.Job) { j.Priority = new(0) }, store: func(j *api.Job) { j.Priority = new(60) }},
		"another priority": {submit: func(j *api.Job) { j.Priority = new(50) }, store: func(j *api.Job) { j.Priority = new(60) }, changed: true},
		"a sidecar": {submit: func(j *api.Job) { j.TaskGroups[0].Services = proxied },
			store: func(j *api.Job) {
				j.TaskGroups[0].Tasks = append(j.TaskGroups[0].Tasks, &api.Task{Name: "envoy", Driver: "docker", Kind: "connect-proxy:s"})
			}},
		"another task": {submit: func(*api.Job) {}, store: func(j *api.Job) {
			j.TaskGroups[0].Tasks = append(j.TaskGroups[0].Tasks, &api.Task{Name: "envoy", Driver: "docker", Kind: "connect-native:s"})
		}, changed: true},
	} {
		job := gpuJob()
		c.submit(job)
		was := pinnedFirst(job)
		c.store(was)
		patch := rewrite.Rewrite(rewrite.Input{Submitted: job, Stored: was, Offer: offerOf(job, "-later")})
		must.EqOp(t, c.changed, len(patch.Kept) == 0, must.Sprint(name))
	}
}

func addDeviceConstraint(j *api.Job) {
	d := j.TaskGroups[0].Tasks[0].Resources.Devices[0]
	d.Constraints = append(d.Constraints, &api.Constraint{LTarget: "${device.attr.memory}", Operand: ">=", RTarget: "16 GiB"})
}

func TestAChangedBlockPinsItsWholeGroupAnewAndNoOther(t *testing.T) {
	t.Parallel()
	job := gpuJob()
	job.TaskGroups[0] = gpuGroup("a", "one", "two")
	job.AddTaskGroup(gpuGroup("b", "one"))
	was := pinnedFirst(job)
	job.TaskGroups[0].Tasks[1].Resources.Devices[0].Count = new(uint64(1))
	patch := rewrite.Rewrite(rewrite.Input{Submitted: job, Stored: was, StoredRunning: true, Offer: offerOf(job, "-later")})
	must.Len(t, 2, patch.Groups)
	must.Eq(t, []string{"b"}, patch.Kept)
	must.Len(t, 2, patch.Groups[0].Devices)
	must.StrContains(t, patch.Groups[0].Devices[0].Constraints[0].RTarget, "-later")
	must.StrNotContains(t, patch.Groups[1].Devices[0].Constraints[0].RTarget, "-later")
}

func TestBlocksThatTheUserPinnedAreLeftAlone(t *testing.T) {
	t.Parallel()
	job := gpuJob()
	job.TaskGroups[0].Tasks[0].Resources.Devices[0].Constraints = []*api.Constraint{
		{LTarget: "GPU-a,GPU-b", Operand: "set_contains", RTarget: "${device.ids}"}}
	patch := rewrite.Rewrite(rewrite.Input{Submitted: job, Offer: offerOf(job, "")})
	must.Len(t, 0, patch.Groups[0].Devices)
	must.Len(t, 0, patch.Groups[0].Constraints)
}

func TestIDsThatNomadWouldMisreadAreNotPinned(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "1", "true", "a,b", "a b", "${x}", "7 GiB"} {
		job := gpuJob()
		offer := offerOf(job, "")
		offer.Groups[0].Nodes[0].Sets[0].IDs[0] = id
		patch := rewrite.Rewrite(rewrite.Input{Submitted: job, Offer: offer})
		must.Len(t, 0, patch.Groups[0].Devices, must.Sprintf("id %q", id))
	}
}

func TestRaisingTheCountOfAPinnedGroupWarns(t *testing.T) {
	t.Parallel()
	job := gpuJob()
	was := pinnedFirst(job)
	job.TaskGroups[0].Count = new(3)
	patch := rewrite.Rewrite(rewrite.Input{Submitted: job, Stored: was, StoredRunning: true, Offer: cluster.Offer{}})
	must.Eq(t, []string{"g"}, patch.Kept)
	must.Eq(t, `group "g" keeps the GPUs that were pinned when it had one allocation, because changing them would restart it; `+
		`further allocations may have to wait: stop the job and run it again to place it anew`, patch.Groups[0].Warning)
}

// drawJob makes jobs of all kinds, with user constraints and affinities that
// look like ours.
func drawJob(t *rapid.T) *api.Job {
	job := gpuJob()
	job.TaskGroups = nil
	for i := range rapid.IntRange(1, 3).Draw(t, "groups") {
		group := gpuGroup(fmt.Sprintf("g%d", i))
		for j := range rapid.IntRange(1, 3).Draw(t, "tasks") {
			task := gpuGroup("x", fmt.Sprintf("t%d", j)).Tasks[0]
			task.Resources.Devices = nil
			for range rapid.IntRange(0, 2).Draw(t, "blocks") {
				task.Resources.Devices = append(task.Resources.Devices, drawDevice(t))
			}
			group.AddTask(task)
		}
		if rapid.Bool().Draw(t, "user escape") {
			group.Constrain(api.NewConstraint("${node.unique.id}", "is_set", ""))
		}
		if rapid.Bool().Draw(t, "user affinity") {
			group.AddAffinity(api.NewAffinity("${node.unique.id}", rapid.SampledFrom([]string{"=", "is"}).Draw(t, "op"), "node-1", 100))
		}
		job.AddTaskGroup(group)
	}
	return job
}

func drawDevice(t *rapid.T) *api.RequestedDevice {
	d := &api.RequestedDevice{Name: rapid.SampledFrom([]string{"gpu", "nvidia/gpu", "nvidia/gpu/H100", "intel/fpga"}).Draw(t, "name")}
	if rapid.Bool().Draw(t, "count given") {
		d.Count = new(rapid.Uint64Range(1, 4).Draw(t, "count"))
	}
	if rapid.Bool().Draw(t, "constraint") {
		d.Constraints = append(d.Constraints, api.NewConstraint("${device.attr.memory}", ">=", "8 GiB"))
	}
	if rapid.IntRange(0, 4).Draw(t, "pinned by the user") == 0 {
		d.Constraints = append(d.Constraints, api.NewConstraint("${device.ids}", "set_contains_any", "GPU-x,GPU-y,GPU-z"))
	}
	if rapid.Bool().Draw(t, "affinity") {
		d.Affinities = append(d.Affinities, api.NewAffinity("${device.model}", "=", "H100", 20))
	}
	return d
}

func TestTheSameJobAgainIsTheSameDocument(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		job := drawJob(t)
		first := cluster.Offer{}
		if rapid.Bool().Draw(t, "something was free") {
			first = offerOf(job, "")
			for i := range first.Groups {
				if rapid.IntRange(0, 3).Draw(t, "unpinned") == 0 {
					first.Groups[i].Nodes = nil
				}
				if rapid.Bool().Draw(t, "no preference") {
					first.Groups[i].Preferred = ""
				}
			}
		}
		rewritten := apply(job, rewrite.Rewrite(rewrite.Input{Submitted: job, Offer: first}))
		want := document(t, rewritten)
		for range 3 {
			patch := rewrite.Rewrite(rewrite.Input{Submitted: copyOf(job), Stored: stored(rewritten),
				StoredRunning: rapid.Bool().Draw(t, "running"), Offer: offerOf(job, "-later")})
			rewritten = apply(job, patch)
			must.Eq(t, want, document(t, rewritten))
		}
	})
}

func TestOnlyConstraintsAndAffinitiesAreAdded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		job := drawJob(t)
		before := document(t, job)
		out := apply(job, rewrite.Rewrite(rewrite.Input{Submitted: job, Offer: offerOf(job, "")}))
		must.Eq(t, before, document(t, job)) // the submitted job is not touched
		for i, group := range out.TaskGroups {
			was := job.TaskGroups[i]
			group.Constraints = group.Constraints[:len(was.Constraints)]
			group.Affinities = group.Affinities[:len(was.Affinities)]
			if was.Constraints == nil {
				group.Constraints = nil
			}
			if was.Affinities == nil {
				group.Affinities = nil
			}
			for j, task := range group.Tasks {
				for k, d := range task.Resources.Devices {
					had := was.Tasks[j].Resources.Devices[k].Constraints
					d.Constraints = d.Constraints[:len(had)]
					if had == nil {
						d.Constraints = nil
					}
				}
			}
		}
		must.Eq(t, before, document(t, out))
	})
}
