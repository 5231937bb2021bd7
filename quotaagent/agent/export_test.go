package agent

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/report/focus/focustest"
	"github.com/nomad-governor/governor/quotaagent/report/showback"
)

// exported is an export with the sums of its columns, checked against the specification.
func exported(t must.T, x *export) (text string, sum func(column string) int64) {
	var out bytes.Buffer
	must.NoError(t, x.write(context.Background(), &out))
	found, err := focustest.Check(bytes.NewReader(out.Bytes()))
	must.NoError(t, err)
	must.SliceEmpty(t, found)
	records, err := csv.NewReader(bytes.NewReader(out.Bytes())).ReadAll()
	must.NoError(t, err)
	return out.String(), func(column string) int64 {
		at, total := slices.Index(records[0], column), int64(0)
		for _, r := range records[1:] {
			n, err := strconv.ParseInt(strings.Replace(r[at], ".", "", 1), 10, 64)
			must.NoError(t, err)
			total += n
		}
		return total
	}
}

// TestAnExportIsTheReport: whatever was posted, of whatever length and day, on a card with
// energy or without, corrected by the meter or by people, the export has it once, and its
// sums are those of the usage report, to the micro-unit.
func TestAnExportIsTheReport(t *testing.T) {
	t.Parallel()
	p, diags := budgetspec.Parse(files(strings.Replace(testPolicy(8, "1000"), `gpu "v100" { per_hour = 3.6 }`,
		"gpu \"v100\" { per_hour = 3.6 }\n  energy {\n    per_kwh = 0.21\n    pue     = 1.3\n  }", 1)))
	must.False(t, diags.HasErrors(), must.Sprint(diags))
	past, err := history.Open(filepath.Join(t.TempDir(), "history.db"), func() time.Time { return noon })
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, past.Close()) })
	berlin, err := time.LoadLocation("Europe/Berlin")
	must.NoError(t, err)
	must.NoError(t, past.SetLocation(t.Context(), berlin)) // its clocks change
	nr := 0
	rapid.Check(t, func(t *rapid.T) {
		nr++
		month := time.Date(2026, time.Month(nr), 1, 0, 0, 0, 0, berlin) // one for each try
		var entries []ledger.Entry
		for i := range rapid.IntRange(1, 12).Draw(t, "entries") {
			entries = append(entries, exportable(t, fmt.Sprint("k", nr, "/", i), month))
		}
		must.NoError(t, past.Record(context.Background(), entries))
		idle := rapid.Bool().Draw(t, "idle")
		q := report.Query{From: month, To: month.AddDate(0, 1, 0), By: showback.Columns()}
		x := &export{store: past, policy: p, now: month.AddDate(0, 2, 0), idle: idle, query: q}
		q.By = []report.Column{report.Budget}
		rows, err := past.Rows(context.Background(), q, p.Moved)
		must.NoError(t, err)
		s := report.Make(q, "Europe/Berlin", "USD", rows)
		want := s.Total.Amounts
		if idle {
			want = want.Add(s.Unallocated).Add(s.Ungoverned)
		}
		_, sum := exported(t, x)
		must.Eq(t, int64(want.Cost), sum("BilledCost"))
		must.Eq(t, int64(want.GPUTime), sum("x_GpuMilliseconds"))
		must.Eq(t, int64(want.Energy), sum("x_EnergyJoules"))
	})
}

// exportable is an entry of a month, as the meter or a person writes them.
func exportable(t *rapid.T, key string, month time.Time) ledger.Entry {
	pick := func(name string, from ...string) string { return rapid.SampledFrom(from).Draw(t, name) }
	begin := month.UnixMilli() + rapid.Int64Range(0, 28*24*3_600_000-1).Draw(t, "from")
	e := ledger.Entry{Key: key, Kind: pick("kind", ledger.UsageEntry, ledger.CorrectionEntry, ledger.UnallocatedEntry, ledger.UngovernedEntry, ledger.IdleEntry, "by hand"),
		Budget: pick("budget", "acme/research", "acme/side"), Namespace: "default", JobID: pick("job", "j1", "j2"), HoldID: "h", Submitter: pick("user", "u1", "u2"), Class: "v100",
		FromMS: begin, ToMS: begin + rapid.SampledFrom([]int64{0, 30_000, 40 * 3_600_000}).Draw(t, "length"), RateCard: pick("card", "r", "old"), Estimated: rapid.Bool().Draw(t, "estimated")}
	amount := func(name string, most int64) quantity.Amount {
		a := rapid.Int64Range(0, most).Draw(t, name)
		if e.Kind == ledger.CorrectionEntry || e.Kind == "by hand" {
			a = -a
		}
		return quantity.Amount(a)
	}
	e.GPUTime, e.Cost, e.Energy = amount("gpu", 100_000_000), amount("cost", 200_000_000), amount("energy", 90_000_000)
	switch {
	case e.Kind == "by hand":
		e.Kind, e.Submitter, e.Author, e.Cause, e.ToMS = ledger.CorrectionEntry, "", "boss", "it was broken", e.FromMS
		e.WrittenMS = e.FromMS + rapid.Int64Range(0, 40*24*3_600_000).Draw(t, "later")
	case !ledger.PostedKind(e.Kind) && e.Kind != ledger.IdleEntry:
		e.Budget, e.Submitter = "", ""
	}
	return e
}

func TestACorrectionOfAMonthThatWasOverIsMarked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	past := r.keepHistory(t)
	at := func(day int) ledger.Entry {
		e := ledger.Entry{Key: fmt.Sprint("correction/", day), Kind: ledger.CorrectionEntry, Budget: "acme/research", Author: "boss", Cause: "why", Cost: -1_000_000,
			FromMS: noon.AddDate(0, 0, day).UnixMilli(), WrittenMS: noon.UnixMilli()}
		e.ToMS = e.FromMS
		return e
	}
	must.NoError(t, past.Record(r.ctx, []ledger.Entry{at(-1), at(-20)})) // of the 9th of March, and of February
	x := &export{store: past, policy: r.Keeper.State().Policy, now: noon, query: report.Query{From: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC), By: showback.Columns()}}
	text, sum := exported(t, x)
	must.Eq(t, -2_000_000, sum("BilledCost"))
	must.Eq(t, 1, strings.Count(text, "Adjustment,Correction,Correction by hand: why,2026-02-19T00:00:00Z"))
	must.Eq(t, 1, strings.Count(text, "Adjustment,,Correction by hand: why,2026-03-10T00:00:00Z"))
}
