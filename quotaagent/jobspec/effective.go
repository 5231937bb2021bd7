package jobspec

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// Canonicalize returns a copy of job with Nomad's defaults filled in, after
// checking that it can be read: no null entries among groups, tasks, devices
// and services, and no two groups, or tasks of a group, of one name.
func Canonicalize(job *api.Job) (*api.Job, error) {
	if err := checkShape(job); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(job)
	if err != nil {
		return nil, fmt.Errorf("copy job: %w", err)
	}
	out := &api.Job{}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, fmt.Errorf("copy job: %w", err)
	}
	if err := fillIn(out); err != nil {
		return nil, err
	}
	return out, nil
}

// CanonicalizeOwned is Canonicalize for a job that nobody else uses: it is changed
// itself, and is good for nothing where an error comes back.
func CanonicalizeOwned(job *api.Job) error {
	if err := checkShape(job); err != nil {
		return err
	}
	return fillIn(job)
}

// fillIn fills Nomad's defaults in.
func fillIn(job *api.Job) (err error) {
	// Nomad's own library dereferences null entries of the lists that
	// checkShape does not know.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the job has an empty (null) entry in one of its lists; remove it")
		}
	}()
	job.Canonicalize()
	return nil
}

func checkShape(job *api.Job) error {
	groups := map[string]bool{}
	for i, g := range job.TaskGroups {
		if g == nil {
			return fmt.Errorf("entry Job.TaskGroups[%d] is null; remove it", i)
		}
		if name := deref(g.Name, ""); groups[name] {
			return fmt.Errorf("list Job.TaskGroups has two groups named %q; names must be unique in a job", name)
		}
		groups[deref(g.Name, "")] = true
		if err := checkGroupShape(g, fmt.Sprintf("Job.TaskGroups[%d]", i)); err != nil {
			return err
		}
	}
	return nil
}

func checkGroupShape(g *api.TaskGroup, path string) error {
	tasks := map[string]bool{}
	for i, t := range g.Tasks {
		if t == nil {
			return fmt.Errorf("entry %s.Tasks[%d] is null; remove it", path, i)
		}
		if tasks[t.Name] {
			return fmt.Errorf("list %s.Tasks has two tasks named %q; names must be unique in a group", path, t.Name)
		}
		tasks[t.Name] = true
		if err := checkDevices(t.Resources, fmt.Sprintf("%s.Tasks[%d]", path, i)); err != nil {
			return err
		}
	}
	for i, s := range g.Services {
		if s == nil {
			return fmt.Errorf("entry %s.Services[%d] is null; remove it", path, i)
		}
		if t := sidecar(s); t != nil {
			if err := checkDevices(t.Resources, fmt.Sprintf("%s.Services[%d].Connect.SidecarTask", path, i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkDevices(r *api.Resources, path string) error {
	if r == nil {
		return nil
	}
	for i, d := range r.Devices {
		if d == nil {
			return fmt.Errorf("entry %s.Resources.Devices[%d] is null; remove it", path, i)
		}
	}
	return nil
}

func sidecar(s *api.Service) *api.SidecarTask {
	if s.Connect == nil {
		return nil
	}
	return s.Connect.SidecarTask
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// Preserve says which values Nomad keeps from the job that is registered now
// (`nomad job run -preserve-counts -preserve-resources`).
type Preserve struct {
	Counts    bool
	Resources bool
}

// Effective returns the job as Nomad would store it: counts and whole
// resources, devices included, come from the stored job where the flags say so
// and a group (or task) of that name is stored
// (nomad/state/state_store.go, updatePreservedValues). Both jobs should be
// canonical; neither is changed, but the result shares parts with them.
func Effective(submitted, stored *api.Job, preserve Preserve) *api.Job {
	if stored == nil || (!preserve.Counts && !preserve.Resources) {
		return submitted
	}
	out := *submitted
	out.TaskGroups = slices.Clone(submitted.TaskGroups)
	for i, g := range submitted.TaskGroups {
		// Nomad builds a map, so that the last group of a name counts.
		var prev *api.TaskGroup
		for _, p := range stored.TaskGroups {
			if p != nil && deref(p.Name, "") == deref(g.Name, "") {
				prev = p
			}
		}
		if prev != nil {
			out.TaskGroups[i] = effectiveGroup(g, prev, preserve)
		}
	}
	return &out
}

func effectiveGroup(g, prev *api.TaskGroup, preserve Preserve) *api.TaskGroup {
	out := *g
	if preserve.Counts {
		count := deref(prev.Count, 1)
		out.Count = &count
	}
	if !preserve.Resources {
		return &out
	}
	stored := map[string]*api.Resources{}
	for _, t := range prev.Tasks {
		if t != nil {
			stored[t.Name] = t.Resources
		}
	}
	out.Tasks = slices.Clone(g.Tasks)
	submitted := map[string]bool{}
	for i, t := range g.Tasks {
		submitted[t.Name] = true
		if r, ok := stored[t.Name]; ok {
			copied := *t
			copied.Resources = r
			out.Tasks[i] = &copied
		}
	}
	// A Connect task is added by Nomad before the stored values are kept, so it
	// keeps its resources too although the submission does not list it.
	out.Services = slices.Clone(g.Services)
	for i, s := range g.Services {
		if r := keptSidecar(s, prev, submitted); r != nil {
			out.Services[i] = withSidecarResources(s, r)
		}
	}
	return &out
}

// keptSidecar is what the task that Nomad adds for a service would keep of a
// stored task of the same name, or nil. Nomad fills variables into the service's
// name first; then every task that it could have added counts, as one.
func keptSidecar(s *api.Service, prev *api.TaskGroup, submitted map[string]bool) *api.Resources {
	if s.Connect == nil {
		return nil
	}
	var kept *api.Resources
	for _, t := range prev.Tasks {
		if t == nil || t.Resources == nil || submitted[t.Name] || !addedFor(s, t.Name) {
			continue
		}
		if kept == nil {
			kept = t.Resources
			continue
		}
		both := *kept
		both.Devices = slices.Concat(kept.Devices, t.Resources.Devices)
		kept = &both
	}
	return kept
}

// addedFor reports whether Nomad could give the task that it adds for a service
// this name: the one in sidecar_task, or connect-<kind>-<service>, where the
// kind is proxy, ingress, terminating or mesh (nomad/structs/connect.go).
func addedFor(s *api.Service, task string) bool {
	if t := s.Connect.SidecarTask; t != nil && t.Name != "" {
		return t.Name == task
	}
	return strings.HasPrefix(task, connectPrefix) && (strings.Contains(s.Name, "$") || strings.HasSuffix(task, "-"+s.Name))
}

func withSidecarResources(s *api.Service, r *api.Resources) *api.Service {
	task := api.SidecarTask{}
	if s.Connect.SidecarTask != nil {
		task = *s.Connect.SidecarTask
	}
	task.Resources = r
	service, connect := *s, *s.Connect
	connect.SidecarTask = &task
	service.Connect = &connect
	return &service
}
