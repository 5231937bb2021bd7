package agent

import (
	"context"
	"encoding/json"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
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
	// Waits says of a gang that does not fit as a whole now what is missing;
	// empty for all that may be registered.
	Waits string
	// Notice tells the author where the job will run and why.
	Notice string
	// Record is the offer for Placer.Verify.
	Record json.RawMessage
	// Release gives back what the offer reserved, for a job that is not
	// registered after all. Never nil.
	Release func()
}

// Placer picks GPUs. The placement service implements it; cmd/governor joins
// the two.
type Placer interface {
	// Place answers for one submission. commit says that the job is about to be
	// registered, so that its GPUs are spared until it runs.
	Place(ctx context.Context, s gate.Submission, commit bool) (Placement, error)
	// Replace answers for a registered job of which some groups wait: where they would
	// be placed now, with everything else as it is. again are those of them that it
	// places: none that Nomad could place as they are pinned, or that fit nowhere.
	Replace(ctx context.Context, s gate.Submission, groups []string) (placed Placement, again []string, err error)
	// Verify compares an allocation with the offer in record and says in words
	// what differs; "" when the allocation got what was offered, and known false
	// when the record does not speak of it.
	Verify(record json.RawMessage, group, node string, byTask map[string][]string) (difference string, known bool)
}
