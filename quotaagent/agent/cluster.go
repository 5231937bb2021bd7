package agent

import (
	"reflect"
	"slices"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// clusterOf is what admission knows of the cluster for one submission.
func clusterOf(s gate.Submission, placed Placement) admission.Cluster {
	return admission.Cluster{Offered: placed.Offered, Eligible: placed.Eligible, Replaces: replaced(s, placed.Patch)}
}

// statusDead is Nomad's for a job of which nothing runs or will run.
const statusDead = "dead"

// idle reports whether nothing of a stored job runs or is about to: there is none,
// it was stopped, it has ended, or it waits for budget.
func idle(stored *api.Job) bool {
	return stored == nil || stored.Stop != nil && *stored.Stop || stored.Status != nil && *stored.Status == statusDead || jobspec.Gated(stored)
}

// replaced says of which groups Nomad would replace what runs, rather than leave
// it or change it in place (scheduler/util.go, tasksUpdated); nil when nothing
// runs. It may say yes for a group that is only changed in place: that holds more
// until the update is over.
func replaced(s gate.Submission, patch jobspec.Patch) func(group string) bool {
	if idle(s.Stored) {
		return nil
	}
	next, stored, ok := asComparable(s, patch)
	all := !ok || !alike(reflect.ValueOf(replacing(next)), reflect.ValueOf(replacing(stored)))
	return func(name string) bool {
		was, is := groupOf(&stored, name), groupOf(&next, name)
		if was == nil || is == nil {
			return false // nothing of it runs, or nothing will
		}
		return all || !alike(reflect.ValueOf(inPlace(*is)), reflect.ValueOf(inPlace(*was)))
	}
}

// replacing is the part of a job outside its groups that running allocations
// depend on.
func replacing(j api.Job) api.Job {
	return api.Job{Type: j.Type, Meta: j.Meta, Datacenters: j.Datacenters, NodePool: j.NodePool}
}

// inPlace is a group without what Nomad changes while its allocations run on.
func inPlace(g api.TaskGroup) api.TaskGroup {
	g.Count, g.Constraints, g.Affinities, g.Scaling, g.Update, g.ReschedulePolicy, g.Migrate, g.Spreads = nil, nil, nil, nil, nil, nil, nil, nil
	return g
}

func groupOf(j *api.Job, name string) *api.TaskGroup {
	i := slices.IndexFunc(j.TaskGroups, func(g *api.TaskGroup) bool { return g != nil && g.Name != nil && *g.Name == name })
	if i < 0 {
		return nil
	}
	return j.TaskGroups[i]
}
