package rewrite

import (
	"slices"
	"strconv"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/scheduler/cluster"
)

// AskOf reads what the job asks of placement. Fields that the job leaves out
// have Nomad's defaults.
func AskOf(job *api.Job) cluster.Ask {
	ask := cluster.Ask{
		Namespace:   valueOr(job.Namespace, api.DefaultNamespace),
		JobID:       valueOr(job.ID, ""),
		Type:        valueOr(job.Type, api.JobTypeService),
		Template:    job.IsPeriodic() || job.IsParameterized(),
		Datacenters: slices.Clone(job.Datacenters),
		Pool:        valueOr(job.NodePool, ""),
		Gang:        isGang(job),
	}
	for _, group := range job.TaskGroups {
		if group == nil {
			continue
		}
		if g := groupAsk(job, group); len(g.Devices) > 0 {
			ask.Groups = append(ask.Groups, g)
		}
	}
	return ask
}

// GangMeta is the job meta key by which an author says that the job runs with all
// its allocations or not at all.
const GangMeta = "governor_gang"

func isGang(job *api.Job) bool {
	gang, err := strconv.ParseBool(job.Meta[GangMeta])
	return err == nil && gang
}

func groupAsk(job *api.Job, group *api.TaskGroup) cluster.GroupAsk {
	g := cluster.GroupAsk{Name: valueOr(group.Name, ""), Count: valueOr(group.Count, 1)}
	if s := group.Scaling; s != nil && valueOr(s.Enabled, true) {
		g.CountMax = int(valueOr(s.Max, 0))
	}
	for _, update := range []*api.UpdateStrategy{job.Update, group.Update} {
		if update != nil && update.Canary != nil {
			g.Canaries = *update.Canary
		}
	}
	g.Constraints = append(constraints(job.Constraints), constraints(group.Constraints)...)
	g.DistinctHosts = slices.ContainsFunc(g.Constraints, demandsDistinctHosts)
	for _, task := range group.Tasks {
		if task != nil {
			addTask(&g, task)
		}
	}
	slices.Sort(g.Drivers)
	g.Drivers = slices.Compact(g.Drivers)
	return g
}

// demandsDistinctHosts follows DistinctHostsIterator: anything that is not a
// plain false demands it.
func demandsDistinctHosts(c cluster.Constraint) bool {
	if c.Operand != api.ConstraintDistinctHosts {
		return false
	}
	demanded, err := strconv.ParseBool(c.RTarget)
	return err != nil || demanded
}

// Nomad's defaults for a task without them (api/resources.go).
const (
	defaultCPU       = 100
	defaultMemoryMiB = 300
)

func addTask(g *cluster.GroupAsk, task *api.Task) {
	g.Constraints = append(g.Constraints, constraints(task.Constraints)...)
	if task.Driver != "" {
		g.Drivers = append(g.Drivers, task.Driver)
	}
	cpu, memory := defaultCPU, defaultMemoryMiB
	if r := task.Resources; r != nil {
		memory = valueOr(r.MemoryMB, defaultMemoryMiB)
		cpu = valueOr(r.CPU, defaultCPU)
		if valueOr(r.Cores, 0) > 0 {
			cpu = 0 // whole cores: their MHz depend on the node, Nomad decides
		}
		for i, d := range r.Devices {
			if d != nil && gpu.AskedFor(d.Name) {
				g.Devices = append(g.Devices, cluster.DeviceAsk{
					Task: task.Name, Index: i, Name: d.Name,
					Count: int(min(valueOr(d.Count, 1), 1<<20)), Constraints: constraints(d.Constraints),
				})
			}
		}
	}
	if l := task.Lifecycle; l != nil && !l.Sidecar {
		return // runs before or after the main tasks, not beside them
	}
	g.CPU += cpu
	g.MemoryMiB += memory
}

func constraints(in []*api.Constraint) []cluster.Constraint {
	var out []cluster.Constraint
	for _, c := range in {
		if c != nil {
			out = append(out, cluster.Constraint{LTarget: c.LTarget, Operand: c.Operand, RTarget: c.RTarget})
		}
	}
	return out
}

func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
