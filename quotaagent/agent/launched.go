package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// A launch through the gate is held before Nomad has given it an id. Until then the
// hold is kept under a name that follows from the template and the launch's token;
// when the child is known, the hold moves to it. Whoever is first moves it: the agent
// that admitted it, with Nomad's answer, or the leader, when the child runs.

const (
	pendingDispatch = "/dispatch-pending-"
	pendingForced   = "/periodic-pending-"
)

// heldAs is the id of the job under which a submission is held.
func heldAs(s gate.Submission) string {
	switch s.Kind {
	case gate.Dispatch:
		return dispatchPending(s.Ask.JobID, s.LaunchToken)
	case gate.PeriodicForce:
		if s.LaunchToken != "" {
			return s.Ask.JobID + pendingForced + s.LaunchToken
		}
	case gate.Register, gate.Plan, gate.Validate, gate.Scale, gate.Revert:
	}
	return s.Ask.JobID
}

// dispatchPending is the name of a dispatch before its child is known; without a
// token it is the child itself.
func dispatchPending(parent, token string) string {
	if token == "" {
		return parent
	}
	sum := sha256.Sum256([]byte(token))
	return parent + pendingDispatch + hex.EncodeToString(sum[:8])
}

// asLaunched is a submission as whose it is, and that of a launch with a name of its
// own. One that is forced is its template's submitter's, as if Nomad had launched it by
// itself.
func (e *Engine) asLaunched(ctx context.Context, s gate.Submission) (gate.Submission, error) {
	s, err := e.asOwned(ctx, s)
	if err != nil {
		return s, err
	}
	if s.Kind.Launches() && s.LaunchToken == "" {
		s.LaunchToken = e.books.newID()
	}
	if s.Kind != gate.PeriodicForce {
		return s, nil
	}
	owner, err := e.template(ctx, s.Ask.Namespace, s.Ask.JobID)
	if err != nil {
		return s, err
	}
	if owner.JobID != "" {
		e.logger.Info("launch forced", "namespace", s.Ask.Namespace, "job_id", s.Ask.JobID, "by", s.Identity.Accessor)
		s.Identity = gate.Identity{Accessor: owner.Accessor, Names: owner.Identity}
	}
	return s, nil
}

// done says for each kind of request what did not happen when it was refused.
var done = map[gate.Kind]string{gate.Register: "registered", gate.Plan: "registered", gate.Validate: "registered", gate.Scale: "scaled",
	gate.Dispatch: "dispatched", gate.PeriodicForce: "launched", gate.Revert: "reverted"}

// settleLaunch ends the submission of a launch. A lost answer is left to the leader.
func (e *Engine) settleLaunch(ctx context.Context, s gate.Submission, t ticket, o gate.Outcome) {
	if !o.Known {
		e.logger.Warn("answer lost, reconciling", "job_id", s.Ask.JobID, "namespace", s.Ask.Namespace)
		return
	}
	launched := o.Accepted && o.JobID != "" && sameLaunch(s, o.Job)
	var err error
	if launched {
		defer e.settled(s.Ask.Namespace, o.JobID)
		err = e.moveLaunch(ctx, ledger.Fence{}, t.key, t.after, s.Ask.Namespace, o.JobID, o.JobModifyIndex)
	} else {
		err = e.dropLaunch(ctx, ledger.Fence{}, t.key, t.after)
	}
	if err != nil {
		e.logger.Warn("launch not settled yet, reconciling", "job_id", s.Ask.JobID, "namespace", s.Ask.Namespace, "error", err)
	}
}

// sameLaunch reports whether Nomad has launched what was decided about: the template
// may have changed in between.
func sameLaunch(s gate.Submission, child *api.Job) bool {
	if child == nil {
		return false
	}
	ask, err := jobspec.Extract(child, jobspec.Defaults{Namespace: s.Ask.Namespace})
	return err == nil && ask.Type == s.Ask.Type && reflect.DeepEqual(ask.Groups, s.Ask.Groups)
}

