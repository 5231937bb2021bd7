package jobspec

import (
	"encoding/json"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func gpusOf(t *testing.T, job *api.Job) int {
	t.Helper()
	ask, err := Extract(job, Defaults{})
	must.NoError(t, err)
	return ask.GPUs()
}

const (
	submittedCPU = `{"ID":"a","TaskGroups":[{"Name":"g","Count":1,"Tasks":[{"Name":"t"}]},{"Name":"new","Count":1,"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"gpu","Count":1}]}}]}]}`
	storedGPU    = `{"ID":"a","TaskGroups":[{"Name":"g","Count":3,"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"gpu","Count":2}]}}]},{"Name":"old","Count":9,"Tasks":[{"Name":"t","Resources":{"Devices":[{"Name":"gpu","Count":4}]}}]}]}`
)

func TestEffective_keepsWhatTheFlagsSay(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		preserve Preserve
		want     int
	}{
		"nothing":              {Preserve{}, 1},
		"counts only":          {Preserve{Counts: true}, 1},
		"resources only":       {Preserve{Resources: true}, 2 + 1},
		"counts and resources": {Preserve{Counts: true, Resources: true}, 3*2 + 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Effective(parseJob(t, submittedCPU), parseJob(t, storedGPU), tc.preserve)
			must.EqOp(t, tc.want, gpusOf(t, got))
			must.Len(t, 2, got.TaskGroups)
		})
	}
}

func TestEffective_keepsTheResourcesOfASidecar(t *testing.T) {
	t.Parallel()
	submitted := parseJob(t, `{"ID":"a","TaskGroups":[{"Name":"g","Tasks":[{"Name":"t"}],
		"Services":[{"Name":"web","Connect":{"SidecarService":{}}}]}]}`)
	stored := parseJob(t, `{"ID":"a","TaskGroups":[{"Name":"g","Tasks":[{"Name":"t"},
		{"Name":"connect-proxy-web","Resources":{"Devices":[{"Name":"gpu","Count":2}]}}]}]}`)
	must.EqOp(t, 2, gpusOf(t, Effective(submitted, stored, Preserve{Resources: true})))
	must.EqOp(t, 0, gpusOf(t, Effective(submitted, stored, Preserve{Counts: true})))
}

func TestEffective_keepsTheResourcesOfEveryTaskThatNomadAdds(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		service, stored string
		want            int
	}{
		"a gateway":                     {`{"Name":"web","Connect":{"Gateway":{}}}`, "connect-ingress-web", 2},
		"a service name with variables": {`{"Name":"${NOMAD_JOB_NAME}-web","Connect":{"SidecarService":{}}}`, "connect-proxy-a-web", 2},
		"a sidecar of another name":     {`{"Name":"web","Connect":{"SidecarService":{},"SidecarTask":{"Name":"envoy"}}}`, "envoy", 2},
		"another service":               {`{"Name":"web","Connect":{"SidecarService":{}}}`, "connect-proxy-other", 0},
		"no Connect":                    {`{"Name":"web"}`, "connect-proxy-web", 0},
		"a task that is submitted":      {`{"Name":"web","Connect":{"SidecarService":{},"SidecarTask":{"Name":"t"}}}`, "t", 2},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			submitted := parseJob(t, `{"ID":"a","TaskGroups":[{"Name":"g","Tasks":[{"Name":"t"}],"Services":[`+tc.service+`]}]}`)
			stored := parseJob(t, `{"ID":"a","TaskGroups":[{"Name":"g","Tasks":[{"Name":"`+tc.stored+
				`","Resources":{"Devices":[{"Name":"gpu","Count":2}]}}]}]}`)
			must.EqOp(t, tc.want, gpusOf(t, Effective(submitted, stored, Preserve{Resources: true})))
		})
	}
}

func TestEffective_changesNeitherJob(t *testing.T) {
	t.Parallel()
	submitted, stored := parseJob(t, submittedCPU), parseJob(t, storedGPU)
	before := marshal(t, submitted) + marshal(t, stored)
	Effective(submitted, stored, Preserve{Counts: true, Resources: true})
	must.EqOp(t, before, marshal(t, submitted)+marshal(t, stored))
}

func TestEffective_withoutAStoredJobIsTheSubmittedOne(t *testing.T) {
	t.Parallel()
	submitted := parseJob(t, submittedCPU)
	must.True(t, Effective(submitted, nil, Preserve{Counts: true, Resources: true}) == submitted)
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	must.NoError(t, err)
	return string(raw)
}

// The reference is a literal reading of Nomad's updatePreservedValues on
// copies of both jobs.
func TestEffective_equalsNomadsOwnRule(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		submitted, stored := genJob(t), genJob(t)
		for _, j := range []*api.Job{submitted, stored} {
			for _, g := range j.TaskGroups {
				g.Services = nil // Nomad expands these before the rule applies
				if g.Count == nil {
					one := 1
					g.Count = &one
				}
			}
		}
		preserve := Preserve{Counts: rapid.Bool().Draw(t, "counts"), Resources: rapid.Bool().Draw(t, "resources")}
		got := Effective(submitted, stored, preserve)
		want := referenceEffective(submitted, stored, preserve)
		must.Eq(t, want, got)
	})
}

func referenceEffective(submitted, stored *api.Job, preserve Preserve) *api.Job {
	var out api.Job
	raw, err := json.Marshal(submitted)
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		panic(err)
	}
	counts, resources := map[string]int{}, map[string]*api.Resources{}
	for _, g := range stored.TaskGroups {
		counts[*g.Name] = *g.Count
		for _, t := range g.Tasks {
			resources[*g.Name+"/"+t.Name] = t.Resources
		}
	}
	for _, g := range out.TaskGroups {
		if c, ok := counts[*g.Name]; ok && preserve.Counts {
			g.Count = &c
		}
		for _, t := range g.Tasks {
			if r, ok := resources[*g.Name+"/"+t.Name]; ok && preserve.Resources {
				t.Resources = r
			}
		}
	}
	return &out
}
