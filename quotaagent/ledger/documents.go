package ledger

import (
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Amounts is an amount for each dimension.
type Amounts map[budget.Dimension]quantity.Amount

// Grant is a break-glass grant: for a time it raises the limits of one budget.
// It is a request until it has the approvals that its rule asks for.
type Grant struct {
	ID string `json:"id"`
	// Budget is the path whose own limits it raises, Rule the override block that
	// allows it.
	Budget string `json:"budget"`
	Rule   string `json:"rule"`
	// Accessor and Identity say who asked, Reason why.
	Accessor string   `json:"accessor,omitempty"`
	Identity []string `json:"identity,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	// Max is what it adds to a limit of each dimension, in every window.
	Max         Amounts `json:"max"`
	RequestedMS int64   `json:"requested_ms"`
	// FromMS and UntilMS are when it counts; 0 while it waits for approval.
	FromMS  int64 `json:"from_ms,omitempty"`
	UntilMS int64 `json:"until_ms,omitempty"`
	// Needed is how many approvals it takes; Approvals are those given.
	Needed    int        `json:"needed,omitempty"`
	Approvals []Approval `json:"approvals,omitempty"`
	// RevokedMS is when it was taken back or refused; 0 if it was not.
	RevokedMS int64  `json:"revoked_ms,omitempty"`
	RevokedBy string `json:"revoked_by,omitempty"`
	// EndTold says that its end was recorded, which comes by itself.
	EndTold bool `json:"end_told,omitempty"`
}

// Approval is one yes to a grant.
type Approval struct {
	By       string   `json:"by"`
	Identity []string `json:"identity,omitempty"`
	AtMS     int64    `json:"at_ms"`
}

// Active reports whether the grant counts at an instant.
func (g Grant) Active(nowMS int64) bool {
	return g.FromMS != 0 && nowMS >= g.FromMS && nowMS < g.UntilMS && (g.RevokedMS == 0 || nowMS < g.RevokedMS)
}

// Run is the envelope of one agent run: its caps are held whole from the
// beginning, and its jobs draw from them.
type Run struct {
	ID     string `json:"id"`
	Budget string `json:"budget"`
	// Accessor and Identity say who opened it.
	Accessor string   `json:"accessor,omitempty"`
	Identity []string `json:"identity,omitempty"`
	// Note says what it is for.
	Note     string `json:"note,omitempty"`
	OpenedMS int64  `json:"opened_ms"`
	// UntilMS is when it ends by itself; ClosedMS when it was closed, 0 while open.
	UntilMS  int64 `json:"until_ms"`
	ClosedMS int64 `json:"closed_ms,omitempty"`
	// Caps are what the run may use in all; Concurrency its jobs at once, 0 for
	// any number.
	Caps        Amounts `json:"caps"`
	Concurrency int     `json:"concurrency,omitempty"`
	// Posted is what its jobs and requests used, Held what their open holds may still use; Jobs
	// counts all jobs it ever started, Open those with an open hold.
	Posted Amounts `json:"posted,omitempty"`
	Held   Amounts `json:"held,omitempty"`
	Jobs   int     `json:"jobs"`
	Open   int     `json:"open"`
	// Requests counts the open requests for tokens.
	Requests int `json:"requests,omitempty"`
	// Charged is what the run now contributes to its budgets' held amounts.
	Charged Vector `json:"charged,omitzero"`
}

// Queued is a job that is registered and waits for budget, or a gang that waits for
// GPUs. It holds nothing.
type Queued struct {
	Namespace string `json:"namespace"`
	JobID     string `json:"job_id"`
	Budget    string `json:"budget"`
	// Accessor and Identity say who submitted it.
	Accessor string   `json:"accessor,omitempty"`
	Identity []string `json:"identity,omitempty"`
	// SinceMS is when it was queued first: a resubmission of the same need keeps
	// it. UntilMS is when it is given up; 0 for never.
	SinceMS int64 `json:"since_ms"`
	UntilMS int64 `json:"until_ms,omitempty"`
	// Priority is Nomad's of the job.
	Priority int `json:"priority,omitempty"`
	// Lines is its need; Facts and Run go into the hold when it is released.
	Lines []Line          `json:"lines"`
	Facts budget.JobFacts `json:"facts"`
	Run   string          `json:"run,omitempty"`
	// JobModifyIndex is Nomad's of the gated registration; 0 while that is on its
	// way.
	JobModifyIndex uint64 `json:"job_modify_index,omitempty"`
	ExpiresMS      int64  `json:"expires_ms,omitempty"`
	// ReleasingMS is when it began to leave the queue: it has a hold, and is being
	// registered without its gate. 0 while it waits.
	ReleasingMS int64 `json:"releasing_ms,omitempty"`
	// RollbackMS is when a gang that ran in part began to be taken back, 0 otherwise: it
	// has its hold until nothing of it runs. RollbackStopped says that Nomad was told to
	// stop it, at JobModifyIndex.
	RollbackMS      int64 `json:"rollback_ms,omitempty"`
	RollbackStopped bool  `json:"rollback_stopped,omitempty"`
	// Rollbacks counts how often in a row that happened, and NotBeforeMS is when it may
	// be tried again.
	Rollbacks   int   `json:"rollbacks,omitempty"`
	NotBeforeMS int64 `json:"not_before_ms,omitempty"`
	// Reason is why it does not fit, as last decided, and Detail one sentence.
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
	// Planned are the GPUs that are set aside for a gang that has waited for long; nil for
	// none.
	Planned *Planned `json:"planned,omitempty"`
}

// Planned are GPUs that are kept clear for a gang: others get them only for work that is
// over by StartMS.
type Planned struct {
	// SinceMS is when the plan was made, StartMS when all of them are free at the latest.
	SinceMS int64 `json:"since_ms"`
	StartMS int64 `json:"start_ms"`
	// UntilMS is how long the plan counts: the leader renews it while it stands.
	UntilMS int64 `json:"until_ms"`
	// Devices are ids by node id.
	Devices map[string][]string `json:"devices"`
}

// GPUs is how many are set aside.
func (p *Planned) GPUs() int {
	n := 0
	for _, ids := range p.Devices {
		n += len(ids)
	}
	return n
}

// Entry is one immutable line of the usage history: what one allocation (or a
// line without one) used of one class in [FromMS, ToMS). Corrections are new
// entries, with a negative sign where they take back.
type Entry struct {
	// Key makes writing an entry twice count once: it is unique for the fact.
	Key string `json:"key"`
	// Kind is one of EntryKinds.
	Kind      string `json:"kind"`
	Budget    string `json:"budget,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	JobID     string `json:"job_id,omitempty"`
	HoldID    string `json:"hold_id,omitempty"`
	Run       string `json:"run,omitempty"`
	Alloc     string `json:"alloc,omitempty"`
	Node      string `json:"node,omitempty"`
	// Submitter is the accessor of who submitted.
	Submitter string   `json:"submitter,omitempty"`
	Class     string   `json:"class,omitempty"`
	GPUs      []string `json:"gpus,omitempty"`
	FromMS    int64    `json:"from_ms"`
	ToMS      int64    `json:"to_ms"`
	// GPUTime in GPU-milliseconds, Cost in micro-units, Energy in joules.
	GPUTime quantity.Amount `json:"gpu_ms,omitempty"`
	Cost    quantity.Amount `json:"cost,omitempty"`
	Energy  quantity.Amount `json:"energy_j,omitempty"`
	// Shares is the GPU time that counts towards each class, "any" included, where
	// that is not simply GPUTime towards Class and towards any: for parts of GPUs.
	Shares map[string]quantity.Amount `json:"shares,omitempty"`
	// Tokens by kind, of Model.
	Model  string                               `json:"model,omitempty"`
	Tokens map[budget.TokenKind]quantity.Amount `json:"tokens,omitempty"`
	// RateCard is the price list that was effective at FromMS.
	RateCard string `json:"rate_card,omitempty"`
	// Estimated marks amounts that could not be observed; Cause says why, also for
	// an overdraft.
	Estimated bool   `json:"estimated,omitempty"`
	Cause     string `json:"cause,omitempty"`
	// Author is the accessor of the person who wrote a correction, and Cause is why.
	Author string `json:"author,omitempty"`
	// WrittenMS is when a person wrote a correction, which may be of long ago.
	WrittenMS int64 `json:"written_ms,omitempty"`
	// Receipt is the account of a hold that ended; only with kind receipt.
	Receipt *Receipt `json:"receipt,omitempty"`
	// Grant is an override that is over; only with kind grant.
	Grant *Grant `json:"grant,omitempty"`
}

// Template is a periodic or parameterized job, of which nothing runs: its launches
// are jobs of their own, submitted by whoever submitted it.
type Template struct {
	Namespace string `json:"namespace"`
	JobID     string `json:"job_id"`
	// Accessor and Identity are those of the submitter (Hold.Accessor, Hold.Identity).
	Accessor string   `json:"accessor,omitempty"`
	Identity []string `json:"identity,omitempty"`
	// AtMS is when it was submitted last.
	AtMS int64 `json:"at_ms"`
}
