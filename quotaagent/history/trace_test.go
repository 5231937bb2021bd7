package history

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

func TestWhatEachAllocationHad(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	at := func(hours int) time.Time { return noon.Add(time.Duration(hours) * time.Hour) }
	closed := ledger.ReceiptOf(ledger.Hold{ID: "h-1", Namespace: "default", JobID: "train", Budget: "acme/research", State: ledger.Active, CreatedMS: at(-1).UnixMilli()}, at(5).UnixMilli())
	other := func(e *ledger.Entry) { e.HoldID, e.Alloc, e.JobID, e.Budget = "h-2", "a-2", "serve", "acme/serving" }
	must.NoError(t, s.Record(t.Context(), []ledger.Entry{
		usage("1", at(0), nil), usage("2", at(1), nil), usage("3", at(2), other),
		usage("4", at(1), func(e *ledger.Entry) { e.Class, e.GPUTime = "l40s", quantity.Amount(hourMS) }),
		usage("5", at(1), func(e *ledger.Entry) { e.Kind = ledger.IdleEntry }),
		usage("6", at(-9), nil), usage("7", at(9), nil), closed,
	}))
	moved := func(path string) string { return strings.Replace(path, "acme/serving", "acme/online", 1) }
	ran := func(budget string) []report.Ran {
		t.Helper()
		out, err := s.Ran(t.Context(), at(0), at(5), budget, moved)
		must.NoError(t, err)
		slices.SortFunc(out, func(a, b report.Ran) int {
			return cmp.Or(strings.Compare(a.Alloc, b.Alloc), strings.Compare(a.Class, b.Class))
		})
		return out
	}
	first := report.Ran{Hold: "h-1", Alloc: "a-1", Namespace: "default", Job: "train", Budget: "acme/research", Class: "h100", CreatedMS: at(-1).UnixMilli(),
		BeginMS: at(0).UnixMilli(), EndMS: at(2).UnixMilli(), GPUTime: quantity.Amount(4 * hourMS)}
	second := first
	second.Class, second.BeginMS, second.GPUTime = "l40s", at(1).UnixMilli(), quantity.Amount(hourMS)
	third := report.Ran{Hold: "h-2", Alloc: "a-2", Namespace: "default", Job: "serve", Budget: "acme/online", Class: "h100",
		BeginMS: at(2).UnixMilli(), EndMS: at(3).UnixMilli(), GPUTime: quantity.Amount(2 * hourMS)}
	must.Eq(t, []report.Ran{first, second, third}, ran(""))
	must.Eq(t, []report.Ran{third}, ran("acme/online"))
	must.Eq(t, []report.Ran{first, second, third}, ran("acme"))
	must.SliceEmpty(t, ran("acme/serving"), must.Sprint("it has moved"))
}
