package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

const (
	// runsAtOnce bounds the open runs of one opener: a loop that opens runs and
	// never closes them must not fill the store.
	runsAtOnce = 100
	// noteMax bounds the note of a run, in bytes.
	noteMax = 1000
)

// RunRequest asks for an agent run: an envelope that its jobs draw from.
type RunRequest struct {
	// Budget is a path.
	Budget string `json:"budget"`
	// Caps by the names of the language ("cost", "gpu_hours", "jobs"), in its units.
	// What is missing is as in per_run.
	Caps map[string]string `json:"caps,omitempty"`
	// Concurrency is the most jobs at once; 0 means as in per_run.
	Concurrency int `json:"concurrency,omitempty"`
	// WallClock is how long the run may last, such as "2h"; "" means as in per_run.
	WallClock string `json:"wall_clock,omitempty"`
	// Note says what the run is for.
	Note string `json:"note,omitempty"`
}

// The states of a run.
const (
	// RunOpen: jobs and requests for tokens may draw from it.
	RunOpen = "open"
	// RunClosing: no new one may, and some still have a hold.
	RunClosing = "closing"
	// RunClosed: nothing is held for it any more.
	RunClosed = "closed"
)

// RunStatus is a run as people see it.
type RunStatus struct {
	ledger.Run
	State string `json:"state"`
	// Lines are its caps, in order of their names.
	Lines []RunLine `json:"lines"`
	// OpenJobs are "namespace/id" of the jobs that draw from it now; only when one
	// run is asked for.
	OpenJobs []string `json:"open_jobs,omitempty"`
}

// RunLine is one cap of a run, for people.
type RunLine struct {
	// What is the dimension: "cost in USD".
	What string `json:"what"`
	Cap  string `json:"cap"`
	Used string `json:"used"`
	Held string `json:"held"`
	Left string `json:"left"`
}

func (e *Engine) runStatus(p *budget.Policy, run ledger.Run) RunStatus {
	s := RunStatus{Run: run, State: RunOpen, Lines: []RunLine{}}
	switch over := run.ClosedMS != 0 || run.UntilMS != 0 && e.now().UnixMilli() >= run.UntilMS; {
	case over && run.Open+run.Requests > 0:
		s.State = RunClosing
	case over:
		s.State = RunClosed
	}
	for _, d := range run.Capped() {
		used, held := run.Posted[d], run.Held[d]
		if d == budget.Jobs {
			used, held = quantity.Amount(run.Jobs), 0
		}
		left := max(0, run.Caps[d].Sub(used).Sub(held))
		if s.State != RunOpen {
			left = 0 // it was given back
		}
		s.Lines = append(s.Lines, RunLine{What: d.Noun(p.Currency), Cap: d.Number(run.Caps[d]), Used: d.Number(used), Held: d.Number(held), Left: d.Number(left)})
	}
	return s
}

// manages reports whether somebody may do everything.
func manages(names []string) bool {
	return slices.Contains(names, managementName) || slices.Contains(names, gate.NameACLDisabled)
}

// OpenRun opens an agent run, which holds its whole caps from then on.
func (e *Engine) OpenRun(ctx context.Context, who api.Caller, r RunRequest) (RunStatus, error) {
	p := e.policy.State().Policy
	b := p.Find(r.Budget)
	switch {
	case b == nil:
		return RunStatus{}, refusal(http.StatusNotFound, "there is no budget %.200q; `governor budget status` lists all", r.Budget)
	case !manages(who.Names) && !b.MayOpenRun(who.Names):
		return RunStatus{}, refusal(http.StatusForbidden, "runs of budget %s are opened by the identities of its match rule: %s; you are %s",
			b.Path, orNone(identitiesOf(b)), orNone(who.Names))
	case len(r.Note) > noteMax:
		return RunStatus{}, refusal(http.StatusBadRequest, "the note has %d bytes; at most %d are kept", len(r.Note), noteMax)
	}
	run, err := newRun(p, b, who, r, e.now())
	if err != nil {
		return RunStatus{}, err
	}
	run.ID = "r-" + e.books.newID()
	if err := e.fewEnough(ctx, who); err != nil {
		return RunStatus{}, err
	}
	var d admission.Decision
	err = e.books.update(ctx, ledger.Fence{}, target{budget: b.Path, policy: p, run: run.ID, calendar: e.rulesOf(p).Calendar}, func(v view) (change, error) {
		state := moving(p, admission.State{Balances: v.balances, Grants: v.grants, Rules: e.rulesOf(p)})
		if d = admission.OpenRun(p, b, state, run, e.now()); blocked(d) {
			return change{}, errNoChange
		}
		return change{run: &run, audit: []AuditEvent{e.runEvent("run.opened", who.Accessor, who.Names, run,
			fmt.Sprintf("%s opened agent run %s of budget %s with %s", who.Accessor, run.ID, run.Budget, strings.Join(amountTexts(p, run.Caps), ", ")))}}, nil
	})
	switch {
	case err != nil:
		return RunStatus{}, err
	case blocked(d):
		return RunStatus{}, &api.Problem{Status: http.StatusForbidden, Text: d.RunDenial(p)}
	}
	return e.runStatus(p, run), nil
}

