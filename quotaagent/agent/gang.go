package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// gangs is the leader's work on gangs that run in part: somebody whom Governor did not
// place took GPUs of theirs, or a node died and no other has room. After its timeout
// such a gang is taken back: all of it is stopped, gives back its GPUs and its budget,
// and waits again until all of it fits.
//
// What is under way is in the store. Since when a gang runs in part is in its hold, and
// one commit makes a document of the queue that says it is being taken back; the
// releaser goes on from there (see rollback), whoever leads.
type gangs struct {
	e       *Engine
	nomad   registrar
	state   nomadState
	logger  hclog.Logger
	now     func() time.Time
	timeout time.Duration

	mu sync.Mutex
	// noted are the holds of gangs, as the meter knows them.
	noted []heldAt
}

const (
	// gangGrace is for how long a gang may run in part unnoted: its allocations come one
	// after the other.
	gangGrace = 2 * time.Second
	// gangAttempts is how often in a row a gang is taken back before it is given up:
	// each attempt takes GPUs from others for nothing.
	gangAttempts = 5
	// gangPause is the first pause before a gang that was taken back is tried again; it
	// doubles up to gangPauseMax.
	gangPause    = 10 * time.Second
	gangPauseMax = 5 * time.Minute
	// gangTryEvery is how often it is looked whether a gang that waits fits.
	gangTryEvery = 2 * time.Second
)

// GangTimeout is for how long a gang may run in part where nobody says otherwise.
const GangTimeout = 2 * time.Minute

func newGangs(e *Engine, nomad registrar, state nomadState, timeout time.Duration, logger hclog.Logger) *gangs {
	if timeout <= 0 {
		timeout = GangTimeout
	}
	return &gangs{e: e, nomad: nomad, state: state, logger: logger.Named("gang"), now: e.now, timeout: timeout}
}

// watch is the duty that notes the gangs among the open holds.
func (g *gangs) watch(m *Meter) duty {
	return func(context.Context, ledger.Fence) error {
		g.note(m.open)
		return nil
	}
}

func (g *gangs) note(open []heldAt) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.noted = nil
	for _, h := range open {
		if admission.IsGang(h.Facts.Meta) {
			g.noted = append(g.noted, h)
		}
	}
}

// lead works until ctx ends.
func (g *gangs) lead(ctx context.Context, fence ledger.Fence) {
	every(ctx, tickEvery, func() error { return g.look(ctx, fence) }, func(err error) { g.logger.Warn("looking after gangs delayed", "error", err) })
}

// look brings what is known of every gang up to date, and takes back those that have run
// in part for too long.
func (g *gangs) look(ctx context.Context, fence ledger.Fence) error {
	g.mu.Lock()
	noted := g.noted
	g.mu.Unlock()
	failed := error(nil)
	for _, h := range noted {
		if ctx.Err() != nil {
			break
		}
		if err := g.lookAt(ctx, fence, h); err != nil {
			failed = errors.Join(failed, fmt.Errorf("gang %q in namespace %q: %w", h.JobID, h.Namespace, err))
		}
	}
	return failed
}

func (g *gangs) lookAt(ctx context.Context, fence ledger.Fence, h heldAt) error {
	partial, known := inPart(*h.Hold)
	if !known {
		return nil
	}
	seen := ledger.Gang{}
	if h.Gang != nil {
		seen = *h.Gang
	}
	since := time.UnixMilli(seen.PartialMS)
	switch {
	case !partial && seen == (ledger.Gang{}):
		return nil
	case !partial:
		return g.mark(ctx, fence, h, ledger.Gang{}) // all of it runs: the next time counts anew
	case seen.PartialMS == 0 && g.now().Sub(time.UnixMilli(h.SubmittedMS)) < gangGrace:
		return nil
	case seen.PartialMS == 0:
		seen.PartialMS = g.now().UnixMilli()
		return g.mark(ctx, fence, h, seen)
	case g.now().Sub(since) < admission.GangTimeout(h.Facts.Meta, g.timeout):
		return nil
	}
	return g.takeBack(ctx, fence, h, since)
}

// inPart reports whether not all allocations of a gang are there; known is false where
// that says nothing: it changes, it is ended, or a part of it has done its work.
func inPart(h ledger.Hold) (partial, known bool) {
	if h.State != ledger.Active || h.Pending != nil || h.Ending != nil || h.Refused != "" {
		return false, false
	}
	for _, line := range h.Lines {
		names := map[string]bool{}
		for _, t := range h.Tracks {
			if t.Group != line.Group {
				continue
			}
			if t.EndMS == 0 {
				names[t.Name] = true
			} else if t.Done && !line.Lease && t.CreateIndex > h.JobModifyIndex {
				return false, false
			}
		}
		for name, slot := range h.Slots {
			if slot.Done && !line.Lease && strings.HasPrefix(name, h.JobID+"."+line.Group+"[") {
				return false, false
			}
		}
		partial = partial || len(names) < line.Count-line.Canaries
	}
	return partial, true
}

