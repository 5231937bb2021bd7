package notice_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/quotaagent/audit"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/notice"
)

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func soft(path string, holds bool) notice.Condition {
	return notice.Condition{Key: "soft/" + path, Holds: holds, Kind: "budget.soft", Subject: path,
		Data: notice.Data{Severity: "warning", Budget: path, Text: path + " is past its soft mark"}, Ended: path + " is below its soft mark again"}
}

func TestAConditionIsToldOnceAndItsEndOnce(t *testing.T) {
	t.Parallel()
	s, at := notice.State{Epoch: "e"}, noon
	step := func(holds, unknown bool) []string {
		c := soft("acme", holds)
		c.Unknown = unknown
		next, events, _ := s.Watch([]notice.Condition{c}, at)
		s, at = next, at.Add(time.Minute)
		var out []string
		for _, e := range events {
			out = append(out, fmt.Sprintf("%s %s %s: %s", e.ID, e.Kind, e.Data.Status, e.Data.Text))
		}
		return out
	}
	must.Nil(t, step(false, false))
	must.Eq(t, []string{"e-1 budget.soft firing: acme is past its soft mark"}, step(true, false))
	for i := range 40 { // it flickers, and sometimes nobody knows
		must.Nil(t, step(i%5 == 0, i%7 == 3), must.Sprint(i))
	}
	for range 20 {
		must.Nil(t, step(true, true), must.Sprint("what is not known ends nothing"))
	}
	must.Eq(t, []string{"e-2 budget.soft resolved: acme is below its soft mark again"}, step(false, false))
	must.Nil(t, step(false, false))
	must.Eq(t, []string{"e-3 budget.soft firing: acme is past its soft mark"}, step(true, false))
}

func TestWhatIsGoneFromThePolicyIsOver(t *testing.T) {
	t.Parallel()
	s, _, _ := notice.State{Epoch: "e"}.Watch([]notice.Condition{soft("acme", true)}, noon)
	s, events, _ := s.Watch(nil, noon.Add(9*time.Minute))
	must.SliceEmpty(t, events)
	_, events, _ = s.Watch(nil, noon.Add(10*time.Minute))
	must.Len(t, 1, events)
	must.Eq(t, "resolved", events[0].Data.Status)
}

func TestAuditRecordsAreToldOnceAndInOrder(t *testing.T) {
	t.Parallel()
	s := notice.State{Epoch: "e", Audit: 2}
	records := []audit.Record{
		{Seq: 2, Kind: "override.used", Budget: "acme"},
		{Seq: 3, Kind: "override.requested", Budget: "acme", Subject: "o-1", Actor: "ann", Text: "ann asks", Notify: []string{"webhook.finops"}, AtMS: noon.UnixMilli()},
		{Seq: 4, Kind: "policy.applied"},
		{Seq: 5, Kind: "bypass.opened", Subject: "token x", Text: "found: token x"},
	}
	s, events := s.Follow(records)
	must.Eq(t, 5, s.Audit)
	must.Len(t, 2, events)
	must.Eq(t, notice.Addressed{Named: []string{"webhook.finops"}, Event: notice.Event{ID: "e-1", Kind: "override.requested", Subject: "acme", AtMS: noon.UnixMilli(),
		Data: notice.Data{Severity: "info", Budget: "acme", Text: "ann asks", Actor: "ann", Object: "o-1", Audit: 3}}}, events[0])
	must.Eq(t, "health.bypass_opened", events[1].Kind)
	must.Eq(t, "warning", events[1].Data.Severity)
	_, events = s.Follow(records)
	must.SliceEmpty(t, events)
}

func TestReceivers(t *testing.T) {
	t.Parallel()
	p := &budget.Policy{Notifiers: []budget.Notifier{
		{Kind: "webhook", Name: "all", Events: []string{"*"}},
		{Kind: "webhook", Name: "named"},
		{Kind: "webhook", Name: "research", Events: []string{"budget.*"}, Budgets: []string{"acme/research"}},
		{Kind: "webhook", Name: "uses", Events: []string{"override.used"}},
	}}
	event := func(kind, path string) notice.Event { return notice.Event{Kind: kind, Data: notice.Data{Budget: path}} }
	must.Eq(t, []string{"webhook.all", "webhook.research"}, notice.Receivers(p, event("budget.soft", "acme/research/nlp"), nil))
	must.Eq(t, []string{"webhook.all"}, notice.Receivers(p, event("budget.soft", "acme/researchers"), nil))
	must.Eq(t, []string{"webhook.all", "webhook.named", "webhook.uses"}, notice.Receivers(p, event("override.used", "acme"), []string{"webhook.named", "webhook.gone"}))
	must.Eq(t, []string{"webhook.all"}, notice.Receivers(p, event("health.history", ""), nil))
}