func identitiesOf(b *budget.Budget) []string {
	if b.Match == nil {
		return nil
	}
	return b.Match.Identities
}

// newRun is the run that a request asks for, within the budget's per_run.
func newRun(p *budget.Policy, b *budget.Budget, who api.Caller, r RunRequest, now time.Time) (ledger.Run, error) {
	rule := budget.PerRun{}
	if own := b.EffectivePerRun(); own != nil {
		rule = *own
	}
	run := ledger.Run{Budget: b.Path, Accessor: who.Accessor, Identity: who.Names, Note: strings.TrimSpace(r.Note), OpenedMS: now.UnixMilli(),
		Concurrency: rule.Concurrency}
	var err error
	if run.Caps, err = runCaps(p, rule, r.Caps); err != nil {
		return run, err
	}
	switch {
	case r.Concurrency < 0:
		return run, refusal(http.StatusBadRequest, "the concurrency is %d; it must be at least 1, or left out", r.Concurrency)
	case rule.Concurrency > 0 && r.Concurrency > rule.Concurrency:
		return run, refusal(http.StatusForbidden, "you ask for %d jobs at once, and per_run (%s) allows %d; ask for no more", r.Concurrency, rule.Source, rule.Concurrency)
	case r.Concurrency > 0:
		run.Concurrency = r.Concurrency
	}
	most := cmp.Or(rule.WallClock, budget.DefaultWallClock)
	lasts := most
	if r.WallClock != "" {
		if lasts, err = time.ParseDuration(r.WallClock); err != nil || lasts < time.Second {
			return run, refusal(http.StatusBadRequest, "the wall clock is %.40q, which is no time of at least a second; write it like \"90m\" or \"6h\"", r.WallClock)
		}
	}
	if lasts > most {
		return run, refusal(http.StatusForbidden, "you ask for %s, and a run of budget %s lasts at most %s%s; ask for no more", lasts, b.Path, most, at(rule.Source))
	}
	run.UntilMS = now.Add(lasts).UnixMilli()
	return run, nil
}

func at(s budget.Source) string {
	if s.String() == "" {
		return ""
	}
	return " (" + s.String() + ")"
}

// runCaps are the caps that a request asks for, checked against the rule.
func runCaps(p *budget.Policy, rule budget.PerRun, texts map[string]string) (ledger.Amounts, error) {
	caps := ledger.Amounts{}
	for d, bound := range rule.Caps {
		if most, finite := bound.Ceiling.Finite(); finite {
			caps[d] = most
		}
	}
	asked, err := budget.ParseAmounts(texts)
	if err != nil {
		return nil, refusal(http.StatusBadRequest, "caps: %v", err)
	}
	for _, d := range slices.Sorted(maps.Keys(asked)) {
		switch most, bounded := caps[d]; {
		case d.IsGPUs():
			return nil, refusal(http.StatusBadRequest, "a run has no cap on GPUs at once; cap its concurrency, or its gpu_hours")
		case bounded && asked[d] > most:
			return nil, refusal(http.StatusForbidden, "you ask for %s, and per_run%s allows at most %s; ask for no more", d.Format(asked[d], p.Currency), at(rule.Caps[d].Source), d.Format(most, p.Currency))
		}
		caps[d] = asked[d]
	}
	if len(caps) == 0 {
		return nil, refusal(http.StatusBadRequest, "the budget has no per_run, so the run needs a cap of its own: name at least one, such as cost=25")
	}
	return caps, nil
}