// mark writes what was seen of a gang, unless the hold changed meanwhile.
func (g *gangs) mark(ctx context.Context, fence ledger.Fence, h heldAt, seen ledger.Gang) error {
	return g.e.books.update(ctx, fence, g.target(h), func(v view) (change, error) {
		if v.hold.Hold == nil || v.hold.version != h.version {
			return change{}, errNoChange
		}
		next := *v.hold.Hold
		if next.Gang = &seen; seen == (ledger.Gang{}) {
			next.Gang = nil
		}
		return change{hold: &next}, nil
	})
}

func (g *gangs) target(h heldAt) target {
	return target{key: holdKey(h.Namespace, h.JobID), budget: h.Budget, calendar: g.e.rulesOf(g.e.policy.State().Policy).Calendar}
}

// takeBack begins to take a gang back, if Nomad too says that it runs in part.
func (g *gangs) takeBack(ctx context.Context, fence ledger.Fence, h heldAt, since time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 2*actWithin)
	defer cancel()
	spec, err := g.nomad.JobSpec(ctx, h.Namespace, h.JobID)
	if errors.Is(err, nomadctl.ErrNotFound) || err == nil && (spec.Stopped || spec.Index != h.JobModifyIndex) {
		return nil // it is not what is held for: the meter looks at that
	}
	if err != nil {
		return err
	}
	allocations, err := g.state.JobAllocations(ctx, h.Namespace, h.JobID)
	if err != nil {
		return err
	}
	there, wanted, done := present(*h.Hold, allocations)
	if done || there >= wanted {
		return nil // the ledger will see it too
	}
	return g.e.books.update(ctx, fence, g.target(h), func(v view) (change, error) {
		now := v.hold.Hold
		if now == nil || now.ID != h.ID || now.Pending != nil || now.Ending != nil || v.queued != nil || now.Gang == nil || now.Gang.PartialMS != since.UnixMilli() {
			return change{}, errNoChange
		}
		q := g.waitsAgain(*now, there, wanted, since)
		return change{hold: now, queued: &q, audit: []AuditEvent{{At: g.now(), Kind: "gang.rolled_back", Actor: actorGovernor, Budget: now.Budget,
			Subject: now.Namespace + "/" + now.JobID, Text: fmt.Sprintf("job %q in namespace %q is stopped and waits again: %s", now.JobID, now.Namespace, q.Detail)}}}, nil
	})
}

// present counts the allocations of a gang that are there, and that should be; done says
// that some have ended well.
func present(h ledger.Hold, allocations []nomadevents.Allocation) (there, wanted int, done bool) {
	for _, line := range h.Lines {
		names := map[string]bool{}
		for _, a := range allocations {
			switch {
			case a.Group != line.Group:
			case !a.Terminal:
				names[a.Name] = true
			case a.Done && !line.Lease && a.CreateIndex > h.JobModifyIndex:
				done = true
			}
		}
		count := line.Count - line.Canaries
		there, wanted = there+min(len(names), count), wanted+count
	}
	return there, wanted, done
}

// waitsAgain is the document of a gang that is taken back. It goes to the end of the line.
func (g *gangs) waitsAgain(h ledger.Hold, there, wanted int, since time.Time) ledger.Queued {
	now := g.now()
	q := ledger.Queued{Namespace: h.Namespace, JobID: h.JobID, Budget: h.Budget, Accessor: h.Accessor, Identity: h.Identity, SinceMS: now.UnixMilli(),
		Priority: h.JobPriority, Lines: h.Lines, Facts: h.Facts, Run: h.Run, JobModifyIndex: h.JobModifyIndex, Reason: string(admission.GangWaits),
		RollbackMS: now.UnixMilli(), Rollbacks: 1}
	if h.Gang != nil {
		q.Rollbacks += h.Gang.Rollbacks
	}
	q.NotBeforeMS = now.Add(gangBackoff(q.Rollbacks)).UnixMilli()
	q.Detail = fmt.Sprintf("the gang ran with %d of its %d allocations for %s", there, wanted, now.Sub(since).Round(time.Second))
	if p := g.e.policy.State().Policy; p != nil {
		if b := p.Find(p.Moved(h.Budget)); b != nil && b.EffectiveQueue().Timeout > 0 {
			q.UntilMS = now.Add(b.EffectiveQueue().Timeout).UnixMilli()
		}
	}
	return q
}

// gangBackoff is the pause after a gang was taken back n times in a row.
func gangBackoff(n int) time.Duration {
	pause := gangPause
	for ; n > 1 && pause < gangPauseMax; n-- {
		pause *= 2
	}
	return min(pause, gangPauseMax)
}

// gangText is what a gang is, by the job alone.
func gangText(ask jobspec.Ask) string {
	allocations, same := 0, true
	for _, group := range ask.Groups {
		allocations += group.Count
		same = same && group.GPUs() == ask.Groups[0].GPUs()
	}
	if same && len(ask.Groups) > 0 && ask.Groups[0].GPUs() > 1 {
		return fmt.Sprintf("gang of %d x %d GPUs", allocations, ask.Groups[0].GPUs())
	}
	if same && len(ask.Groups) > 0 {
		return fmt.Sprintf("gang of %d x 1 GPU", allocations)
	}
	return fmt.Sprintf("gang of %d allocations", allocations)
}
