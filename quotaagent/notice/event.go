package notice

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
)

// typePrefix is before the kind of an event in its CloudEvents type.
const typePrefix = "dev.governor."

// Event is one thing that somebody is told.
type Event struct {
	// ID is unique, and the same each time that the event is delivered.
	ID string `json:"id"`
	// Kind is one of budget.EventKinds.
	Kind string `json:"kind"`
	// Subject is the path of a budget, or what else it is about.
	Subject string `json:"subject"`
	AtMS    int64  `json:"at_ms"`
	Data    Data   `json:"data"`
}

// Data is what an event says.
type Data struct {
	// Status is firing or resolved; "" for what just happened.
	Status string `json:"status,omitempty"`
	// Severity is critical, warning or info.
	Severity string `json:"severity,omitempty"`
	Budget   string `json:"budget,omitempty"`
	// Alert is the name of an alert block, Window and Dimension the limit concerned.
	Alert     string `json:"alert,omitempty"`
	Window    string `json:"window,omitempty"`
	Dimension string `json:"dimension,omitempty"`
	// Text is one sentence for people.
	Text string `json:"text"`
	// Owner of the budget, and where the limit or the alert is set.
	Owner  string `json:"owner,omitempty"`
	Source string `json:"source,omitempty"`
	// Since is when it began, RFC 3339; of what was resolved too.
	Since string `json:"since,omitempty"`
	// Actor is the accessor of who did it, Object what it was done to, Audit the number
	// of the audit record.
	Actor  string `json:"actor,omitempty"`
	Object string `json:"object,omitempty"`
	Audit  uint64 `json:"audit_seq,omitempty"`
}

// CloudEvent is the event in the structured mode of CloudEvents 1.0, as JSON. source
// says which installation it comes from.
func (e Event) CloudEvent(source string) ([]byte, error) {
	return json.Marshal(struct {
		SpecVersion     string `json:"specversion"`
		ID              string `json:"id"`
		Source          string `json:"source"`
		Type            string `json:"type"`
		Subject         string `json:"subject,omitempty"`
		Time            string `json:"time"`
		DataContentType string `json:"datacontenttype"`
		Data            Data   `json:"data"`
	}{"1.0", e.ID, source, typePrefix + e.Kind, e.Subject, time.UnixMilli(e.AtMS).UTC().Format(time.RFC3339Nano), "application/json", e.Data})
}

// Name is how a policy refers to a notifier.
func Name(n budget.Notifier) string { return n.Kind + "." + n.Name }

// Receivers are the notifiers that hear of an event, in order: those that the rule
// behind it names, and those that want events of its kind and budget.
func Receivers(p *budget.Policy, e Event, named []string) []string {
	var out []string
	for _, n := range p.Notifiers {
		if slices.Contains(named, Name(n)) || wants(n, e) {
			out = append(out, Name(n))
		}
	}
	return out
}

func wants(n budget.Notifier, e Event) bool {
	if !slices.ContainsFunc(n.Events, func(pattern string) bool { return matches(pattern, e.Kind) }) {
		return false
	}
	return len(n.Budgets) == 0 || e.Data.Budget != "" && slices.ContainsFunc(n.Budgets, func(path string) bool {
		return path == e.Data.Budget || strings.HasPrefix(e.Data.Budget, path+"/")
	})
}

// matches reports whether a kind is that of a pattern: itself, or "budget.*".
func matches(pattern, kind string) bool {
	if all, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(kind, all)
	}
	return pattern == kind
}
