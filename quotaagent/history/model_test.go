package history

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// zones have whole hours and half hours, summer time, and clocks that change by
// half an hour.
var zones = []string{"UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns", "Africa/Cairo"}

func zone(t must.T, name string) *time.Location {
	loc, err := time.LoadLocation(name)
	must.NoError(t, err)
	return loc
}

// anyEntry is an entry of some hours around the end of October, when clocks change.
func anyEntry(t *rapid.T, nr int) ledger.Entry {
	pick := func(name string, from ...string) string { return rapid.SampledFrom(from).Draw(t, name) }
	from := time.Date(2026, 10, 23, 0, 0, 0, 0, time.UTC).UnixMilli() + rapid.Int64Range(0, 12*24).Draw(t, "hour")*hourMS + rapid.Int64Range(0, hourMS-1).Draw(t, "into it")
	e := ledger.Entry{Key: fmt.Sprint("k", nr), Kind: pick("kind", ledger.EntryKinds()...), Budget: pick("budget", "a", "a/b", "a/b/c", "d"), Namespace: pick("namespace", "n1", "n2"),
		JobID: pick("job", "j1", "j2", "j3"), HoldID: "h", Submitter: pick("user", "u1", "u2"), Class: pick("class", "", "h100", "l40s"), FromMS: from,
		ToMS: from + rapid.SampledFrom([]int64{0, 1, 30_000, hourMS, 30 * hourMS}).Draw(t, "length"), RateCard: pick("card", "r1", "r2"), Estimated: rapid.Bool().Draw(t, "estimated")}
	amount := rapid.Int64Range(-1_000_000_000_000, 1_000_000_000_000)
	e.Cost, e.Energy = quantity.Amount(amount.Draw(t, "cost")), quantity.Amount(amount.Draw(t, "energy"))
	if e.Class != "" {
		e.GPUTime = quantity.Amount(amount.Draw(t, "gpu"))
		if rapid.Bool().Draw(t, "part") {
			e.Shares = map[string]quantity.Amount{e.Class: e.GPUTime, budget.AnyClass: e.GPUTime / 7, "whole": e.GPUTime / 3}
		}
	}
	if rapid.Bool().Draw(t, "tokens") {
		e.Tokens = map[budget.TokenKind]quantity.Amount{budget.OutputTokens: quantity.Amount(amount.Draw(t, "output"))}
	}
	return e
}

func tempStore(t *rapid.T, dir string, name string) *Store {
	s, err := Open(filepath.Join(dir, name), func() time.Time { return noon })
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, s.Close()) })
	_, err = s.writer.conn.ExecContext(context.Background(), `PRAGMA synchronous = OFF`) // what is durable is not asked here
	must.NoError(t, err)
	return s
}

// reference is what the entries post to each budget, the slow and obvious way.
func reference(all []ledger.Entry, loc *time.Location) map[string]ledger.Vector {
	out := map[string]ledger.Vector{}
	for _, e := range all {
		if _, known := out[e.Budget]; !known {
			out[e.Budget] = ledger.NewVector()
		}
		out[e.Budget].AddAll(e.PostedVector(loc, []budget.Window{budget.Hour, budget.Day, budget.Week, budget.Month, budget.Quarter, budget.Year, budget.Total}), 1)
	}
	return out
}

// checkPosted compares the sums with the reference, in every period (I5).
func checkPosted(t *rapid.T, s *Store, all []ledger.Entry) {
	loc := s.Location()
	want := reference(all, loc)
	keys := map[string]bool{}
	for _, v := range want {
		for _, key := range v.Periods() {
			keys[key] = true
		}
	}
	for key := range keys {
		var from, to time.Time
		if w, dated := ledger.WindowOf(key); dated {
			var err error
			from, err = time.Parse(budget.PeriodKeyLayout, key[len(w.String())+1:])
			must.NoError(t, err)
			to = budget.PeriodAt(w, from, loc).End
		}
		got, err := s.Posted(context.Background(), from, to, here)
		must.NoError(t, err)
		for path, v := range want {
			have := ledger.NewVector()
			for d, a := range got[path] {
				have.Add(key, d, a)
			}
			must.True(t, slices.Equal(v.Row(key), have.Row(key)), must.Sprintf("%s in %s: %v, want %v", path, key, have.Row(key), v.Row(key)))
		}
	}
}