// fewEnough refuses a further run to somebody who has too many open.
func (e *Engine) fewEnough(ctx context.Context, who api.Caller) error {
	runs, err := e.books.allRuns(ctx)
	if err != nil {
		return err
	}
	open := 0
	for _, r := range runs {
		if r.Accessor == who.Accessor && r.ClosedMS == 0 {
			open++
		}
	}
	if open >= runsAtOnce {
		return refusal(http.StatusForbidden, "you have %d open runs, and at most %d are possible; close some with `governor run close`", open, runsAtOnce)
	}
	return nil
}

func (e *Engine) runEvent(kind, actor string, names []string, run ledger.Run, text string) AuditEvent {
	if run.Note != "" && kind == "run.opened" {
		text += ": " + run.Note
	}
	return AuditEvent{At: e.now(), Kind: kind, Actor: actor, Names: names, Budget: run.Budget, Subject: run.ID, Text: text}
}

// checkRunID keeps what is no id of a run from becoming a key.
func checkRunID(id string) error {
	plain := func(r rune) bool { return r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' }
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(r rune) bool { return !plain(r) }) {
		return noRun(id)
	}
	return nil
}

func noRun(id string) error {
	return refusal(http.StatusNotFound, "there is no agent run %.40q; `governor run list` lists all", id)
}

// CloseRun ends a run: no new job may draw from it, and what is left is given back
// once none has a hold. Closing it again changes nothing.
func (e *Engine) CloseRun(ctx context.Context, who api.Caller, id string) (RunStatus, error) {
	if err := checkRunID(id); err != nil {
		return RunStatus{}, err
	}
	p := e.policy.State().Policy
	var run ledger.Run
	err := e.books.update(ctx, ledger.Fence{}, target{run: id, calendar: e.rulesOf(p).Calendar}, func(v view) (change, error) {
		switch {
		case v.run == nil:
			return change{}, noRun(id)
		case v.run.Accessor != who.Accessor && !manages(who.Names):
			return change{}, refusal(http.StatusForbidden, "agent run %s is closed by who opened it, or with a management token", id)
		}
		if run = *v.run; run.ClosedMS != 0 {
			return change{}, errNoChange
		}
		run.ClosedMS = e.now().UnixMilli()
		return change{run: &run, audit: []AuditEvent{e.runEvent("run.closed", who.Accessor, who.Names, run,
			fmt.Sprintf("%s closed agent run %s of budget %s, %s still open", who.Accessor, id, run.Budget, plural(run.Open, "job")))}}, nil
	})
	if err != nil {
		return RunStatus{}, err
	}
	return e.runStatus(p, run), nil
}

// Runs lists the runs that the store knows, the newest first.
func (e *Engine) Runs(ctx context.Context) ([]RunStatus, error) {
	runs, err := e.books.allRuns(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(runs, func(a, b runAt) int { return cmp.Or(cmp.Compare(b.OpenedMS, a.OpenedMS), strings.Compare(a.ID, b.ID)) })
	out := make([]RunStatus, 0, len(runs))
	for _, r := range runs {
		out = append(out, e.runStatus(e.policy.State().Policy, r.Run))
	}
	return out, nil
}

// RunNow is one run with the jobs that draw from it.
func (e *Engine) RunNow(ctx context.Context, id string) (RunStatus, error) {
	if err := checkRunID(id); err != nil {
		return RunStatus{}, err
	}
	records, err := e.books.store.Read(ctx, runPrefix+id)
	if err != nil {
		return RunStatus{}, fmt.Errorf("read run: %w", err)
	}
	if records[0].Version == 0 {
		return RunStatus{}, noRun(id)
	}
	run, err := ledger.Decode[ledger.Run](records[0].Value)
	if err != nil {
		return RunStatus{}, fmt.Errorf("%s: %w", records[0].Key, err)
	}
	s := e.runStatus(e.policy.State().Policy, run)
	holds, unreadable, err := e.books.holds(ctx)
	if err = errors.Join(err, unreadable); err != nil {
		return RunStatus{}, err
	}
	for _, h := range holds {
		if h.Run == id {
			s.OpenJobs = append(s.OpenJobs, h.Namespace+"/"+h.JobID)
		}
	}
	return s, nil
}
