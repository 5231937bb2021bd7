package rewrite

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/scheduler/cluster"
)

// storedPins compares the device blocks of a group with the stored ones. same
// says that they are equal but for pins of ours, which are returned.
//
// A pin is ours when it is one set_contains_any on ${device.ids} at the end of a
// block that is otherwise equal, in a group with the escape constraint that
// always goes with it.
func storedPins(submitted, stored *api.TaskGroup) (pins []DevicePatch, same bool) {
	for _, task := range stored.Tasks {
		if len(devices(task)) > 0 && findTask(submitted, task.Name) == nil {
			return nil, false
		}
	}
	for _, task := range submitted.Tasks {
		if task == nil || len(devices(task)) == 0 && len(devices(findTask(stored, task.Name))) == 0 {
			continue
		}
		was := devices(findTask(stored, task.Name))
		now := devices(task)
		if len(was) != len(now) {
			return nil, false
		}
		for i := range now {
			union, equal := storedPin(now[i], was[i])
			if !equal || union != "" && !hasEscape(stored) {
				return nil, false
			}
			if union != "" {
				pins = append(pins, DevicePatch{Task: task.Name, Index: i, Constraints: []cluster.Constraint{pin(union)}})
			}
		}
	}
	return pins, true
}

// storedPin compares one block; union is the pin that was has beyond now.
func storedPin(now, was *api.RequestedDevice) (union string, equal bool) {
	if now == nil || was == nil {
		return "", now == was
	}
	sameAffinities := slices.EqualFunc(was.Affinities, now.Affinities, func(a, b *api.Affinity) bool {
		return a != nil && equalAffinity(a, b)
	})
	if now.Name != was.Name || valueOr(now.Count, 1) != valueOr(was.Count, 1) || !sameAffinities {
		return "", false
	}
	have, had := constraints(now.Constraints), constraints(was.Constraints)
	if slices.Equal(have, had) {
		return "", true
	}
	last := len(had) - 1
	if last < 0 || !slices.Equal(have, had[:last]) || had[last] != pin(had[last].RTarget) || had[last].RTarget == "" {
		return "", false
	}
	return had[last].RTarget, true
}

func devices(task *api.Task) []*api.RequestedDevice {
	if task == nil || task.Resources == nil {
		return nil
	}
	return task.Resources.Devices
}

func findTask(group *api.TaskGroup, name string) *api.Task {
	for _, t := range group.Tasks {
		if t != nil && t.Name == name {
			return t
		}
	}
	return nil
}

// sameWork reports whether the job would do what the stored one did. It decides
// about jobs that have ended: Nomad runs a finished batch job again only when
// its specification changed, so new pins for an unchanged job would start it
// again unasked, and old pins for a changed one would make it wait for GPUs that
// others hold by now. What Nomad adds on its own (implied constraints, Connect
// sidecars, identities) is not compared.
func sameWork(submitted, stored *api.Job) bool {
	priority := valueOr(submitted.Priority, 0)
	if priority == 0 { // the servers fill in what is configured there
		priority = valueOr(stored.Priority, 0)
	}
	a, b := work(submitted, priority), work(stored, valueOr(stored.Priority, 0))
	return a != nil && reflect.DeepEqual(a, b)
}

// work is the comparable part of a job with Nomad's defaults filled in, or nil
// when the job cannot be read.
func work(job *api.Job, priority int) any {
	raw, err := json.Marshal(job)
	if err != nil {
		return nil
	}
	var full api.Job
	if json.Unmarshal(raw, &full) != nil {
		return nil
	}
	scrub(&full)
	full.Canonicalize()
	fillIn(&full)
	parts := []any{full.Type, priority, full.Datacenters, full.NodePool, full.Meta}
	for _, g := range full.TaskGroups {
		parts = append(parts, g.Name, g.Count, g.Meta, g.Volumes, g.EphemeralDisk)
		for _, t := range g.Tasks {
			if ofConnect(t) {
				continue
			}
			r := t.Resources
			parts = append(parts, t.Name, t.Driver, t.User, t.Config, t.Env, t.Meta, t.Artifacts, t.Templates,
				t.Lifecycle, t.VolumeMounts, t.DispatchPayload, t.Leader, t.KillTimeout,
				r.CPU, r.Cores, r.MemoryMB, r.MemoryMaxMB)
		}
	}
	raw, err = json.Marshal(parts)
	if err != nil {
		return nil
	}
	var plain any
	if json.Unmarshal(raw, &plain) != nil {
		return nil
	}
	return prune(plain)
}

// ofConnect reports whether Nomad added a task for a service's proxy or gateway; a sidecar
// may have any name.
func ofConnect(t *api.Task) bool {
	for _, kind := range [...]string{"connect-proxy:", "connect-ingress:", "connect-terminating:", "connect-mesh:"} {
		if strings.HasPrefix(t.Kind, kind) {
			return true
		}
	}
	return strings.HasPrefix(t.Name, "connect-")
}

// defaultKillTimeout is Nomad's for a task without one, or with none.
const defaultKillTimeout = 5 * time.Second

// fillIn fills in what Nomad's servers do and its library does not (the Canonicalize of
// jobs and tasks in nomad/structs/structs.go).
func fillIn(job *api.Job) {
	for _, g := range job.TaskGroups {
		for _, t := range g.Tasks {
			if valueOr(t.KillTimeout, 0) == 0 {
				t.KillTimeout = new(defaultKillTimeout)
			}
		}
	}
	if len(job.Datacenters) == 0 {
		job.Datacenters = []string{"*"}
	}
	if valueOr(job.NodePool, "") == "" {
		job.NodePool = new(api.NodePoolDefault)
	}
}

// scrub drops what is not compared, and nulls in lists, on which Canonicalize
// would panic.
func scrub(job *api.Job) {
	job.Affinities, job.Spreads, job.Multiregion = nil, nil, nil
	job.TaskGroups = slices.DeleteFunc(job.TaskGroups, func(g *api.TaskGroup) bool { return g == nil })
	for _, g := range job.TaskGroups {
		g.Affinities, g.Spreads, g.Services, g.Networks, g.Scaling = nil, nil, nil, nil, nil
		g.Tasks = slices.DeleteFunc(g.Tasks, func(t *api.Task) bool { return t == nil })
		for name, volume := range g.Volumes {
			if volume == nil {
				delete(g.Volumes, name)
			}
		}
		for _, t := range g.Tasks {
			t.Affinities, t.Services, t.ScalingPolicies, t.Actions = nil, nil, nil, nil
			t.Identities, t.Secrets, t.Vault, t.Consul = nil, nil, nil, nil
			t.Templates = slices.DeleteFunc(t.Templates, func(x *api.Template) bool { return x == nil })
			t.Artifacts = slices.DeleteFunc(t.Artifacts, func(x *api.TaskArtifact) bool { return x == nil })
			t.VolumeMounts = slices.DeleteFunc(t.VolumeMounts, func(x *api.VolumeMount) bool { return x == nil })
			if t.Resources != nil {
				t.Resources.Devices, t.Resources.Networks = nil, nil
			}
		}
	}
}

// prune replaces empty lists, maps and texts, false and 0 by null, and drops
// them from maps: the stored job and a submission differ in how they leave
// things out.
func prune(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for key, value := range x {
			if x[key] = prune(value); x[key] == nil {
				delete(x, key)
			}
		}
		if len(x) == 0 {
			return nil
		}
	case []any:
		for i := range x {
			x[i] = prune(x[i])
		}
		if len(x) == 0 {
			return nil
		}
	case string, bool, float64:
		if reflect.ValueOf(x).IsZero() {
			return nil
		}
	}
	return v
}