// TestInvariantI5_SumsAreTheEntries is I5 on the side of the history: however entries come in,
// repeated, in batches, over several processes, and wherever sums are made anew, in
// whichever zone, the sums are those of the entries.
func TestInvariantI5_SumsAreTheEntries(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nr := 0
	rapid.Check(t, func(t *rapid.T) {
		nr++
		s := tempStore(t, dir, fmt.Sprintf("sums-%d.db", nr))
		must.NoError(t, s.SetLocation(context.Background(), zone(t, rapid.SampledFrom(zones).Draw(t, "zone"))))
		var all []ledger.Entry
		t.Repeat(map[string]func(*rapid.T){
			"record": func(t *rapid.T) {
				var batch []ledger.Entry
				for range rapid.IntRange(1, 4).Draw(t, "new") {
					all = append(all, anyEntry(t, len(all)))
					batch = append(batch, all[len(all)-1])
				}
				if rapid.Bool().Draw(t, "with an old one") {
					batch = append(batch, rapid.SampledFrom(all).Draw(t, "old"))
				}
				must.NoError(t, s.Record(context.Background(), batch))
			},
			"again": func(t *rapid.T) {
				if len(all) > 0 {
					must.NoError(t, s.Record(context.Background(), all[rapid.IntRange(0, len(all)-1).Draw(t, "from"):]))
				}
			},
			"rebuild": func(t *rapid.T) {
				before := dump(t, s)
				from := time.Date(2026, 10, 20, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.Int64Range(0, 18*24*60).Draw(t, "minute")) * time.Minute)
				must.NoError(t, s.Rebuild(context.Background(), from))
				must.Eq(t, before, dump(t, s), must.Sprint("rebuilt from ", from))
			},
			"zone": func(t *rapid.T) {
				must.NoError(t, s.SetLocation(context.Background(), zone(t, rapid.SampledFrom(zones).Draw(t, "zone"))))
			},
			"": func(t *rapid.T) {},
		})
		checkPosted(t, s, all)
		before := dump(t, s)
		must.NoError(t, s.Rebuild(context.Background(), time.Time{}))
		must.Eq(t, before, dump(t, s))
		checkStatement(t, s, all)
	})
}

// checkStatement compares a statement of some time with the entries, and its total
// with its lines.
func checkStatement(t *rapid.T, s *Store, all []ledger.Entry) {
	loc := s.Location()
	point := func(name string) time.Time {
		at := time.Date(2026, 10, 20, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.IntRange(0, 20*24).Draw(t, name)) * time.Hour)
		w := rapid.SampledFrom([]budget.Window{budget.Hour, budget.Day, budget.Month}).Draw(t, name+" of a")
		return budget.PeriodAt(w, at, loc).Start
	}
	q := report.Query{From: point("from"), To: point("to"), By: rapid.SampledFrom([][]report.Column{{report.Budget}, {report.Job, report.Class}, {report.Day}, {report.Month, report.User},
		{report.Namespace, report.RateCard, report.Model}}).Draw(t, "by"), Budget: rapid.SampledFrom([]string{"", "a", "a/b", "d"}).Draw(t, "budget"),
		Job: rapid.SampledFrom([]string{"", "j1"}).Draw(t, "job"), User: rapid.SampledFrom([]string{"", "u2"}).Draw(t, "user")}
	got := statement(t, s, q)
	var want report.Line
	for _, e := range all {
		inside := q.Budget == "" || e.Budget == q.Budget || len(e.Budget) > len(q.Budget) && e.Budget[:len(q.Budget)+1] == q.Budget+"/"
		if !inside || !ledger.PostedKind(e.Kind) || q.Job != "" && e.JobID != q.Job || q.User != "" && e.Submitter != q.User {
			continue
		}
		for _, p := range e.Hours(loc) {
			if !p.Hour.Start.Before(q.From) && p.Hour.Start.Before(q.To) {
				want.Amounts = want.Add(report.Amounts{GPUTime: p.GPUTime, Cost: p.Cost, Energy: p.Energy, OutputTokens: p.Tokens[budget.OutputTokens]})
			}
		}
	}
	must.Eq(t, want.Amounts, got.Total.Amounts, must.Sprintf("from %s to %s", q.From, q.To))
	var sum report.Amounts
	for _, l := range got.Lines {
		sum = sum.Add(l.Amounts)
	}
	must.Eq(t, got.Total.Amounts, sum, must.Sprint("the total is the sum of the lines"))
}