// moveLaunch moves a hold to the child that Nomad has launched at index, and confirms
// it. A child that has a hold, or had one, was launched before: Nomad answers the same
// request twice with the same child.
func (e *Engine) moveLaunch(ctx context.Context, fence ledger.Fence, key, path, namespace, jobID string, index uint64) error {
	records, err := e.books.store.Read(ctx, settledPrefix+launchID(namespace, jobID))
	if err != nil {
		return err
	}
	had := records[0].Version != 0
	t := target{key: key, to: holdKey(namespace, jobID), budget: path, calendar: ledger.CalendarOf(e.policy.State().Policy)}
	return e.books.update(ctx, fence, t, func(v view) (change, error) {
		switch {
		case v.hold.Hold == nil:
			return change{}, errNoChange // it was moved, or has expired
		case had || v.there != nil:
			return change{}, nil
		}
		next := *v.hold.Hold
		next.InFlight = 1 // whoever asked, there is one child
		next = ledger.Confirm(next, index)
		next.ID, next.JobID = launchID(namespace, jobID), jobID
		next.FirstIndex = 0 // all its allocations are its own: the id is new
		return change{hold: &next, moved: true}, nil
	})
}

// dropLaunch ends the hold of a launch that did not happen.
func (e *Engine) dropLaunch(ctx context.Context, fence ledger.Fence, key, path string) error {
	t := target{key: key, budget: path, calendar: ledger.CalendarOf(e.policy.State().Policy)}
	return e.books.update(ctx, fence, t, func(v view) (change, error) {
		if v.hold.Hold == nil {
			return change{}, errNoChange
		}
		return change{}, nil
	})
}

// pendingLaunch finds the hold that was made for a launch before its child was known.
// One of a periodic job fits every child of it: they are all alike.
func (e *Engine) pendingLaunch(ctx context.Context, s gate.Submission) (*ledger.Hold, error) {
	if s.Kind == gate.Dispatch {
		token := s.Job.DispatchIdempotencyToken
		if token == nil || *token == "" {
			return nil, nil
		}
		h, err := e.books.readHold(ctx, holdKey(s.Ask.Namespace, dispatchPending(parentOf(s.Ask.JobID), *token)))
		return h.Hold, err
	}
	open, _, err := e.books.holds(ctx)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(open, func(h heldAt) bool {
		return h.Namespace == s.Ask.Namespace && strings.HasPrefix(h.JobID, parentOf(s.Ask.JobID)+pendingForced)
	})
	if at < 0 {
		return nil, nil
	}
	return open[at].Hold, nil
}

// adoptPending gives a launch the hold that was made for it, if there is one and it is
// enough for what Nomad has launched.
func (e *Engine) adoptPending(ctx context.Context, fence ledger.Fence, s gate.Submission, placed Placement, index uint64) (bool, error) {
	h, err := e.pendingLaunch(ctx, s)
	if err != nil || h == nil {
		return false, err
	}
	p, key := e.policy.State().Policy, holdKey(h.Namespace, h.JobID)
	b := p.Find(p.Moved(h.Budget))
	if b == nil {
		return false, e.dropLaunch(ctx, fence, key, h.Budget)
	}
	_, lines, refusal := e.appraiseIn(p, b, s, placed)
	if refusal != nil || grown(h.Pending, lines, e.rulesOf(p).Calendar) {
		return false, e.dropLaunch(ctx, fence, key, h.Budget)
	}
	return true, e.moveLaunch(ctx, fence, key, h.Budget, s.Ask.Namespace, s.Ask.JobID, index)
}

// appraiseScaled is appraise, but for a job that is scaled: that stays in the budget
// in which it is, whoever scales it.
func (e *Engine) appraiseScaled(ctx context.Context, p *budget.Policy, s gate.Submission, placed Placement) (*budget.Budget, []ledger.Line, *admission.Refusal, error) {
	if s.Kind == gate.Scale {
		h, err := e.books.readHold(ctx, holdKey(s.Ask.Namespace, s.Ask.JobID))
		if err != nil {
			return nil, nil, nil, err
		}
		if h.Hold != nil {
			if b := p.Find(p.Moved(h.Budget)); b != nil {
				b, lines, refusal := e.appraiseIn(p, b, s, placed)
				return b, lines, refusal, nil
			}
		}
	}
	b, lines, refusal := e.appraise(p, s, placed)
	return b, lines, refusal, nil
}

// givesBack reports whether a submission only makes a registered job smaller. That is
// never refused.
func givesBack(s gate.Submission) bool {
	if s.Kind != gate.Scale || s.Stored == nil {
		return false
	}
	for _, g := range s.Job.TaskGroups {
		was := groupOf(s.Stored, *g.Name)
		if was == nil || countOf(g) > countOf(was) {
			return false
		}
	}
	return true
}

func countOf(g *api.TaskGroup) int {
	if g.Count == nil {
		return 1
	}
	return *g.Count
}
