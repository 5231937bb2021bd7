package agent

import (
	"time"

	"github.com/hashicorp/go-hclog"
)

// AuditEvent is one thing that somebody did to budgets, or that a rule did.
type AuditEvent struct {
	At time.Time
	// Kind is stable: policy.applied, policy.edited, override.requested,
	// override.approved, override.activated, override.revoked, run.opened,
	// run.closed, budget.moved, enforcement.begun, enforcement.signalled,
	// enforcement.stopped, enforcement.scaled, enforcement.cancelled.
	Kind string
	// Actor is the accessor of who did it, "kv-edit" for an edit in the store and
	// "governor" for a rule; Names are the actor's.
	Actor string
	Names []string
	// Budget is the path concerned, Subject the id of the revision, override, run or hold.
	Budget, Subject string
	// Text is one sentence for people.
	Text string
	// Notify are the notifiers that must hear of it.
	Notify []string
}

// Auditor records what was done. It must not block for long and cannot refuse.
type Auditor interface {
	Record(e AuditEvent)
}

// logAuditor writes events to the agent's log.
type logAuditor struct{ logger hclog.Logger }

// Record implements Auditor.
func (a logAuditor) Record(e AuditEvent) {
	a.logger.Info(e.Text, "kind", e.Kind, "actor", e.Actor, "names", e.Names, "budget", e.Budget, "subject", e.Subject,
		"time", e.At.UTC(), "notify", e.Notify)
}

// actorGovernor is the actor of what a rule does.
const actorGovernor = "governor"
