package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/bypass"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// The rhythm of the watch for ways around the gate.
const (
	// bypassLook is how often the leader asks whether the scheduler configuration or
	// the ACLs changed; that has no events that its token may read.
	bypassLook = 10 * time.Second
	// bypassEvery is how often it checks everything without being told.
	bypassEvery = 5 * time.Minute
	// bypassWithin bounds one check.
	bypassWithin = time.Minute
)

// bypassKey is the document of what was found last, so that the next leader does
// not report it again.
const bypassKey = "bypass/found"

// Posture reads what ways around the gate there are; *posture.Reader is it.
type Posture interface {
	// Facts are what the agent's token may read; Stamp changes with the scheduler
	// configuration and the ACLs; Accessor is that of the agent's token.
	Facts(ctx context.Context) bypass.Facts
	Stamp(ctx context.Context) string
	Accessor(ctx context.Context) string
}

// foundWay is a way around that was found, as it is stored.
type foundWay struct {
	Item     string          `json:"item"`
	Code     string          `json:"code"`
	Severity bypass.Severity `json:"severity"`
	Check    bypass.Check    `json:"check"`
	What     string          `json:"what"`
	SinceMS  int64           `json:"since_ms"`
}

// foundWays is the document at bypassKey.
type foundWays struct {
	Ways []foundWay `json:"ways"`
	// Accessors are those of the agents that looked.
	Accessors []string `json:"accessors,omitempty"`
}

// bypassWatch looks for ways around the gate while this agent leads.
type bypassWatch struct {
	posture       Posture
	unknownWrites bool
	delegated     string
	chain         *auditChain
	now           func() time.Time
	logger        hclog.Logger

	mu         sync.Mutex
	checked    time.Time
	notChecked []string
}

// BypassStatus is which ways around the gate the leader has found.
type BypassStatus struct {
	// Open is how many are open, Codes what they are; `governor doctor` explains them,
	// and finds those that only a management token sees.
	Open  int      `json:"open"`
	Codes []string `json:"codes"`
	// Checked is when they were looked for, NotChecked what the agent's token may not
	// read; only the leader knows.
	Checked    *time.Time `json:"checked,omitempty"`
	NotChecked []string   `json:"not_checked,omitempty"`
	// UnknownWrites says that this gate lets writes pass that it does not know, and
	// Accessors are those of the agents' own tokens.
	UnknownWrites bool `json:"unknown_writes,omitempty"`
	// Delegated is the capability that lets people submit through this gate, which then
	// uses its own token.
	Delegated string   `json:"delegated,omitempty"`
	Accessors []string `json:"accessors,omitempty"`
}

// lead looks at once and then again and again.
func (w *bypassWatch) lead(ctx context.Context, fence ledger.Fence) {
	var next time.Time
	stamp, failing := "", false
	for ctx.Err() == nil {
		now := w.stamp(ctx)
		if now != stamp || !time.Now().Before(next) {
			err := w.check(ctx, fence)
			if err == nil {
				stamp, next = now, time.Now().Add(bypassEvery)
			} else if ctx.Err() == nil && !failing {
				w.logger.Warn("ways around the gate could not be recorded", "error", err)
			}
			failing = err != nil
		}
		pause(ctx, bypassLook)
	}
}

func (w *bypassWatch) stamp(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, bypassLook)
	defer cancel()
	return w.posture.Stamp(ctx)
}

// check looks once, and records what is new and what is gone.
func (w *bypassWatch) check(ctx context.Context, fence ledger.Fence) error {
	look, cancel := context.WithTimeout(ctx, bypassWithin)
	defer cancel()
	facts := w.posture.Facts(look)
	accessor := w.posture.Accessor(look)
	before, version, err := readWays(ctx, w.chain.store)
	if err != nil {
		return err
	}
	facts.Own, facts.UnknownWrites, facts.Delegated = append(slices.Clone(before.Accessors), accessor), w.unknownWrites, w.delegated
	findings := bypass.Examine(facts)
	after := foundWays{Ways: w.waysOf(findings, before, facts.Missing), Accessors: before.Accessors}
	if accessor != "" && !slices.Contains(after.Accessors, accessor) {
		after.Accessors = lastOf(append(slices.Clone(after.Accessors), accessor))
	}
	w.mu.Lock()
	w.checked, w.notChecked = w.now(), nil
	for _, m := range facts.Missing {
		w.notChecked = append(w.notChecked, string(m.Check))
	}
	w.mu.Unlock()
	return w.record(ctx, fence, before, after, version)
}

// lastOf bounds how many accessors are remembered.
func lastOf(accessors []string) []string {
	const most = 16
	return accessors[max(0, len(accessors)-most):]
}

