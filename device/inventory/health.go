package inventory

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Condition is something that is wrong with a device.
type Condition struct {
	Code     Code
	Severity Severity
	// Text says it in words that do not change while it lasts: each change
	// of a health description is sent to Nomad's servers.
	Text string
}

// String is the condition as a health description has it.
func (c Condition) String() string { return string(c.Code) + ": " + c.Text }

// tracker follows one condition from reading to reading.
//
//	── seen ──► rising ── enter readings in a row ──► open ── clean readings in a row ──► gone
type tracker struct {
	Condition
	latched bool // an XID: readings do not show it, only its end
	open    bool
	seen    int // readings in a row that show it, while rising
	clean   int // readings in a row that do not, while open
}

// Health is what is known about the state of one GPU or MIG instance. The zero
// value is healthy.
type Health struct {
	// Failure is why the device does not answer; empty when it does.
	Failure string
	// Lost says that this device alone was away, and not NVML as a whole:
	// it comes back only by a reset.
	Lost bool
	// LastXID and XIDs count every XID seen since the plugin started, also
	// harmless ones; ByXID counts them by number.
	LastXID, XIDs int64
	ByXID         map[int64]int64

	trackers []tracker // by code
}

// Open lists the conditions in force, the worst first, then by code.
func (h Health) Open() []Condition {
	var open []Condition
	for _, t := range h.trackers {
		if t.open {
			open = append(open, t.Condition)
		}
	}
	slices.SortFunc(open, func(a, b Condition) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), strings.Compare(string(a.Code), string(b.Code)))
	})
	return open
}

// unsettled reports whether a condition may begin or end with the next
// readings, so that they should come soon.
func (h Health) unsettled() bool {
	return h.Failure != "" || slices.ContainsFunc(h.trackers, func(t tracker) bool {
		return !t.open || t.clean > 0 || t.latched
	})
}

// describe joins the conditions of one severity.
func describe(conditions []Condition, severity Severity) string {
	var texts []string
	for _, c := range conditions {
		if c.Severity == severity {
			texts = append(texts, c.String())
		}
	}
	return strings.Join(texts, "; ")
}

// lose records that this device does not answer while NVML does.
func (h Health) lose(reason string) Health {
	h.Lost = true
	return h.fail(reason)
}

// fail records that the device does not answer.
func (h Health) fail(reason string) Health {
	h.Failure = reason
	h.trackers = slices.Clone(h.trackers)
	for i := range h.trackers {
		h.trackers[i].clean = 0
	}
	return h
}

// answered records a good reading and the conditions that it shows. recovery is
// what the driver says about recovery. A device that was reset has left its
// XIDs behind; otherwise one ends when the driver says in enough readings in a
// row that no recovery is needed.
func (h Health) answered(p Policy, shown []Condition, recovery Maybe[int64], reset bool) Health {
	reset = reset || h.Lost
	h.Failure, h.Lost = "", false
	next := make([]tracker, 0, len(h.trackers)+len(shown))
	for _, t := range h.trackers {
		if t.latched {
			switch {
			case reset:
				continue
			case recovery.Known && recovery.Value == 0:
				t.clean++
			default:
				t.clean = 0
			}
		} else if i := slices.IndexFunc(shown, func(c Condition) bool { return c.Code == t.Code }); i >= 0 {
			t.Condition, t.clean = shown[i], 0
			t.seen++
			t.open = t.open || t.seen >= conditionKinds[t.Code].enter
		} else if !t.open {
			continue
		} else {
			t.clean++
		}
		if t.clean < p.cleanReads() {
			next = append(next, t)
		}
	}
	for _, c := range shown {
		if !slices.ContainsFunc(next, func(t tracker) bool { return t.Code == c.Code }) {
			next = append(next, tracker{Condition: c, seen: 1, open: conditionKinds[c.Code].enter <= 1})
		}
	}
	slices.SortFunc(next, func(a, b tracker) int { return strings.Compare(string(a.Code), string(b.Code)) })
	h.trackers = next
	return h
}

// xid records an XID.
func (h Health) xid(p Policy, number int64) Health {
	h.LastXID = number
	h.XIDs++
	h.ByXID = maps.Clone(h.ByXID)
	if h.ByXID == nil {
		h.ByXID = map[int64]int64{}
	}
	h.ByXID[number]++
	severity := p.xidSeverity(number)
	if severity == Harmless {
		return h
	}
	t := tracker{Condition: Condition{Code: xidCode(number), Severity: severity, Text: xidWords(number)}, latched: true, open: true}
	h.trackers = slices.DeleteFunc(slices.Clone(h.trackers), func(old tracker) bool { return old.Code == t.Code })
	h.trackers = append(h.trackers, t)
	slices.SortFunc(h.trackers, func(a, b tracker) int { return strings.Compare(string(a.Code), string(b.Code)) })
	return h
}
