package agent

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// listener is an auditor that keeps what it hears.
type listener struct {
	mu     sync.Mutex
	events []AuditEvent
}

// Record implements Auditor.
func (l *listener) Record(e AuditEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// kinds are what was heard since the last call.
func (l *listener) kinds() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	kinds := []string{}
	for _, e := range l.events {
		kinds = append(kinds, e.Kind)
	}
	l.events = nil
	return kinds
}

func (r *rig) listen() *listener {
	l := &listener{}
	r.chain.heard = l
	return l
}

// amend puts a changed copy of the policy into force.
func (r *rig) amend(change func(p *budget.Policy)) {
	p, diags := budgetspec.Parse(files(testPolicy(8, "1000")))
	must.False(r.t, diags.HasErrors())
	change(p)
	state := *r.Keeper.State()
	state.Policy = p
	r.Keeper.state.Store(&state)
}

// glass is an override for 4 GPUs more for 8 hours.
func glass() budget.Override {
	return budget.Override{Name: "glass", Who: []string{"token:default", "role:oncall"}, Expires: 8 * time.Hour,
		Max: map[budget.Dimension]quantity.Amount{budget.GPUs(budget.AnyClass): 4 * quantity.GPU}, Source: budget.Source{File: "budgets.hcl", Line: 30}}
}

// withGlass gives the root budget the override, changed.
func withGlass(change func(o *budget.Override)) func(p *budget.Policy) {
	return func(p *budget.Policy) {
		o := glass()
		change(&o)
		p.Roots[0].Overrides = []budget.Override{o}
	}
}

// overriding is a submission with -policy-override.
func overriding(s gate.Submission, reason string) gate.Submission {
	s.PolicyOverride = true
	if reason != "" {
		s.Ask.Meta[ReasonMeta] = reason
	}
	return s
}

var (
	oncall  = api.Caller{Accessor: "a-oncall", Names: []string{"role:oncall"}}
	oncall2 = api.Caller{Accessor: "a-oncall-2", Names: []string{"role:oncall"}}
)

func TestPolicyOverrideLiftsALimitForATime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.amend(withGlass(func(o *budget.Override) { o.ReasonRequired = true }))
	heard := r.listen()
	must.False(t, r.run(r.job("first", 1, 8)).Denied)

	v := r.run(r.job("urgent", 1, 3))
	must.Eq(t, "concurrency_limit", v.Reason, must.Sprint("without the flag it is refused"))
	must.SliceEmpty(t, heard.kinds())

	v = r.run(overriding(r.job("urgent", 1, 3), ""))
	must.True(t, v.Denied)
	contains(t, v.Message, `override "glass" of budget acme`, "needs a reason", ReasonMeta)
	must.SliceEmpty(t, heard.kinds())

	v = r.run(overriding(r.job("urgent", 1, 3), "the demo is today"))
	must.False(t, v.Denied, must.Sprint(v.Message))
	contains(t, strings.Join(v.Warnings, "\n"), "admitted by override o-", "counts until 2026-03-10 20:00 UTC")
	must.Eq(t, []string{"override.requested", "override.activated", "override.used"}, heard.kinds())
	must.Eq(t, 11, r.heldGPUs("acme"))
	r.checkBooks()

	must.False(t, r.run(r.job("also", 1, 1)).Denied, must.Sprint("a grant raises the limit for everybody"))
	must.Eq(t, []string{"override.used"}, heard.kinds())
	v = r.run(overriding(r.job("more", 1, 1), "once more"))
	must.True(t, v.Denied)
	contains(t, v.Message, "counts already", "does not fit even so")
	must.SliceEmpty(t, heard.kinds())

	r.clock.advance(8 * time.Hour)
	must.Eq(t, "concurrency_limit", r.run(r.job("late", 1, 1)).Reason, must.Sprint("it has expired"))
	must.NotNil(t, r.holdOf("default", "urgent"), must.Sprint("what runs goes on"))
}

func TestAnOverrideThatNeedsApprovalWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.amend(withGlass(func(o *budget.Override) { o.Approvals = 2 }))
	heard := r.listen()
	r.run(r.job("first", 1, 8))
	v := r.run(overriding(r.job("urgent", 1, 3), "why"))
	must.Eq(t, "waiting_for_approval", v.Reason)
	contains(t, v.Message, "waits for 2 approvals", "governor override approve o-", "urgent")
	all, err := r.Engine.Overrides(r.ctx)
	must.NoError(t, err)
	must.Len(t, 1, all)
	id := all[0].ID
	must.Eq(t, ledger.GrantWaiting, all[0].State)
	must.Eq(t, []string{"4 GPUs"}, all[0].Adds)
	must.Eq(t, "why", all[0].Reason)

	approve := func(who api.Caller) (OverrideStatus, error) { return r.Engine.ApproveOverride(r.ctx, who, id) }
	for name, c := range map[string]struct {
		who  api.Caller
		says string
	}{
		"who asked":       {api.Caller{Accessor: "accessor-default", Names: []string{"token:default"}}, "cannot approve it"},
		"an agent":        {api.Caller{Accessor: "x", Names: []string{"agent:planner", "role:oncall"}}, "never approve"},
		"an MCP client":   {api.Caller{Accessor: "x", Names: []string{"mcp:claude", "role:oncall"}}, "never approve"},
		"somebody else":   {api.Caller{Accessor: "x", Names: []string{"role:intern"}}, "is approved by"},
		"without ACLs on": {api.Caller{Accessor: anonymous, Names: []string{"acl:disabled", "role:oncall"}}, "nobody can approve"},
	} {
		_, err := approve(c.who)
		must.ErrorContains(t, err, c.says, must.Sprint(name))
		var p *api.Problem
		must.True(t, errors.As(err, &p))
		must.Eq(t, http.StatusForbidden, p.Status)
	}
	g, err := approve(oncall)
	must.NoError(t, err)
	must.Eq(t, ledger.GrantWaiting, g.State)
	_, err = approve(oncall)
	must.ErrorContains(t, err, "approved this override already")
	must.Eq(t, "waiting_for_approval", r.run(overriding(r.job("urgent", 1, 3), "why")).Reason)
	g, err = approve(oncall2)
	must.NoError(t, err)
	must.Eq(t, ledger.GrantActive, g.State)
	must.Eq(t, []string{"override.requested", "override.approved", "override.approved", "override.activated"}, heard.kinds())
	must.False(t, r.run(r.job("urgent", 1, 3)).Denied, must.Sprint("it counts, with or without the flag"))

	_, err = r.Engine.RevokeOverride(r.ctx, api.Caller{Accessor: "x", Names: []string{"role:intern"}}, id)
	must.ErrorContains(t, err, "may be refused or revoked by")
	_, err = r.Engine.RevokeOverride(r.ctx, oncall, id)
	must.NoError(t, err)
	must.Eq(t, "concurrency_limit", r.run(r.job("late", 1, 1)).Reason)
	must.Eq(t, []string{"override.used", "override.revoked"}, heard.kinds())
}

func TestWhatPolicyOverrideDoesNotLift(t *testing.T) {
	t.Parallel()
	same := func(*budget.Override) {}
	cases := map[string]struct {
		policy func(p *budget.Policy)
		change func(s *gate.Submission)
		says   string
	}{
		"hard-mandatory": {func(p *budget.Policy) { withGlass(same)(p); p.Roots[0].Enforcement = budget.HardMandatory }, nil, "hard-mandatory"},
		"for others":     {withGlass(func(o *budget.Override) { o.Who = []string{"role:oncall"} }), nil, "no override of budget acme is for token:default"},
		"too little":     {withGlass(same), func(s *gate.Submission) { s.Ask.Groups[0].Count = 5 }, "short by 5 GPUs"},
		"other amounts": {withGlass(func(o *budget.Override) { o.Max = map[budget.Dimension]quantity.Amount{budget.Cost: 4} }), nil,
			"adds at most 0 GPUs"},
		"a job's bounds": {func(p *budget.Policy) {
			withGlass(same)(p)
			p.Find("acme/research").PerJob.GPUs = &budget.JobLimit{Ceiling: quantity.LimitOf(quantity.GPU)}
		}, func(s *gate.Submission) { s.Ask.Groups[0].Count = 2 }, "bounds of a single job"},
		"a plan": {withGlass(func(o *budget.Override) { o.Approvals = 1 }), func(s *gate.Submission) { s.Kind = gate.Plan },
			"if it is run with -policy-override, it asks for override \"glass\" of budget acme (budgets.hcl:30), which takes 1 approval"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.amend(c.policy)
			heard := r.listen()
			for i := range 8 {
				must.False(t, r.run(r.job(fmt.Sprint("first-", i), 1, 1)).Denied)
			}
			s := overriding(r.job("urgent", 1, 1), "why")
			if c.change != nil {
				c.change(&s)
			}
			v := r.admit(s)
			must.True(t, v.Denied)
			contains(t, v.Message, c.says)
			must.SliceEmpty(t, heard.kinds())
			must.Eq(t, 8, r.heldGPUs("acme"))
		})
	}
}

// What acts by itself may ask for more with its job, and a person must agree.
func TestAnAgentMayRequestAndNeverHasTheLastWord(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.amend(withGlass(func(*budget.Override) {}))
	r.run(r.job("first", 1, 8))
	s := overriding(r.job("urgent", 1, 2), "my training diverges")
	s.Identity = gate.Identity{Accessor: "bot", Names: []string{"agent:trainer"}}
	v := r.run(s)
	must.Eq(t, "waiting_for_approval", v.Reason)
	all, err := r.Engine.Overrides(r.ctx)
	must.NoError(t, err)
	_, err = r.Engine.ApproveOverride(r.ctx, oncall, all[0].ID)
	must.NoError(t, err)
	must.False(t, r.run(s).Denied)
}

func TestAnAdvisoryBudgetHoldsAndNeverBlocks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.amend(func(p *budget.Policy) { p.Roots[0].Enforcement = budget.Advisory })
	r.run(r.job("first", 1, 8))
	v := r.run(r.job("more", 1, 3))
	must.False(t, v.Denied)
	contains(t, strings.Join(v.Warnings, "\n"), "budget acme is advisory", "concurrency_limit")
	must.Eq(t, 11, r.heldGPUs("acme"))
	r.checkBooks()
}