// TestReplicasBecomeEqual is that agents which record side by side, and each other's
// entries twice, have the same history after an exchange, also through a third one
// and from an empty file.
func TestReplicasBecomeEqual(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nr := 0
	rapid.Check(t, func(t *rapid.T) {
		nr++
		path := func(i int) string { return fmt.Sprintf("replica-%d-%d.db", nr, i) }
		stores := []*Store{tempStore(t, dir, path(0)), tempStore(t, dir, path(1)), tempStore(t, dir, path(2))}
		var all []ledger.Entry
		lives := len(stores)
		t.Repeat(map[string]func(*rapid.T){
			"record": func(t *rapid.T) {
				s := rapid.SampledFrom(stores).Draw(t, "by")
				for range rapid.IntRange(1, 5).Draw(t, "new") {
					all = append(all, anyEntry(t, len(all)))
					must.NoError(t, s.Record(context.Background(), all[len(all)-1:]))
				}
			},
			"record again": func(t *rapid.T) { // a new leader does not know what the old one has told its recorder
				if len(all) > 0 {
					must.NoError(t, rapid.SampledFrom(stores).Draw(t, "by").Record(context.Background(), []ledger.Entry{rapid.SampledFrom(all).Draw(t, "entry")}))
				}
			},
			"page": func(t *rapid.T) {
				exchange(t, rapid.SampledFrom(stores).Draw(t, "from"), rapid.SampledFrom(stores).Draw(t, "to"), rapid.IntRange(1, 4).Draw(t, "size"), 1)
			},
			"restart": func(t *rapid.T) { // in the same file, with a log of its own
				i := rapid.IntRange(0, len(stores)-1).Draw(t, "which")
				stores[i] = tempStore(t, filepath.Dir(stores[i].path), filepath.Base(stores[i].path))
			},
			"": func(t *rapid.T) {},
		})
		for range 2 { // to the first one and back
			for _, from := range stores {
				for _, to := range stores {
					exchange(t, from, to, 3, 1_000_000)
				}
			}
		}
		fresh := tempStore(t, dir, path(lives))
		exchange(t, stores[1], fresh, 2, 1_000_000)
		want := dump(t, stores[0])
		for _, s := range append(stores, fresh) {
			must.Eq(t, want, dump(t, s))
			conflicts, err := s.Conflicts(context.Background())
			must.NoError(t, err)
			must.SliceEmpty(t, conflicts)
		}
		checkPosted(t, fresh, all)
	})
}

// exchange moves pages from one file to another, until there are no more or enough.
func exchange(t *rapid.T, from, to *Store, size, pages int) {
	if from == to {
		return
	}
	heads, err := to.Heads(context.Background())
	must.NoError(t, err)
	before := Page{}
	for range pages {
		page, err := from.Since(context.Background(), heads, size)
		must.NoError(t, err)
		must.True(t, len(page.Entries) <= size)
		maps.Copy(heads, page.Heads)
		page = page.Join(before)
		before = page
		must.NoError(t, to.Absorb(context.Background(), page))
		must.NoError(t, to.Absorb(context.Background(), page), must.Sprint("the same page again"))
		if !page.More {
			return
		}
	}
}

func TestAPageThatLeavesAGapIsRefused(t *testing.T) {
	t.Parallel()
	a, b := newStore(t), newStore(t)
	must.NoError(t, a.Record(t.Context(), []ledger.Entry{usage("1", noon, nil), usage("2", noon, nil), usage("3", noon, nil)}))
	page, err := a.Since(t.Context(), Heads{a.writer.name: 1}, 10)
	must.NoError(t, err)
	must.ErrorContains(t, b.Absorb(t.Context(), page), "begins behind 1 of log")
	must.SliceEmpty(t, dump(t, b))
}

