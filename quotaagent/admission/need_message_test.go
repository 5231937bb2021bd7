package admission_test

import (
	"testing"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/shoenig/test/must"
)

// TestNeedRefusals keeps the texts about jobs that have no worst case.
func TestNeedRefusals(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		ask     jobspec.Ask
		cluster admission.Cluster
		edit    func(p *budget.Policy)
		reason  admission.Reason
	}{
		"refusal_nodes_unknown": {ask: asked("system", "", group("g", 1, "nvidia/gpu/V100", 1)),
			cluster: admission.Cluster{Eligible: nodes(0, false)}, reason: admission.NodesUnknown},
		"refusal_too_many_allocations": {ask: asked("batch", "1h", group("a", 4000, "nvidia/gpu/V100", 1), group("b", 1001, "nvidia/gpu/V100", 1)),
			reason: admission.TooManyAllocations},
		"refusal_no_watts": {ask: asked("batch", "1h", group("g", 1, "nvidia/gpu/V100", 1)), reason: admission.NoWatts, edit: func(p *budget.Policy) {
			p.Roots[0].Limits = append(p.Roots[0].Limits, budget.Limit{Window: budget.Month, Dimension: budget.Energy, Ceiling: quantity.LimitOf(quantity.KWh)})
		}},
		"refusal_no_model": {ask: asked("batch", "1h", jobspec.GroupAsk{Name: "g", Count: 1, Devices: []jobspec.DeviceAsk{{Task: "main", Name: "nvidia/gpu", Count: 1,
			Constraints: []jobspec.Constraint{{LTarget: "${device.model}", Operand: "=", RTarget: "T4"}}}}}), reason: admission.NoClass},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := acme(t)
			if tc.edit != nil {
				tc.edit(p)
			}
			b := p.Find("acme/nlp")
			_, refusal := admission.Need(p, b, tc.ask, tc.cluster, noon)
			must.NotNil(t, refusal)
			must.EqOp(t, tc.reason, refusal.Reason)
			golden(t, name, admission.Refuse(p, b, *refusal).Denial(p, tc.ask))
		})
	}
}

func TestUndeclaredGPUs(t *testing.T) {
	t.Parallel()
	p := acme(t)
	must.Nil(t, admission.UndeclaredGPUs(nil))
	one := jobspec.Undeclared{Group: "g", Task: "main", What: "docker option privileged = true", Fix: "remove it"}
	refusal := admission.UndeclaredGPUs([]jobspec.Undeclared{one})
	golden(t, "refusal_undeclared", admission.Refuse(p, p.Find("acme/nlp"), *refusal).Denial(p, asked("batch", "1h")))
	refusal = admission.UndeclaredGPUs([]jobspec.Undeclared{one, one, one, one, one, one})
	golden(t, "refusal_undeclared_many", admission.Refuse(p, p.Find("acme/nlp"), *refusal).Denial(p, asked("batch", "1h")))
}

// TestTemplates: a periodic job is refused only if no launch could ever fit, and
// whatever is held now.
func TestTemplates(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		ask     jobspec.Ask
		outcome admission.Outcome
	}{
		"template_fits":            {periodic(group("g", 1, "nvidia/gpu/V100", 2)), admission.Admit},
		"template_exceeds_job_cap": {periodic(group("g", 2, "nvidia/gpu/V100", 8)), admission.Deny},
		"template_exceeds_budget":  {periodic(group("g", 1, "nvidia/gpu/H100", 8)), admission.Deny},
		"template_parameterized":   {jobspec.Ask{Type: "batch", Parameterized: true, Groups: []jobspec.GroupAsk{group("g", 9, "nvidia/gpu/V100", 8)}}, admission.Admit},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := acme(t)
			b := p.Find("acme/nlp")
			lines, refusal := admission.Need(p, b, tc.ask, admission.Cluster{}, noon)
			must.Nil(t, refusal)
			d := admission.Template(p, b, tc.ask, lines, noon)
			must.EqOp(t, tc.outcome, d.Outcome)
			if d.Outcome == admission.Deny {
				golden(t, name, d.Denial(p, tc.ask))
				return
			}
			golden(t, name, admission.TemplateNotice(p, d, tc.ask))
		})
	}
}

func periodic(groups ...jobspec.GroupAsk) jobspec.Ask {
	ask := asked("batch", "1h", groups...)
	ask.Periodic = true
	return ask
}
