package jobspec

import (
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/internal/gpu"
)

// Defaults are what Nomad uses where the job does not say; they come from the
// request and from the agent that serves it.
type Defaults struct {
	Region    string
	Namespace string
}

// Bounds on counts that keep every sum in Ask within an int. They are far
// beyond what Nomad can schedule, so that a job above them is refused by any
// limit in the same way.
const (
	maxCount   = 1 << 24
	maxDevices = 1 << 16
)

// Extract reads what the job requests in the worst case. The region and the
// namespace are those in defaults when they are set, because the request's
// query may overrule the job's own. A stopped job (Stop = true) requests its
// groups with a count of zero.
func Extract(job *api.Job, defaults Defaults) (Ask, error) {
	j, err := Canonicalize(job)
	if err != nil {
		return Ask{}, err
	}
	return ExtractCanonical(j, defaults), nil
}

// ExtractCanonical is Extract for a job that Canonicalize has returned.
func ExtractCanonical(j *api.Job, defaults Defaults) Ask {
	ask := Ask{
		Region:        defaults.Region,
		Namespace:     defaults.Namespace,
		JobID:         *j.ID,
		ParentID:      deref(j.ParentID, ""),
		Name:          *j.Name,
		Type:          *j.Type,
		NodePool:      deref(j.NodePool, api.NodePoolDefault),
		Priority:      *j.Priority,
		Datacenters:   slices.Clone(j.Datacenters),
		Periodic:      j.Periodic != nil,
		Parameterized: j.ParameterizedJob != nil,
		Meta:          maps.Clone(j.Meta),
	}
	if ask.Region == "" {
		ask.Region = *j.Region
	}
	if ask.Namespace == "" {
		ask.Namespace = *j.Namespace
	}
	if ask.NodePool == "" {
		ask.NodePool = api.NodePoolDefault
	}
	ask.Undeclared = undeclared(j)
	for _, g := range j.TaskGroups {
		if devices := groupDevices(g); len(devices) > 0 {
			ask.Groups = append(ask.Groups, groupAsk(j, g, devices))
		}
	}
	return ask
}

func groupAsk(j *api.Job, g *api.TaskGroup, devices []DeviceAsk) GroupAsk {
	out := GroupAsk{
		Name:          *g.Name,
		Count:         min(max(*g.Count, 0), maxCount),
		ShutdownDelay: deref(g.ShutdownDelay, 0),
		Devices:       devices,
	}
	// Only service jobs start canaries beside the running allocations; for
	// system jobs the number is a percentage of the nodes.
	if g.Update != nil && *j.Type == api.JobTypeService {
		out.Canaries = min(max(deref(g.Update.Canary, 0), 0), maxCount)
		out.MaxParallel = min(max(deref(g.Update.MaxParallel, 0), 0), out.Count)
	}
	if *j.Stop {
		out.Count, out.Canaries, out.MaxParallel = 0, 0, 0
	}
	if p := g.ReschedulePolicy; p != nil {
		out.Reschedules = max(deref(p.Attempts, 0), 0)
		out.UnlimitedReschedules = deref(p.Unlimited, false)
	}
	for _, t := range g.Tasks {
		out.KillTimeout = max(out.KillTimeout, deref(t.KillTimeout, 0))
		out.ShutdownDelay = max(out.ShutdownDelay, t.ShutdownDelay)
	}
	for _, s := range g.Services {
		if t := sidecar(s); t != nil {
			out.KillTimeout = max(out.KillTimeout, deref(t.KillTimeout, 0))
			out.ShutdownDelay = max(out.ShutdownDelay, deref(t.ShutdownDelay, time.Duration(0)))
		}
	}
	out.MaxRunDuration = max(deref(g.MaxRunDuration, 0), 0)
	return out
}

// groupDevices lists the GPU asks of the group's tasks, then those of the
// sidecars that Nomad adds for Consul Connect.
func groupDevices(g *api.TaskGroup) []DeviceAsk {
	var out []DeviceAsk
	for _, t := range g.Tasks {
		out = append(out, deviceAsks(t.Name, t.Resources)...)
	}
	for _, s := range g.Services {
		if t := sidecar(s); t != nil {
			out = append(out, deviceAsks(connectProxyPrefix+s.Name, t.Resources)...)
		}
	}
	return out
}

func deviceAsks(task string, r *api.Resources) []DeviceAsk {
	if r == nil {
		return nil
	}
	var out []DeviceAsk
	for i, d := range r.Devices {
		if !gpu.AskedFor(d.Name) {
			continue
		}
		count := int(min(deref(d.Count, 1), maxDevices))
		out = append(out, DeviceAsk{Task: task, Index: i, Name: d.Name, Count: count, Constraints: identityConstraints(d.Constraints)})
	}
	return out
}
