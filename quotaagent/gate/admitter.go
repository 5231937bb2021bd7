package gate

import (
	"context"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// Kind says what a submission wants from Nomad.
type Kind uint8

// The governed submissions. Plan and Validate have no effect: they are decided
// in the same way, but nothing is held. Dispatch and PeriodicForce ask for a
// child of the job that they name, whose id only Nomad's answer tells.
const (
	Register Kind = iota
	Plan
	Validate
	Scale
	Dispatch
	PeriodicForce
	Revert
)

// Commits reports whether the submission changes what Nomad runs.
func (k Kind) Commits() bool { return k != Plan && k != Validate }

// Launches reports whether the submission starts a child of the job it names.
func (k Kind) Launches() bool { return k == Dispatch || k == PeriodicForce }

// String is the kind's stable name, also in conditions of the policy
// (request.kind).
func (k Kind) String() string {
	return [...]string{"register", "plan", "validate", "scale", "dispatch", "periodic", "revert"}[k]
}

// Submission is one governed request, after the gate has canonicalised it.
type Submission struct {
	Kind Kind
	Ask  jobspec.Ask
	// Job is the effective job as it would be registered, before placement.
	Job *api.Job
	// Stored is the job now registered under this id, or nil.
	Stored   *api.Job
	Identity Identity
	// KeepsResources says that tasks of the stored job keep their devices and the
	// constraints on them: Nomad throws away what a patch adds there.
	KeepsResources bool
	// PolicyOverride is the flag of `nomad job run -policy-override`.
	PolicyOverride bool
	// Fresh says that a decision without effect may rest on nothing that is remembered:
	// somebody else carries it out. What commits never does.
	Fresh bool
	// LaunchToken names a dispatch: the child carries it, so that it is found when
	// Nomad's answer is lost.
	LaunchToken string
	// Explain asks for Verdict.Account. Nothing is on its way to Nomad then.
	Explain bool
	// Since is when the gate told a Preparer of the submission: what was read after that
	// is new enough for it. Zero: what is read from the call on.
	Since time.Time
}

// Preparer is an Admitter that can read what it will need while the gate still reads the
// job that is stored.
type Preparer interface {
	// Prepare says that a submission that asks for GPUs and commits is about to follow. It
	// does not wait.
	Prepare()
}

// Identity is who submits, as Nomad itself vouches for it or, where Nomad runs
// without ACLs, the connection.
type Identity struct {
	// Accessor tells submitters apart: the accessor of the ACL token, or the name of a
	// task, of a client certificate or of a proxy's user. Empty for those who cannot be
	// told apart.
	Accessor string
	// Names that match rules are written against, sorted: "token:<name>",
	// "role:<name>", "policy:<name>", "type:management", "user:<name>",
	// "workload:<namespace>/<job>", "cert:<subject alternative name>".
	Names []string
	// Workload is the task that submits with its own identity; nil for others.
	Workload *Workload
}

// Workload is a task of a job that runs.
type Workload struct {
	Namespace string
	// JobID is the job of its allocation, and ParentID the template of a launched one,
	// else the same.
	JobID, ParentID string
	Allocation      string
}

// Name is what all tasks of the job are called.
func (w Workload) Name() string { return NameWorkload + ":" + w.Namespace + "/" + w.ParentID }

// Verdict is the Admitter's answer.
type Verdict struct {
	// Denied, with Message for people (several lines) and Reason, a stable code.
	// Nothing is held then.
	Denied  bool
	Reason  string
	Message string
	// Warnings are shown by the stock CLI, each may have several lines.
	Warnings []string
	// Account is all that the Admitter knows of the decision, for Governor's own API; nil
	// unless the submission asks for it.
	Account any
	// Patch is what placement adds to the document. It is not used for submissions
	// of which Nomad makes the job itself: Scale, Dispatch and PeriodicForce.
	Patch jobspec.Patch
	// AsStored says that nothing more is held than for the stored job, because the
	// submission is that job: it must not reach Nomad once that has changed or gone.
	AsStored bool
	// Until is when the submission must have reached Nomad: what is held does not cover
	// what would start later. Zero when nothing is held.
	Until time.Time
	// Settle must be called exactly once for a submission that commits and was not
	// denied, when Nomad has answered; nil when nothing is held.
	Settle func(ctx context.Context, outcome Outcome)
}

// Outcome is what became of a forwarded registration.
type Outcome struct {
	// Known is false when the answer was lost: the reconciler finds out.
	Known bool
	// Accepted says that Nomad registered the job at JobModifyIndex.
	Accepted       bool
	JobModifyIndex uint64
	// JobID is the id of the child that Nomad launched; "" when the submission was
	// of the job itself.
	JobID string
	// Job is that child as Nomad has it; nil when the submission was of the job
	// itself.
	Job *api.Job
}

// Admitter decides about GPU work. An error means that it could not decide
// (ledger unreachable); the gate then refuses with 503 and the error's text.
type Admitter interface {
	Admit(ctx context.Context, s Submission) (Verdict, error)
}
