package agent

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// defaultNodePool is where Nomad puts a job that names no pool.
const defaultNodePool = "default"

// factsOf is what the conditions of the policy may ask about a submission at
// now. Estimate, limit, forecast and burn rate are not known yet: who decides on
// amounts adds them.
func factsOf(s gate.Submission, now time.Time, p *budget.Policy) budget.Facts {
	return budget.Facts{
		Now:       now,
		Job:       jobFacts(s.Ask, s.Job),
		Submitter: budget.SubmitterFacts{Accessor: s.Identity.Accessor, Names: slices.Clone(s.Identity.Names)},
		Request:   budget.RequestFacts{Kind: s.Kind.String(), PolicyOverride: s.PolicyOverride},
		Schedules: p.SchedulesAt(now),
	}
}

// jobFacts joins what the ask says with what only the job document does; job
// may be nil.
func jobFacts(ask jobspec.Ask, job *api.Job) budget.JobFacts {
	f := budget.JobFacts{
		ID: ask.JobID, Name: ask.JobID, Namespace: ask.Namespace, Region: ask.Region, Type: ask.Type,
		NodePool: defaultNodePool, GPUs: ask.GPUs(), Meta: maps.Clone(ask.Meta),
	}
	if job != nil {
		if job.Name != nil && *job.Name != "" {
			f.Name = *job.Name
		}
		if job.NodePool != nil && *job.NodePool != "" {
			f.NodePool = *job.NodePool
		}
		if job.Priority != nil {
			f.Priority = *job.Priority
		}
		f.Datacenters = slices.Clone(job.Datacenters)
	}
	for _, g := range ask.Groups {
		for _, d := range g.Devices {
			f.Devices = append(f.Devices, deviceFacts(g.Name, d))
		}
	}
	return f
}

// deviceFacts splits a device name as Nomad does: "type", "vendor/type" or
// "vendor/type/model".
func deviceFacts(group string, d jobspec.DeviceAsk) budget.DeviceFacts {
	f := budget.DeviceFacts{Group: group, Task: d.Task, Name: d.Name, Count: d.Count}
	switch parts := strings.SplitN(d.Name, "/", 3); len(parts) {
	case 1:
		f.Type = parts[0]
	case 2:
		f.Vendor, f.Type = parts[0], parts[1]
	default:
		f.Vendor, f.Type, f.Model = parts[0], parts[1], parts[2]
	}
	return f
}