func TestCloudEvent(t *testing.T) {
	t.Parallel()
	e := notice.Event{ID: "ab12-7", Kind: "budget.soft", Subject: "acme/research", AtMS: noon.UnixMilli(),
		Data: notice.Data{Status: "firing", Severity: "warning", Budget: "acme/research", Window: "month", Text: "past 80 %"}}
	text, err := e.CloudEvent("/governor/eu")
	must.NoError(t, err)
	must.Eq(t, `{"specversion":"1.0","id":"ab12-7","source":"/governor/eu","type":"dev.governor.budget.soft","subject":"acme/research","time":"2026-03-10T12:00:00Z",`+
		`"datacontenttype":"application/json","data":{"status":"firing","severity":"warning","budget":"acme/research","window":"month","text":"past 80 %"}}`, string(text))
}

func TestAnEventIsGivenUpAfterADay(t *testing.T) {
	t.Parallel()
	o := notice.Outbox{}.With(notice.Event{ID: "1", Subject: "a", AtMS: noon.UnixMilli()})
	at, attempts := noon, 0
	for len(o.Waiting) > 0 {
		due, next := o.Due(at)
		if len(due) == 0 {
			must.True(t, next.After(at))
			must.LessEq(t, 10*time.Minute, next.Sub(at))
			at = next
			continue
		}
		attempts++
		o = o.Failed("1", "the receiver answered 500", at, float64(attempts%2))
	}
	must.Eq(t, 24*time.Hour, at.Sub(noon).Truncate(time.Hour))
	must.Between(t, 144, attempts, 300)
	must.Eq(t, 1, o.GivenUp)
	must.Eq(t, "the receiver answered 500", o.Error)
}

func TestAnOutboxIsBounded(t *testing.T) {
	t.Parallel()
	var o notice.Outbox
	for i := range 700 {
		o = o.With(notice.Event{ID: fmt.Sprint(i), Subject: "a"})
	}
	must.Len(t, 500, o.Waiting)
	must.Eq(t, 200, o.GivenUp)
	must.Eq(t, "200", o.Waiting[0].ID)
}

// Whatever fails, crashes or is sent twice: each event arrives at least once, and of
// each subject for the first time in the order in which they were made.
func TestEachEventArrivesInTheOrderOfItsSubject(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		stored, _ := json.Marshal(notice.Outbox{}) // what survives a crash
		load := func() (o notice.Outbox) {
			must.NoError(t, json.Unmarshal(stored, &o))
			return o
		}
		save := func(o notice.Outbox) {
			text, err := json.Marshal(o)
			must.NoError(t, err)
			stored = text
		}
		at, made := noon, map[string][]string{}
		arrived, first := map[string]int{}, map[string][]string{}
		deliver := func(w notice.Waiting) {
			if arrived[w.ID]++; arrived[w.ID] == 1 {
				first[w.Subject] = append(first[w.Subject], w.ID)
			}
		}
		n := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"new", "try", "wait"}).Draw(t, "step") {
			case "new":
				n++
				subject := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "subject")
				e := notice.Event{ID: fmt.Sprint(n), Subject: subject, AtMS: at.UnixMilli()}
				made[subject] = append(made[subject], e.ID)
				save(load().With(e))
			case "wait":
				at = at.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "seconds")) * time.Second)
			case "try":
				due, _ := load().Due(at)
				for _, w := range due {
					switch rapid.SampledFrom([]string{"taken", "refused", "crash before", "crash after"}).Draw(t, "outcome") {
					case "taken":
						deliver(w)
						save(load().Delivered(w.ID))
					case "refused":
						save(load().Failed(w.ID, "refused", at, rapid.Float64Range(0, 1).Draw(t, "random")))
					case "crash after":
						deliver(w) // and nobody notes it
					case "crash before":
					}
				}
			}
		}
		for range 100 { // the receiver is well again
			due, next := load().Due(at)
			for _, w := range due {
				deliver(w)
				save(load().Delivered(w.ID))
			}
			if len(due) == 0 && !next.IsZero() {
				at = next
			}
		}
		must.SliceEmpty(t, load().Waiting)
		must.Eq(t, made, first)
	})
}

// A subject that fails does not hold up another one.
func TestSubjectsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	o := notice.Outbox{}.With(notice.Event{ID: "1", Subject: "a", AtMS: noon.UnixMilli()}, notice.Event{ID: "2", Subject: "a"}, notice.Event{ID: "3", Subject: "b"})
	o = o.Failed("1", "no", noon, 0)
	due, next := o.Due(noon)
	ids := []string{}
	for _, w := range due {
		ids = append(ids, w.ID)
	}
	must.Eq(t, []string{"3"}, ids)
	must.Eq(t, noon.Add(2*time.Second), next)
	must.True(t, slices.IsSorted(budget.EventKinds()))
}
