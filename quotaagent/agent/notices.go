package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metrics"
	"github.com/nomad-governor/governor/quotaagent/notice"
)

// The keys of what was told, and of what waits to be.
const (
	noticePrefix   = "notify/"
	noticeStateKey = noticePrefix + "state"
	outboxPrefix   = noticePrefix + "outbox/"
)

// noticeBoard is what is known of alerts and of who is to be told.
type noticeBoard struct {
	firing  []metrics.Alert
	waiting map[string]int
}

// told are the documents about what was told, as stored.
type told struct {
	state   notice.State
	version uint64
	// known says that the state was written before.
	known bool
	boxes map[string]box
	// damaged are the keys of documents that cannot be read: they are written anew.
	damaged []string
}

// box is the outbox of one notifier, with the version of its document.
type box struct {
	notice.Outbox
	version uint64
}

// readTold reads all of them.
func readTold(ctx context.Context, store Store) (told, error) {
	t := told{boxes: make(map[string]box)}
	records, _, err := store.List(ctx, noticePrefix)
	if err != nil {
		return t, fmt.Errorf("read what was told: %w", err)
	}
	for _, r := range records {
		name, isBox := strings.CutPrefix(r.Key, outboxPrefix)
		switch {
		case r.Key == noticeStateKey:
			t.version, t.known = r.Version, true
			if ledger.DecodeDocument(r.Value, &t.state) != nil {
				t.state, t.known, t.damaged = notice.State{}, false, append(t.damaged, r.Key)
			}
		case isBox:
			b := box{version: r.Version}
			if ledger.DecodeDocument(r.Value, &b.Outbox) != nil {
				b.Outbox, t.damaged = notice.Outbox{}, append(t.damaged, r.Key)
			}
			t.boxes[name] = b
		}
	}
	return t, nil
}

// notices are what metrics show of what fires and what waits.
func (a *Agent) notices(ctx context.Context) (noticeBoard, error) {
	t, err := readTold(ctx, a.store)
	if err != nil {
		return noticeBoard{}, err
	}
	out := noticeBoard{waiting: make(map[string]int)}
	seen := make(map[metrics.Alert]bool)
	for _, f := range t.state.Firing {
		alert := metrics.Alert{Budget: f.Data.Budget, Name: alertName(f), Severity: f.Data.Severity}
		if f.Data.Budget != "" && !seen[alert] {
			seen[alert] = true
			out.firing = append(out.firing, alert)
		}
	}
	slices.SortFunc(out.firing, func(x, y metrics.Alert) int {
		return cmp.Or(strings.Compare(x.Budget, y.Budget), strings.Compare(x.Name, y.Name), strings.Compare(x.Severity, y.Severity))
	})
	for name, b := range t.boxes {
		out.waiting[name] = len(b.Waiting)
	}
	return out, nil
}

// alertName is the name of an alert block, or what else it is.
func alertName(f notice.Firing) string {
	_, last, _ := strings.Cut(f.Kind, ".")
	return cmp.Or(f.Data.Alert, last)
}

// AlertsView is what fires, and who is told.
type AlertsView struct {
	Firing    []AlertView    `json:"firing"`
	Notifiers []NotifierView `json:"notifiers"`
	Time      time.Time      `json:"time"`
}

// AlertView is one condition that holds, or has not been over for long enough.
type AlertView struct {
	Kind      string    `json:"kind"`
	Subject   string    `json:"subject"`
	Severity  string    `json:"severity"`
	Budget    string    `json:"budget,omitempty"`
	Alert     string    `json:"alert,omitempty"`
	Window    string    `json:"window,omitempty"`
	Dimension string    `json:"dimension,omitempty"`
	Text      string    `json:"text"`
	Source    string    `json:"source,omitempty"`
	Since     time.Time `json:"since"`
}

// NotifierView is one notifier and how it gets its events.
type NotifierView struct {
	Name   string `json:"name"`
	Source string `json:"source"`
	// Events and Budgets are what it hears of besides the rules that name it.
	Events  []string `json:"events,omitempty"`
	Budgets []string `json:"budgets,omitempty"`
	// Signed says that its policy names a secret.
	Signed bool `json:"signed"`
	// Waiting events, and since when the oldest does; Error of the last attempt.
	Waiting int        `json:"waiting"`
	Oldest  *time.Time `json:"oldest,omitempty"`
	Sent    uint64     `json:"sent"`
	GivenUp uint64     `json:"given_up"`
	Error   string     `json:"error,omitempty"`
}

func (a *Agent) serveAlerts(ctx context.Context, _ api.Call) (any, error) {
	t, err := readTold(ctx, a.store)
	if err != nil {
		return nil, err
	}
	out := AlertsView{Firing: []AlertView{}, Notifiers: []NotifierView{}, Time: a.Engine.now().UTC()}
	for _, key := range slices.Sorted(maps.Keys(t.state.Firing)) {
		f := t.state.Firing[key]
		out.Firing = append(out.Firing, AlertView{Kind: f.Kind, Subject: f.Subject, Severity: f.Data.Severity, Budget: f.Data.Budget, Alert: f.Data.Alert,
			Window: f.Data.Window, Dimension: f.Data.Dimension, Text: f.Data.Text, Source: f.Data.Source, Since: time.UnixMilli(f.SinceMS).UTC()})
	}
	for _, n := range a.Keeper.State().Policy.Notifiers {
		b := t.boxes[notice.Name(n)]
		v := NotifierView{Name: notice.Name(n), Source: n.Source.String(), Events: n.Events, Budgets: n.Budgets, Signed: n.SecretEnv != "",
			Waiting: len(b.Waiting), Sent: b.Sent, GivenUp: b.GivenUp, Error: b.Error}
		if len(b.Waiting) > 0 {
			oldest := time.UnixMilli(b.Waiting[0].AtMS).UTC()
			v.Oldest = &oldest
		}
		out.Notifiers = append(out.Notifiers, v)
	}
	return out, nil
}

// serveAlertTry sends one event to a notifier, so that whoever set it up sees that it
// works. It is no part of the outbox, and is not tried again.
func (a *Agent) serveAlertTry(ctx context.Context, c api.Call) (any, error) {
	if a.teller == nil {
		return nil, refusal(http.StatusNotFound, "this agent sends no events")
	}
	name := c.Query("notifier")
	n, known := notifierOf(a.Keeper.State().Policy, name)
	if !known {
		return nil, refusal(http.StatusNotFound, "there is no notifier %.200q in the policy; `governor alert list` shows all", name)
	}
	e := notice.Event{ID: a.Engine.books.newID(), Kind: "test", Subject: name, AtMS: a.Engine.now().UnixMilli(),
		Data: notice.Data{Severity: "info", Actor: c.Caller.Accessor, Text: "a test of the notifier " + name + "; nothing has happened"}}
	if err := a.teller.post(ctx, n, e); err != nil {
		return nil, refusal(http.StatusBadGateway, "notifier %s did not take it: %v", name, err)
	}
	return map[string]bool{"sent": true}, nil
}

// notifierOf finds a notifier by its name, "webhook.finops".
func notifierOf(p *budget.Policy, name string) (budget.Notifier, bool) {
	for _, n := range p.Notifiers {
		if notice.Name(n) == name {
			return n, true
		}
	}
	return budget.Notifier{}, false
}
