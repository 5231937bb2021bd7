package history

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/shoenig/test/must"
)

// entriesOfBench is how many entries the benchmarked history has. The default keeps
// `make bench` short; the figures in docs/agent.md are with
// GOVERNOR_BENCH_ENTRIES=10000000.
func entriesOfBench(t testing.TB) int {
	text := os.Getenv("GOVERNOR_BENCH_ENTRIES")
	if text == "" {
		return 500_000
	}
	n, err := strconv.Atoi(text)
	must.NoError(t, err)
	return n
}

// benchFrom is when the first job of the benchmarked history begins; it spans a
// quarter.
var benchFrom = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// perJob is how many entries a job has: two hours, posted once a minute.
const perJob = 120

// benchEntries are those of one job of a cluster with 40 budgets, 12 namespaces, 200
// people and 4 classes of GPUs.
func benchEntries(nr, of int) []ledger.Entry {
	begin := benchFrom.Add(time.Duration(int64(90*24*time.Hour) / int64(of) * int64(nr))).UnixMilli()
	out := make([]ledger.Entry, perJob)
	for i := range out {
		from := begin + int64(i)*60_000
		out[i] = ledger.Entry{Key: fmt.Sprintf("8a0f1c2e-7d5b-4c3a-9e1f-%012d/h100/%d", nr, from), Kind: ledger.UsageEntry, Budget: fmt.Sprintf("acme/dept-%d/team-%d", nr%8, nr%40),
			Namespace: fmt.Sprint("ns-", nr%12), JobID: fmt.Sprintf("train-%06d", nr), HoldID: fmt.Sprint("h-", nr), Alloc: fmt.Sprintf("8a0f1c2e-7d5b-4c3a-9e1f-%012d", nr),
			Node: fmt.Sprint("node-", nr%50), Submitter: fmt.Sprint("user-", nr%200), Class: fmt.Sprint("class-", nr%4), GPUs: []string{fmt.Sprint("GPU-", nr%400)},
			FromMS: from, ToMS: from + 60_000, GPUTime: 60_000, Cost: quantity.Amount(48_333 + i%2), Energy: 36_000, RateCard: "2026-q1"}
	}
	return out
}

func benchStore(b *testing.B, n int) *Store {
	s, err := Open(filepath.Join(b.TempDir(), "history.db"), func() time.Time { return noon })
	must.NoError(b, err)
	b.Cleanup(func() { must.NoError(b, s.Close()) })
	jobs := n / perJob
	for from := 0; from < jobs; from += 1000 {
		must.NoError(b, s.write(b.Context(), func(ctx context.Context, w *writer) error {
			for nr := from; nr < min(jobs, from+1000); nr++ {
				if err := w.fillJob(ctx, nr, benchEntries(nr, jobs)[0]); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	must.NoError(b, s.Rebuild(b.Context(), time.Time{}))
	return s
}

// fillJob writes the entries of one job that follow from its first, without their
// sums: ten times as fast as Record, which would take too long for a benchmark.
func (w *writer) fillJob(ctx context.Context, nr int, e ledger.Entry) error {
	log, err := w.log(ctx, w.name)
	if err != nil {
		return err
	}
	_, series, err := w.series(ctx, e)
	if err != nil {
		return err
	}
	detail, err := w.detail(ctx, e)
	if err != nil {
		return err
	}
	_, err = w.exec(ctx, `WITH RECURSIVE minute (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM minute WHERE i < ?8 - 1)
		INSERT INTO entry (log, nr, key, series, detail, from_ms, to_ms, gpu_ms, cost, energy)
		SELECT ?1, ?2 + i, ?3 || (?4 + i * 60000), ?5, ?6, ?4 + i * 60000, ?4 + (i + 1) * 60000, 60000, ?7 + i % 2, 36000 FROM minute`,
		log.id, nr*perJob+1, e.Alloc+"/h100/", e.FromMS, series, detail, int64(e.Cost), perJob)
	log.head, log.moved = int64(nr+1)*perJob, true
	return err
}

// BenchmarkReport is a statement of a quarter from the sums.
func BenchmarkReport(b *testing.B) {
	n := entriesOfBench(b)
	begin := time.Now()
	s := benchStore(b, n)
	b.Logf("%d entries of %d jobs in %v", n, n/perJob, time.Since(begin).Round(time.Second))
	if info, err := os.Stat(s.path); err == nil {
		b.Logf("%d bytes for each entry", info.Size()/int64(n))
	}
	from, to := benchFrom, benchFrom.AddDate(0, 3, 0)
	for name, q := range map[string]report.Query{
		"quarter/budget":           {From: from, To: to, By: []report.Column{report.Budget}},
		"quarter/budget,day":       {From: from, To: to, By: []report.Column{report.Budget, report.Day}},
		"quarter/namespace,class":  {From: from, To: to, By: []report.Column{report.Namespace, report.Class}},
		"quarter/user":             {From: from, To: to, By: []report.Column{report.User}},
		"quarter/job":              {From: from, To: to, By: []report.Column{report.Job}},
		"month/job":                {From: from, To: from.AddDate(0, 1, 0), By: []report.Column{report.Job}},
		"45 days and a half/class": {From: from.Add(12 * time.Hour), To: from.AddDate(0, 0, 46), By: []report.Column{report.Class}},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				rows, err := s.Rows(b.Context(), q, here)
				must.NoError(b, err)
				st := report.Make(q, "UTC", "USD", rows)
				must.Positive(b, st.Total.GPUTime)
			}
		})
	}
}

// BenchmarkRecord is durable inserts: one operation is the entries of one commit of
// the meter, for allocations that run on.
func BenchmarkRecord(b *testing.B) {
	for _, size := range []int{1, 60, 600} {
		b.Run(fmt.Sprint(size, " entries"), func(b *testing.B) {
			s, err := Open(filepath.Join(b.TempDir(), "history.db"), func() time.Time { return noon })
			must.NoError(b, err)
			defer func() { must.NoError(b, s.Close()) }()
			batch := make([]ledger.Entry, size)
			for i := range batch {
				batch[i] = benchEntries(i, 10_000)[0]
			}
			for b.Loop() {
				for i := range batch {
					e := &batch[i]
					e.FromMS, e.ToMS = e.ToMS, e.ToMS+60_000
					e.Key = e.Alloc + "/h100/" + strconv.FormatInt(e.FromMS, 10)
				}
				must.NoError(b, s.Record(b.Context(), batch))
			}
			b.ReportMetric(float64(size)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkRebuild makes all sums anew.
func BenchmarkRebuild(b *testing.B) {
	s := benchStore(b, min(100_000, entriesOfBench(b)))
	for b.Loop() {
		must.NoError(b, s.Rebuild(b.Context(), time.Time{}))
	}
}
