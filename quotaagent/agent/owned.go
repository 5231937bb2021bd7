package agent

import (
	"context"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// asOwned is the submission of a task as its job's submitter's: a task pays from the
// budget of whoever started it, and keeps its own name besides. Of a job that asks for
// no GPUs nobody has noted the submitter; its tasks go by their own names only.
func (e *Engine) asOwned(ctx context.Context, s gate.Submission) (gate.Submission, error) {
	w := s.Identity.Workload
	if w == nil {
		return s, nil
	}
	accessor, names, err := e.ownerOf(ctx, w)
	if err != nil || len(names) == 0 {
		return s, err
	}
	e.logger.Debug("submitted by a task", "namespace", s.Ask.Namespace, "job_id", s.Ask.JobID, "of_job", w.JobID, "allocation", w.Allocation)
	s.Identity.Accessor = accessor
	s.Identity.Names = append(names, s.Identity.Names...)
	slices.Sort(s.Identity.Names)
	return s, nil
}

// ownerOf is who submitted the job of a task: by its hold, by that of the job it was
// launched from, or by what is remembered of a template. Names of tasks do not pass
// from one to the next, so that a chain of them does not grow.
func (e *Engine) ownerOf(ctx context.Context, w *gate.Workload) (accessor string, names []string, err error) {
	for _, id := range [...]string{w.JobID, w.ParentID} {
		h, err := e.books.readHold(ctx, holdKey(w.Namespace, id))
		if err != nil {
			return "", nil, err
		}
		if h.Hold != nil && len(h.Identity) > 0 {
			return h.Accessor, ownNames(h.Identity), nil
		}
	}
	t, err := e.template(ctx, w.Namespace, w.ParentID)
	return t.Accessor, ownNames(t.Identity), err
}

func ownNames(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return name == gate.NameWorkload || strings.HasPrefix(name, gate.NameWorkload+":")
	})
}

// accessorIn is by whom a run must have been opened that a submission draws from: the
// submitter or, for a task, its job's submitter or a task of the same job.
func accessorIn(run *ledger.Run, id gate.Identity) string {
	if w := id.Workload; w != nil && run != nil && run.Accessor == w.Name() {
		return run.Accessor
	}
	return id.Accessor
}
