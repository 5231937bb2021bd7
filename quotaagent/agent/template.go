package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// admitTemplate decides about a periodic or parameterized job, of which nothing
// runs: nothing is held for it, and what it held while it was a job of its own is
// given back. Its launches are submissions of their own.
func (e *Engine) admitTemplate(ctx context.Context, p *budget.Policy, s gate.Submission) gate.Verdict {
	b, refusal := claim(p, s, e.now())
	placed := Placement{Release: func() {}}
	if refusal == nil && b == nil {
		return e.admitUngoverned(s, placed, p)
	}
	var d admission.Decision
	var lines []ledger.Line
	if refusal == nil {
		lines, refusal = admission.Need(p, b, s.Ask, e.clusterNow(ctx, s), e.now())
	}
	if refusal == nil {
		refusal = e.asserted(p, s, lines)
	}
	if refusal != nil {
		d = admission.Refuse(p, b, *refusal)
	} else {
		d = admission.Template(p, b, s.Ask, lines, e.now())
	}
	e.log(s, d)
	if d.Outcome == admission.Deny {
		return e.verdict(p, s, d, placed)
	}
	verdict := e.keepTemplate(s, e.admitNothing(ctx, s))
	verdict.Reason, verdict.Account = string(d.Reason), accountOf(p, s, d, placed)
	verdict.Warnings = []string{d.Notice(p)}
	if d.Refusal == nil && !d.Shadow {
		verdict.Warnings = []string{admission.TemplateNotice(p, d, s.Ask)}
	}
	return verdict
}

// clusterNow is what admission needs to know of the cluster for a template: a
// sysbatch launch has the size of the cluster.
func (e *Engine) clusterNow(ctx context.Context, s gate.Submission) admission.Cluster {
	if !s.Ask.EveryNode() {
		return admission.Cluster{}
	}
	placed, err := e.placer.Place(ctx, s, Placing{})
	if err != nil {
		e.logger.Warn("eligible nodes not counted", "namespace", s.Ask.Namespace, "job_id", s.Ask.JobID, "error", err)
		return admission.Cluster{}
	}
	defer placed.Release()
	return admission.Cluster{Eligible: placed.Eligible}
}

// refuseUndeclared refuses a job that can reach GPUs that it was not given,
// unless its budget allows that. A job that no budget claims is refused too if
// the policy denies such work; before there is any policy, nothing is.
func (e *Engine) refuseUndeclared(p *budget.Policy, s gate.Submission) *gate.Verdict {
	refusal := admission.UndeclaredGPUs(s.Ask.Undeclared)
	if refusal == nil || len(p.Roots) == 0 {
		return nil
	}
	b, unclaimed := claim(p, s, e.now())
	switch {
	case b != nil && b.AllowsUndeclared(), b == nil && unclaimed == nil:
		return nil
	}
	d := admission.Refuse(p, b, *refusal)
	e.log(s, d)
	if d.Outcome == admission.Deny {
		verdict := e.verdict(p, s, d, Placement{})
		return &verdict
	}
	return nil // shadow mode: only recorded
}

func templateKey(namespace, jobID string) string { return templatePrefix + jobHash(namespace, jobID) }

// keepTemplate remembers who submitted a template when Nomad has registered it: its
// launches are decided as his. Without it they are decided as nobody's.
func (e *Engine) keepTemplate(s gate.Submission, v gate.Verdict) gate.Verdict {
	if s.Kind != gate.Register && s.Kind != gate.Dispatch {
		return v
	}
	settle := v.Settle
	v.Settle = func(ctx context.Context, o gate.Outcome) {
		if settle != nil {
			settle(ctx, o)
		}
		if o.Known && !o.Accepted || s.Kind == gate.Dispatch && o.JobID == "" {
			return
		}
		if s.Kind == gate.Dispatch {
			s.Ask.JobID = o.JobID // a periodic job that was dispatched launches under this id
		}
		if err := e.writeTemplate(ctx, s); err != nil {
			e.logger.Warn("submitter of a template not remembered", "namespace", s.Ask.Namespace, "job_id", s.Ask.JobID, "error", err)
		}
	}
	return v
}

// templateAttempts bounds how often a lost race is tried again.
const templateAttempts = 5

func (e *Engine) writeTemplate(ctx context.Context, s gate.Submission) error {
	key := templateKey(s.Ask.Namespace, s.Ask.JobID)
	value, err := ledger.Encode(ledger.Template{Namespace: s.Ask.Namespace, JobID: s.Ask.JobID, Accessor: s.Identity.Accessor,
		Identity: s.Identity.Names, AtMS: e.now().UnixMilli()})
	if err != nil {
		return fmt.Errorf("encode template: %w", err)
	}
	for attempt := 1; ; attempt++ {
		records, err := e.books.store.Read(ctx, key)
		if err != nil {
			return fmt.Errorf("read template: %w", err)
		}
		err = e.books.commit(ctx, ledger.Fence{}, []ledger.Write{{Key: key, Value: value, Version: records[0].Version}})
		if !errors.Is(err, ledger.ErrConflict) || attempt == templateAttempts {
			return err
		}
	}
}

// template is who submitted a template; empty when that is not known.
func (e *Engine) template(ctx context.Context, namespace, jobID string) (ledger.Template, error) {
	records, err := e.books.store.Read(ctx, templateKey(namespace, jobID))
	if err != nil || records[0].Version == 0 {
		return ledger.Template{}, err
	}
	return ledger.Decode[ledger.Template](records[0].Value)
}