// waysOf are the ways that there are now. What belongs to a check that could not be
// made is as it was.
func (w *bypassWatch) waysOf(findings []bypass.Finding, before foundWays, missing []bypass.Missing) []foundWay {
	now := map[string]foundWay{}
	for _, f := range findings {
		if f.Severity != bypass.Open && f.Severity != bypass.Note {
			continue
		}
		for _, item := range f.Items() {
			now[item] = foundWay{Item: item, Code: f.Code, Severity: f.Severity, Check: f.Check, What: f.What, SinceMS: w.now().UnixMilli()}
		}
	}
	for _, old := range before.Ways {
		_, still := now[old.Item]
		unread := slices.ContainsFunc(missing, func(m bypass.Missing) bool { return bypass.Needs(old.Code, old.Check, m.Check) })
		if still || unread {
			if !still {
				now[old.Item] = old
			}
			kept := now[old.Item]
			kept.SinceMS = old.SinceMS
			now[old.Item] = kept
		}
	}
	out := make([]foundWay, 0, len(now))
	for _, f := range now {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b foundWay) int { return strings.Compare(a.Item, b.Item) })
	return out
}

// record stores the ways with the audit records of what changed, all or nothing.
func (w *bypassWatch) record(ctx context.Context, fence ledger.Fence, before, after foundWays, version uint64) error {
	opened, closed := newWays(after.Ways, before.Ways), newWays(before.Ways, after.Ways)
	if len(opened)+len(closed) == 0 && slices.Equal(before.Ways, after.Ways) && slices.Equal(before.Accessors, after.Accessors) {
		return nil
	}
	var events []AuditEvent
	event := func(kind, verb string, f foundWay) {
		events = append(events, AuditEvent{At: w.now(), Kind: kind, Actor: actorGovernor, Subject: f.Item, Text: verb + f.What})
	}
	for _, f := range opened {
		event("bypass.opened", "found: ", f)
	}
	for _, f := range closed {
		event("bypass.closed", "not found any more: ", f)
	}
	value, err := json.Marshal(after)
	if err != nil {
		return fmt.Errorf("encode %s: %w", bypassKey, err)
	}
	if err := w.commit(ctx, fence, ledger.Write{Key: bypassKey, Value: value, Version: version}, events); err != nil {
		return err
	}
	for _, f := range opened {
		say := w.logger.Info
		if f.Severity == bypass.Open {
			say = w.logger.Warn
		}
		say("a way around the gate: "+f.What, "code", f.Code, "severity", f.Severity, "subject", f.Item)
	}
	for _, f := range closed {
		w.logger.Info("a way around the gate is gone: "+f.What, "code", f.Code, "subject", f.Item)
	}
	return nil
}

// bypassTogether is how many records go into the commit of the ways: a store takes
// only so many writes at once. The others are written one after the other.
const bypassTogether = 16

func (w *bypassWatch) commit(ctx context.Context, fence ledger.Fence, write ledger.Write, events []AuditEvent) error {
	most := min(len(events), bypassTogether)
	if err := w.chain.commit(ctx, fence, []ledger.Write{write}, events[:most]...); err != nil {
		return fmt.Errorf("record ways around the gate: %w", err)
	}
	for _, e := range events[most:] {
		w.chain.Record(e)
	}
	return nil
}

// newWays are those of a list that another one does not have.
func newWays(list, other []foundWay) []foundWay {
	return slices.DeleteFunc(slices.Clone(list), func(f foundWay) bool {
		return slices.ContainsFunc(other, func(o foundWay) bool { return o.Item == f.Item })
	})
}

func readWays(ctx context.Context, store Store) (foundWays, uint64, error) {
	var ways foundWays
	records, err := store.Read(ctx, bypassKey)
	if err != nil {
		return ways, 0, fmt.Errorf("read ways around the gate: %w", err)
	}
	if records[0].Version == 0 {
		return ways, 0, nil
	}
	if err := json.Unmarshal(records[0].Value, &ways); err != nil {
		// It is only what was reported before: the next check writes it anew.
		return foundWays{}, records[0].Version, nil //nolint:nilerr // see above
	}
	return ways, records[0].Version, nil
}

// status is what is known of ways around the gate.
func (w *bypassWatch) status(ctx context.Context, leading bool) (*BypassStatus, error) {
	ways, _, err := readWays(ctx, w.chain.store)
	if err != nil {
		return nil, err
	}
	s := &BypassStatus{Codes: []string{}, UnknownWrites: w.unknownWrites, Delegated: w.delegated, Accessors: ways.Accessors}
	for _, f := range ways.Ways {
		if f.Severity == bypass.Open {
			s.Open++
			s.Codes = append(s.Codes, f.Code)
		}
	}
	slices.Sort(s.Codes)
	s.Codes = slices.Compact(s.Codes)
	w.mu.Lock()
	defer w.mu.Unlock()
	if leading && !w.checked.IsZero() {
		checked := w.checked.UTC()
		s.Checked, s.NotChecked = &checked, slices.Clone(w.notChecked)
	}
	return s, nil
}
