package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

const (
	// decisionsKept is how many decisions one agent keeps, decisionsWaiting how many
	// may wait to be written: admission never waits for them.
	decisionsKept    = 100_000
	decisionsWaiting = 4096
	// keepEvery is how often waiting decisions are written, and pruneEvery how often
	// old entries are looked for.
	keepEvery  = time.Second
	pruneEvery = time.Hour
)

// historian keeps the history of one agent: it records what the books post, keeps
// the decisions, and follows the zone of the policy.
type historian struct {
	store  *history.Store
	policy *PolicyKeeper
	logger hclog.Logger
	now    func() time.Time
	// retention is how long single entries are kept; 0 means for good.
	retention time.Duration
	decisions chan history.Decision

	mu sync.Mutex
	// failing is since when nothing could be recorded, zero if all is well, and cause
	// why.
	failing time.Time
	cause   error
	// dropped counts the decisions for which there was no room.
	dropped int
}

func newHistorian(store *history.Store, policy *PolicyKeeper, retention time.Duration, now func() time.Time, logger hclog.Logger) *historian {
	return &historian{store: store, policy: policy, retention: retention, now: now, logger: logger.Named("history"),
		decisions: make(chan history.Decision, decisionsWaiting)}
}

// Record implements Recorder. An entry that says something else than the one with
// its key is reported and not an error here: both are kept, and to try again would
// hold up metering for nothing.
func (h *historian) Record(ctx context.Context, entries []ledger.Entry) error {
	err := h.store.Record(ctx, entries)
	var conflict *history.ConflictError
	if errors.As(err, &conflict) {
		h.logger.Error("history has other entries with these keys", "error", err)
		err = nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		if !h.failing.IsZero() {
			h.logger.Info("history is recorded again", "since", h.failing.UTC())
		}
		h.failing, h.cause = time.Time{}, nil
	case h.failing.IsZero():
		h.failing, h.cause = h.now(), err
	default:
		h.cause = err
	}
	return err
}

// trouble is since when nothing can be recorded, and why; a zero time if all is
// well.
func (h *historian) trouble() (time.Time, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failing, h.cause
}

// decided keeps a decision. It does not wait: when decisions come faster than they
// can be written, some are not kept.
func (h *historian) decided(s gate.Submission, d admission.Decision) {
	p := h.policy.State().Policy
	e := history.Decision{AtMS: h.now().UnixMilli(), Namespace: s.Ask.Namespace, JobID: s.Ask.JobID, Request: s.Kind.String(), Outcome: d.Outcome.String(), Reason: string(d.Reason),
		Source: d.Source().String(), Revision: p.Revision, Submitter: s.Identity.Accessor, GPUs: int64(s.Ask.GPUs()), Plan: !s.Kind.Commits(), Shadow: d.Shadow,
		Text: toldOf(p, s, d)}
	if d.Budget != nil {
		e.Budget = d.Budget.Path
	}
	select {
	case h.decisions <- e:
	default:
		h.mu.Lock()
		defer h.mu.Unlock()
		h.dropped++
	}
}

// toldOf is what the author of a submission was told of its decision; "" for a plan.
func toldOf(p *budget.Policy, s gate.Submission, d admission.Decision) string {
	var text string
	switch {
	case !s.Kind.Commits():
	case d.Outcome == admission.Deny:
		text = d.DenialOf(p, s.Ask, cmp.Or(done[s.Kind], "registered"))
	case d.Outcome == admission.Queue:
		text = d.Waits(p, s.Ask)
	default:
		text = d.Notice(p)
	}
	return strings.TrimPrefix(text, "governor: ")
}

// run keeps the history until ctx ends.
func (h *historian) run(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	pruned := time.Time{}
	complained := ""
	for {
		err := h.keep(ctx)
		if err == nil && h.retention > 0 && h.now().Sub(pruned) >= pruneEvery {
			pruned = h.now()
			err = h.store.Prune(ctx, h.retention)
		}
		text := ""
		if err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		if text != "" && text != complained { // once, not every second
			h.logger.Warn("history not kept", "error", err)
		}
		complained = text
		select {
		case <-ctx.Done():
			h.flush(context.WithoutCancel(ctx))
			return
		case <-tick.C:
		}
	}
}

// keep does what is due: the zone of the policy, and the decisions that wait.
func (h *historian) keep(ctx context.Context) error {
	if state := h.policy.State(); state.Loaded && state.Policy.Location.String() != h.store.Location().String() {
		h.logger.Info("summing the history anew", "zone", state.Policy.Location.String())
		if err := h.store.SetLocation(ctx, state.Policy.Location); err != nil {
			return fmt.Errorf("sum the history by the zone %s: %w", state.Policy.Location, err)
		}
	}
	return h.flush(ctx)
}

// flush writes the decisions that wait. Those that cannot be written are lost: they
// are no part of any account.
func (h *historian) flush(ctx context.Context) error {
	h.mu.Lock()
	dropped := h.dropped
	h.dropped = 0
	h.mu.Unlock()
	if dropped > 0 {
		h.logger.Warn("decisions came faster than they can be kept", "not_kept", dropped)
	}
	var waiting []history.Decision
	last := map[string]history.Decision{} // of each job, without its time
	for n := 0; len(h.decisions) > 0 && n < decisionsWaiting; n++ {
		d := <-h.decisions
		key, same := d.Namespace+"\x00"+d.JobID, d
		same.AtMS = 0
		if d.Plan && last[key] == same {
			continue // the same plan once more within a second says nothing new
		}
		last[key] = same
		waiting = append(waiting, d)
	}
	if len(waiting) == 0 {
		return nil
	}
	return h.store.Decided(ctx, waiting, decisionsKept)
}

// historyOf is the history of this agent, or why there is none.
func (a *Agent) historyOf() (*historian, error) {
	if a.history == nil {
		return nil, refusal(http.StatusNotFound, "this agent keeps no history: set data_dir, or history { path = \"...\" }, in its configuration")
	}
	return a.history, nil
}