func TestReplicasThatDisagreeSaySo(t *testing.T) {
	t.Parallel()
	a, b := newStore(t), newStore(t)
	must.NoError(t, a.Record(t.Context(), []ledger.Entry{usage("1", noon, nil), usage("2", noon, nil)}))
	must.NoError(t, b.Record(t.Context(), []ledger.Entry{usage("1", noon, func(e *ledger.Entry) { e.Cost = 1 })}))
	page, err := a.Since(t.Context(), Heads{}, 10)
	must.NoError(t, err)
	must.ErrorIs(t, b.Absorb(t.Context(), page), ErrConflict)
	state, err := b.State(t.Context())
	must.NoError(t, err)
	must.Eq(t, 2, state.Entries, must.Sprint("the other one was taken in"))
	must.Eq(t, 1, state.Conflicts)
}

func TestOldEntriesGoAndTheirSumsStay(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	old := noon.AddDate(0, -4, 0)
	receipt := ledger.ReceiptOf(ledger.Hold{ID: "h-1", Namespace: "default", JobID: "train"}, old.UnixMilli())
	var all []ledger.Entry
	for i := range 12_000 { // more than one piece
		all = append(all, usage(fmt.Sprint("old", i), old, nil))
	}
	for batch := range 12 {
		must.NoError(t, s.Record(t.Context(), all[batch*1000:(batch+1)*1000]))
	}
	young := usage("young", noon, func(e *ledger.Entry) { e.Alloc = "a-2" })
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{receipt, young}))
	q := report.Query{By: []report.Column{report.Month, report.Job}}
	before := statement(t, s, q)
	for range 2 {
		must.NoError(t, s.Prune(t.Context(), 60*24*time.Hour))
		state, err := s.State(t.Context())
		must.NoError(t, err)
		must.Eq(t, 1, state.Entries)
		must.Eq(t, before, statement(t, s, q))
		must.NoError(t, s.Rebuild(t.Context(), time.Time{}))
		must.Eq(t, before, statement(t, s, q), must.Sprint("what cannot be made anew stays"))
	}
	receipts, err := s.Receipts(t.Context(), "default", "train", 10)
	must.NoError(t, err)
	must.SliceEmpty(t, receipts)
	// Entries of before come from an agent that keeps them longer.
	other := newStore(t)
	must.NoError(t, other.Record(t.Context(), append(all[:10:10], usage("new", noon, nil))))
	page, err := other.Since(t.Context(), Heads{}, 100)
	must.NoError(t, err)
	must.NoError(t, s.Absorb(t.Context(), page))
	state, err := s.State(t.Context())
	must.NoError(t, err)
	must.Eq(t, 2, state.Entries)
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{usage("later", noon, func(e *ledger.Entry) { e.Alloc = "a-1" })}), must.Sprint("its words were removed"))
}

func TestABudgetThatMovedKeepsItsHistory(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{usage("1", noon, nil), usage("2", noon, func(e *ledger.Entry) { e.Budget = "acme/lab" })}))
	moved := func(path string) string {
		if path == "acme/research" {
			return "acme/lab"
		}
		return path
	}
	q := report.Query{From: noon.AddDate(0, -1, 0), To: noon.AddDate(0, 1, 0), By: []report.Column{report.Budget}, Budget: "acme/lab"}
	rows, err := s.Rows(t.Context(), q, moved)
	must.NoError(t, err)
	st := report.Make(q, "UTC", "USD", rows)
	must.Len(t, 1, st.Lines)
	must.Eq(t, 11_600_000, st.Lines[0].Cost)
	posted, err := s.Posted(t.Context(), time.Time{}, time.Time{}, moved)
	must.NoError(t, err)
	must.Eq(t, 11_600_000, posted["acme/lab"][budget.Cost])
}

func TestDecisionsAreBounded(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i := range 30 {
		must.NoError(t, s.Decided(t.Context(), []Decision{{AtMS: int64(i), JobID: "j", Namespace: "n"}, {AtMS: int64(i), JobID: "k", Namespace: "n"}}, 10))
	}
	all, err := s.Decisions(t.Context(), "", "", 100)
	must.NoError(t, err)
	must.Len(t, 10, all)
	must.Eq(t, 29, all[0].AtMS)
	some, err := s.Decisions(t.Context(), "n", "k", 2)
	must.NoError(t, err)
	must.Len(t, 2, some)
}
