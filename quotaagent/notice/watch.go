package notice

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/audit"
)

const (
	// resolveAfter is how long a condition must not hold any more before it counts as
	// over: what flickers is told once.
	resolveAfter = 10 * time.Minute
	// eventsAtOnce bounds the events of one step; the others come with the next.
	eventsAtOnce = 50
	// textMost bounds the text of an event, in bytes.
	textMost = 1000
)

// Condition is something that holds or does not hold now.
type Condition struct {
	// Key is the same for the same condition, always.
	Key string
	// Holds is whether it does; Unknown says that this cannot be told now, and changes
	// nothing.
	Holds, Unknown bool
	Kind, Subject  string
	// Data without status and time; Ended is the text for when it is over.
	Data  Data
	Ended string
	// Named are the notifiers that its rule names.
	Named []string
}

// State is what was told last.
type State struct {
	// Epoch and Seq make ids: no two installations have the same epoch.
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
	// Audit is the number of the last audit record that was looked at.
	Audit uint64 `json:"audit"`
	// Firing are the conditions that were told and are not over, by their keys.
	Firing map[string]Firing `json:"firing"`
}

// Firing is a condition that holds, as it was told.
type Firing struct {
	Kind    string   `json:"kind"`
	Subject string   `json:"subject"`
	Data    Data     `json:"data"`
	Ended   string   `json:"ended,omitempty"`
	Named   []string `json:"named,omitempty"`
	SinceMS int64    `json:"since_ms"`
	// HeldMS is when it held last.
	HeldMS int64 `json:"held_ms"`
}

// Addressed is an event with the notifiers that its rule names.
type Addressed struct {
	Event
	Named []string
}

// Watch compares what holds with what was told, and returns the events of what began
// and what is over, at most so many at once. A condition that is not in the list does
// not hold any more. now is the state afterwards; changed says that it differs.
func (s State) Watch(conditions []Condition, now time.Time) (after State, events []Addressed, changed bool) {
	after = s
	after.Firing = make(map[string]Firing, len(s.Firing))
	for key, f := range s.Firing {
		after.Firing[key] = f
	}
	nowMS := now.UnixMilli()
	held, unknown := make(map[string]bool), make(map[string]bool)
	for _, c := range sorted(conditions) {
		held[c.Key], unknown[c.Key] = c.Holds && !c.Unknown, c.Unknown
		f, firing := after.Firing[c.Key]
		switch {
		case !held[c.Key]:
		case firing:
			// Noted once a minute: who takes over must know it roughly.
			if nowMS-f.HeldMS >= time.Minute.Milliseconds() || nowMS < f.HeldMS {
				f.HeldMS, changed = nowMS, true
				after.Firing[c.Key] = f
			}
		case len(events) < eventsAtOnce:
			f = Firing{Kind: c.Kind, Subject: c.Subject, Data: c.Data, Ended: c.Ended, Named: c.Named, SinceMS: nowMS, HeldMS: nowMS}
			after.Firing[c.Key], changed = f, true
			events = append(events, after.told(f, "firing", nowMS))
		}
	}
	for _, key := range keysOf(after.Firing) {
		f := after.Firing[key]
		if held[key] || unknown[key] || nowMS-f.HeldMS < resolveAfter.Milliseconds() || len(events) >= eventsAtOnce {
			continue
		}
		delete(after.Firing, key)
		changed = true
		events = append(events, after.told(f, "resolved", nowMS))
	}
	return after, events, changed
}

func sorted(conditions []Condition) []Condition {
	out := slices.Clone(conditions)
	slices.SortFunc(out, func(a, b Condition) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func keysOf(m map[string]Firing) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// told is the next event about a condition.
func (s *State) told(f Firing, status string, nowMS int64) Addressed {
	d := f.Data
	d.Status, d.Since = status, time.UnixMilli(f.SinceMS).UTC().Format(time.RFC3339)
	if status == "resolved" {
		d.Text = cmp.Or(f.Ended, "This is over: "+d.Text)
	}
	return Addressed{s.event(f.Kind, f.Subject, d, nowMS), f.Named}
}

// event gives an event its id.
func (s *State) event(kind, subject string, d Data, atMS int64) Event {
	s.Seq++
	if len(d.Text) > textMost {
		d.Text = strings.ToValidUTF8(d.Text[:textMost], "") + "…"
	}
	return Event{ID: fmt.Sprintf("%s-%d", s.Epoch, s.Seq), Kind: kind, Subject: subject, AtMS: atMS, Data: d}
}

// auditKinds are the kinds of audit records that are events too, as such.
func auditKind(kind string) (string, bool) {
	switch {
	case strings.HasPrefix(kind, "override."):
		return kind, true
	case kind == "bypass.opened":
		return "health.bypass_opened", true
	case kind == "bypass.closed":
		return "health.bypass_closed", true
	}
	return "", false
}

// Follow makes events of audit records that were not looked at before, in order, at
// most so many at once.
func (s State) Follow(records []audit.Record) (after State, events []Addressed) {
	after = s
	for _, r := range records {
		if r.Seq <= after.Audit {
			continue
		}
		kind, told := auditKind(r.Kind)
		if told && len(events) >= eventsAtOnce {
			return after, events
		}
		after.Audit = r.Seq
		if !told {
			continue
		}
		subject := cmp.Or(r.Budget, r.Subject)
		severity := map[string]string{"health.bypass_opened": "warning"}[kind]
		events = append(events, Addressed{after.event(kind, subject, Data{Severity: cmp.Or(severity, "info"), Budget: r.Budget, Text: r.Text,
			Actor: r.Actor, Object: r.Subject, Audit: r.Seq}, r.AtMS), r.Notify})
	}
	return after, events
}
