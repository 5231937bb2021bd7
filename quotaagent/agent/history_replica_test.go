package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/shoenig/test/must"
)

// fragile is a recorder that fails while it is told to, as one with a full disk.
type fragile struct {
	Recorder
	broken atomic.Bool
}

var errFull = errors.New("the disk is full")

// Record implements Recorder.
func (f *fragile) Record(ctx context.Context, entries []ledger.Entry) error {
	if f.broken.Load() {
		return errFull
	}
	return f.Recorder.Record(ctx, entries)
}

// breakable puts a recorder that can fail before the history.
func (r *rig) breakable() *fragile {
	f := &fragile{Recorder: r.history}
	r.Engine.books.recorder = f
	return f
}

func TestMeteringGoesOnWhileNothingCanBeRecorded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.keepHistory(t)
	f := r.breakable()
	must.False(t, r.run(r.job("train", 1, 2)).Denied)
	alloc := r.nomad.start("default", "train", 0, 2)
	must.NoError(t, r.settle())
	f.broken.Store(true)
	for range 5 {
		r.clock.advance(time.Minute)
		must.NoError(t, r.settle())
	}
	posted := r.posted("acme")
	must.Positive(t, posted)
	must.Eq(t, 0, r.statementBy(report.Budget).Total.GPUTime, must.Sprint("nothing was recorded"))
	must.Greater(t, 1, len(r.holdOf("default", "train").Outbox))
	c := r.verified()
	must.SliceEmpty(t, c.Differences, must.Sprint("what waits is counted"))
	must.Positive(t, c.Waiting)

	f.broken.Store(false)
	r.nomad.finish(alloc)
	r.clock.advance(time.Second)
	must.NoError(t, r.settle())
	must.Eq(t, r.facts(), int64(r.statementBy(report.Budget).Total.GPUTime))
	must.SliceEmpty(t, r.verified().Differences)
}

func TestMeteringStopsBeforeHistoryIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	past := r.keepHistory(t)
	f := r.breakable()
	must.False(t, r.run(r.job("train", 1, 2)).Denied)
	r.nomad.start("default", "train", 0, 2)
	must.NoError(t, r.settle())
	// As after days with a full disk.
	held := r.holdOf("default", "train")
	waiting := make([]ledger.Entry, outboxMax+1)
	for i := range waiting {
		waiting[i] = ledger.Entry{Key: fmt.Sprint("old-", i), Kind: ledger.OverdraftEntry, Budget: held.Budget, Namespace: held.Namespace, JobID: held.JobID, HoldID: held.ID,
			Alloc: held.Tracks[0].Alloc, FromMS: noon.UnixMilli(), ToMS: noon.UnixMilli() + 1}
	}
	full := held.PutOut(waiting)
	must.NoError(t, r.Engine.books.update(r.ctx, ledger.Fence{}, target{key: holdKey("default", "train"), calendar: ledger.CalendarOf(r.Keeper.State().Policy)},
		func(view) (change, error) { return change{hold: &full}, nil }))
	f.broken.Store(true)
	before := r.posted("acme")
	r.clock.advance(time.Minute)
	err := r.settle()
	must.ErrorIs(t, err, errFull)
	must.ErrorContains(t, err, "20001 lines of history wait to be recorded")
	must.Eq(t, before, r.posted("acme"), must.Sprint("nothing is posted that cannot be recorded"))
	must.Len(t, outboxMax+1, r.holdOf("default", "train").Outbox)

	f.broken.Store(false)
	must.NoError(t, r.settle())
	must.Greater(t, before, r.posted("acme"))
	state, err := past.State(r.ctx)
	must.NoError(t, err)
	must.Greater(t, outboxMax, int(state.Entries))
	must.SliceEmpty(t, r.verified().Differences)
}

func TestAConflictIsReportedAndDoesNotHoldUpMetering(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	past := r.keepHistory(t)
	must.False(t, r.run(r.job("train", 1, 2)).Denied)
	alloc := r.nomad.start("default", "train", 0, 2)
	start := r.clock.now().UnixMilli()
	must.NoError(t, past.Record(r.ctx, []ledger.Entry{{Key: fmt.Sprintf("%s/v100/%d", alloc, start), Kind: ledger.UsageEntry, Budget: "acme/research", Class: "v100",
		FromMS: start, ToMS: start + 1, GPUTime: 1, Cost: 1}}))
	must.NoError(t, r.settle())
	r.clock.advance(10 * time.Minute)
	must.NoError(t, r.settle())
	r.nomad.finish(alloc)
	must.NoError(t, r.settle())
	must.Eq(t, r.facts(), r.posted("acme"))
	c := r.verified()
	must.Len(t, 1, c.Conflicts)
	must.SliceNotEmpty(t, c.Differences)
}

// served is an agent that others can ask for its history; down makes it answer
// nothing.
type served struct {
	*Agent
	past *history.Store
	down atomic.Bool
	// asked counts the requests of other agents.
	asked   atomic.Int32
	handler http.Handler
}

