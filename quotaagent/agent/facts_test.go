package agent

import (
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/shoenig/test/must"
)

func TestFactsOfASubmission(t *testing.T) {
	t.Parallel()
	s := gate.Submission{
		Kind: gate.Plan,
		Ask: jobspec.Ask{
			Region: "eu", Namespace: "research", JobID: "train", Name: "Train it", Type: "batch", NodePool: "h100", Priority: 70, Datacenters: []string{"dc1"}, Meta: map[string]string{"tier": "spot"},
			Groups: []jobspec.GroupAsk{{Name: "g", Count: 2, Devices: []jobspec.DeviceAsk{
				{Task: "a", Name: "gpu", Count: 1},
				{Task: "b", Name: "nvidia/gpu", Count: 2},
				{Task: "c", Name: "nvidia/gpu/A/B", Count: 1},
			}}},
		},
		Identity:       gate.Identity{Accessor: "a1", Names: []string{"role:x"}},
		PolicyOverride: true,
	}
	night := time.Date(2026, 5, 4, 23, 0, 0, 0, time.UTC)
	p := &budget.Policy{Location: time.UTC, Schedules: []budget.Schedule{
		{Name: "always", Days: [7]bool{true, true, true, true, true, true, true}},
		{Name: "never"},
	}}
	must.Eq(t, budget.Facts{
		Now: night,
		Job: budget.JobFacts{
			ID: "train", Name: "Train it", Namespace: "research", Region: "eu", Type: "batch", NodePool: "h100", Priority: 70, GPUs: 8,
			Datacenters: []string{"dc1"}, Meta: map[string]string{"tier": "spot"},
			Devices: []budget.DeviceFacts{
				{Group: "g", Task: "a", Name: "gpu", Type: "gpu", Count: 1},
				{Group: "g", Task: "b", Name: "nvidia/gpu", Vendor: "nvidia", Type: "gpu", Count: 2},
				{Group: "g", Task: "c", Name: "nvidia/gpu/A/B", Vendor: "nvidia", Type: "gpu", Model: "A/B", Count: 1},
			},
		},
		Submitter: budget.SubmitterFacts{Accessor: "a1", Names: []string{"role:x"}},
		Request:   budget.RequestFacts{Kind: "plan", PolicyOverride: true},
		Schedules: map[string]bool{"always": true, "never": false},
	}, factsOf(s, night, p))
}

func TestFactsWithoutAJobDocumentUseNomadsDefaults(t *testing.T) {
	t.Parallel()
	f := factsOf(gate.Submission{Ask: jobspec.Ask{JobID: "j"}}, time.Time{}, noPolicy())
	must.Eq(t, "default", f.Job.NodePool)
	must.Eq(t, "j", f.Job.Name)
	must.Eq(t, "register", f.Request.Kind)
}
