package agent

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Placement is what the placement service answers for a job.
type Placement struct {
	// Patch pins the job to its offer; empty when nothing was pinned.
	Patch jobspec.Patch
	// Offered narrows the classes that can serve a device block; nil if unknown.
	Offered admission.Offered
	// Eligible counts the nodes that a group of a system job would run on; nil if
	// unknown.
	Eligible admission.Eligible
	// Infeasible is the sentence that says why no node could ever serve the job;
	// empty when one could.
	Infeasible string
	// Unclear says what of the job's meta placement does not understand; empty when it
	// understands all.
	Unclear string
	// Loads is how long groups load state before they can start, by name.
	Loads map[string]time.Duration
	// Waits says of a gang that does not fit as a whole now what is missing, and of
	// another job for which gang the GPUs are set aside that it could have; empty for all
	// that may be registered.
	Waits string
	// Planned is where and when a gang that waits can start, if that was asked for; nil
	// when nobody knows.
	Planned *ledger.Planned
	// Notice tells the author where the job will run and why.
	Notice string
	// Account says of every node why it would be chosen or not, as JSON; only for a
	// submission that asks for it.
	Account json.RawMessage
	// Record is the offer for Placer.Verify.
	Record json.RawMessage
	// Release gives back what the offer reserved, for a job that is not
	// registered after all. Never nil.
	Release func()
}

// Placing is how a submission is placed.
type Placing struct {
	// Commit says that the job is about to be registered, so that its GPUs are spared
	// until it runs.
	Commit bool
	// Mode is what the job's budget says, for a job that says nothing itself: one of
	// admission's modes of placement; "" where no budget says any.
	Mode string
	// Budget is the path of the budget that says so.
	Budget string
	// Planned are the GPUs that are set aside for gangs.
	Planned []PlannedFor
	// EndsMS is when the job has ended at the latest if it starts now, in Unix
	// milliseconds; 0 for one without an end. Only where something is planned.
	EndsMS int64
	// Ends asks for a plan for a gang that does not fit: when running allocations end at
	// the latest, by id, in Unix milliseconds. One that is missing has no end. nil: no
	// plan is wanted.
	Ends map[string]int64
}

// PlannedFor are GPUs that are set aside, and the gang that they are for.
type PlannedFor struct {
	ledger.Planned
	Namespace, JobID string
}

// Placer picks GPUs. The placement service implements it; cmd/governor joins
// the two.
type Placer interface {
	// Place answers for one submission.
	Place(ctx context.Context, s gate.Submission, how Placing) (Placement, error)
	// Replace answers for a registered job of which some groups wait: where they would
	// be placed now, with everything else as it is. again are those of them that it
	// places: none that Nomad could place as they are pinned, or that fit nowhere. Of how
	// only what is planned counts.
	Replace(ctx context.Context, s gate.Submission, groups []string, how Placing) (placed Placement, again []string, err error)
	// Verify compares an allocation with the offer in record and says in words
	// what differs; "" when the allocation got what was offered, and known false
	// when the record does not speak of it.
	Verify(record json.RawMessage, group, node string, byTask map[string][]string) (difference string, known bool)
}

// Prepare implements gate.Preparer: the placement service reads the cluster, if it can do
// so ahead, and the engine what it remembers for a second.
func (e *Engine) Prepare() {
	if p, ok := e.placer.(gate.Preparer); ok {
		p.Prepare()
	}
	select {
	case e.comes <- struct{}{}:
	default: // it is being read
	}
}

// readAhead reads the jobs that wait and the grants when a submission comes, until ctx
// ends. What cannot be read, the submission reads itself.
func (e *Engine) readAhead(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.comes:
		}
		var reading sync.WaitGroup
		reading.Go(func() { _, _ = e.waitingJobs(ctx) })
		reading.Go(func() { _ = e.books.glanceGrants(ctx) })
		reading.Wait()
	}
}