// replicaOf is a second agent on the rig's ledger, with a history of its own. It
// does not lead.
func (r *rig) replicaOf(t testing.TB, name, file string) *served {
	past, err := history.Open(file, r.clock.now)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, past.Close()) })
	s := &served{past: past}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		s.asked.Add(1)
		if s.down.Load() {
			http.Error(w, "gone", http.StatusBadGateway)
			return
		}
		s.handler.ServeHTTP(w, q)
	}))
	t.Cleanup(server.Close)
	s.Agent = New(Options{Name: name, Store: r.store, Nomad: r.nomad, Placer: r.placer, Logger: hclog.NewNullLogger(), Now: r.clock.now,
		History: past, Peers: Peers{Address: server.URL, Token: "secret", Client: server.Client()}})
	must.NoError(t, s.Keeper.Load(r.ctx))
	s.handler = api.Handler(s.Routes(), func(q *http.Request, _ api.Right) (api.Caller, int, string) {
		if q.Header.Get("X-Nomad-Token") != "secret" {
			return api.Caller{}, http.StatusForbidden, "no token"
		}
		return api.Caller{Accessor: "agent"}, 0, ""
	}, func(*http.Request, error) {})
	return s
}

// both exchange once in each direction, after both have said that they are there.
func (r *rig) both(agents ...*served) {
	for range 2 {
		for _, a := range agents {
			a.peers.round(r.ctx)
		}
	}
}

func TestAnyReplicaAnswersForAll(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := t.TempDir()
	a, b := r.replicaOf(t, "a", filepath.Join(dir, "a.db")), r.replicaOf(t, "b", filepath.Join(dir, "b.db"))
	r.Agent = a.Agent
	r.Meter.begin()
	r.both(a, b)
	r.work("first", 2, 20*time.Minute)
	// b takes over: it records what is in outboxes again, and what it meters itself.
	r.Agent = b.Agent
	r.Meter.begin()
	r.work("second", 1, 10*time.Minute)
	r.both(a, b)

	by := []report.Column{report.Job}
	q := report.Query{From: noon.AddDate(0, -1, 0), To: noon.AddDate(0, 1, 0), By: by}
	var statements []report.Statement
	for _, agent := range []*served{a, b} {
		s, err := agent.statement(r.ctx, q, nil)
		must.NoError(t, err)
		must.Len(t, 2, s.Lines)
		must.Eq(t, r.posted("acme"), int64(s.Total.GPUTime))
		must.Eq(t, r.clock.now().UTC(), s.CompleteTo)
		statements = append(statements, s)
		c, err := agent.compare(r.ctx, agent.history)
		must.NoError(t, err)
		must.SliceEmpty(t, c.Differences)
		must.SliceEmpty(t, c.Conflicts)
		must.SliceEmpty(t, c.Incomplete)
	}
	must.Eq(t, statements[0].Lines, statements[1].Lines)

	// a loses its disk, and gets everything from b.
	fresh := r.replicaOf(t, "a", filepath.Join(dir, "fresh.db"))
	r.both(fresh)
	s, err := fresh.statement(r.ctx, q, nil)
	must.NoError(t, err)
	must.Eq(t, statements[0].Lines, s.Lines)
	c, err := fresh.compare(r.ctx, fresh.history)
	must.NoError(t, err)
	must.SliceEmpty(t, c.Differences)
	must.Eq(t, 0, c.Older)
}

func TestAStatementSaysWhenAnotherAgentDoesNotAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := t.TempDir()
	a, b := r.replicaOf(t, "a", filepath.Join(dir, "a.db")), r.replicaOf(t, "b", filepath.Join(dir, "b.db"))
	r.both(a, b)
	last := r.clock.now().UTC()
	b.down.Store(true)
	r.clock.advance(2 * freshWithin)
	a.peers.round(r.ctx)
	q := report.Query{From: noon.AddDate(0, 0, -1), To: noon.AddDate(0, 0, 1), By: []report.Column{report.Budget}}
	s, err := a.statement(r.ctx, q, nil)
	must.NoError(t, err)
	must.Eq(t, last, s.CompleteTo)
	must.StrContains(t, fmt.Sprint(s.Incomplete), "agent b at http://127.0.0.1")
	must.StrContains(t, fmt.Sprint(s.Incomplete), "has not answered since 2026-03-10T12:00:00Z")
	b.down.Store(false)
	a.peers.round(r.ctx)
	s, err = a.statement(r.ctx, q, nil)
	must.NoError(t, err)
	must.Eq(t, r.clock.now().UTC(), s.CompleteTo)

	// One that has been away for long is not waited for.
	b.down.Store(true)
	r.clock.advance(awayAfter + time.Hour)
	a.peers.round(r.ctx)
	s, err = a.statement(r.ctx, q, nil)
	must.NoError(t, err)
	must.Eq(t, r.clock.now().UTC(), s.CompleteTo)
	r.clock.advance(goneAfter)
	a.peers.round(r.ctx)
	records, _, err := r.store.List(r.ctx, replicaPrefix)
	must.NoError(t, err)
	must.Len(t, 1, records, must.Sprint("its record is removed"))
}

func TestAgentsWithOneAddressSaySo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := t.TempDir()
	a, b := r.replicaOf(t, "a", filepath.Join(dir, "a.db")), r.replicaOf(t, "b", filepath.Join(dir, "b.db"))
	b.peers.options.Address = a.peers.options.Address
	r.both(a, b)
	s, err := a.statement(r.ctx, report.Query{From: noon, To: noon.Add(time.Hour), By: []report.Column{report.Budget}}, nil)
	must.NoError(t, err)
	must.StrContains(t, fmt.Sprint(s.Incomplete), "agent b says to be at")
}
