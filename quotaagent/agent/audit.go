package agent

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/audit"
)

// AuditEvent is one thing that somebody did to budgets, or that a rule did.
type AuditEvent struct {
	At time.Time
	// Kind is stable: policy.applied, policy.edited, override.requested,
	// override.approved, override.activated, override.used, override.revoked,
	// override.ended, run.opened, run.closed, run.expired, budget.moved, usage.corrected,
	// queue.expired, launch.refused, out_of_band.governed, out_of_band.refused,
	// out_of_band.scaled, enforcement.begun, enforcement.signalled, enforcement.stopped,
	// enforcement.scaled, enforcement.cancelled, placement.replaced, gang.rolled_back,
	// gang.rollback_cancelled, gang.given_up, bypass.opened, bypass.closed,
	// leader.stepped_down.
	Kind string
	// Actor is the accessor of who did it, "kv-edit" for an edit in the store and
	// "governor" for a rule; Names are the actor's.
	Actor string
	Names []string
	// Budget is the path concerned, Subject the id of the revision, override, run or
	// hold, or the namespace and id of a job.
	Budget, Subject string
	// Text is one sentence for people.
	Text string
	// Notify are the notifiers that must hear of it.
	Notify []string
}

func (e AuditEvent) record() audit.Record {
	return audit.Record{Actor: e.Actor, AtMS: e.At.UnixMilli(), Budget: e.Budget, Kind: e.Kind, Names: e.Names, Notify: e.Notify,
		Subject: e.Subject, Text: e.Text}
}

// Auditor hears what was done. It must not block for long and cannot refuse.
type Auditor interface {
	Record(e AuditEvent)
}

// Archive keeps audit records for good; the store only has the latest.
type Archive interface {
	// Keep adds records. One that is kept already is nothing new; one that differs
	// from what is kept under its number is an error.
	Keep(ctx context.Context, records []audit.Record) error
	// Records returns at most so many from a number on, in order.
	Records(ctx context.Context, from uint64, most int) ([]audit.Record, error)
	// Last is the number of the last record that is kept; 0 for none.
	Last() uint64
}

// logAuditor writes events to the agent's log.
type logAuditor struct{ logger hclog.Logger }

// Record implements Auditor.
func (a logAuditor) Record(e AuditEvent) {
	a.logger.Info(e.Text, "kind", e.Kind, "actor", e.Actor, "names", e.Names, "budget", e.Budget, "subject", e.Subject,
		"time", e.At.UTC(), "notify", e.Notify)
}

// auditors tells several.
type auditors []Auditor

// Record implements Auditor.
func (a auditors) Record(e AuditEvent) {
	for _, one := range a {
		one.Record(e)
	}
}

// actorGovernor is the actor of what a rule does.
const actorGovernor = "governor"
