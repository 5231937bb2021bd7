package simulate_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/scheduler/simulate"
)

// philly is Microsoft's trace, where it is.
func philly(t testing.TB) simulate.Trace {
	t.Helper()
	folder := os.Getenv("GOVERNOR_DATA")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "data")
	}
	content, err := os.ReadFile(filepath.Join(folder, "philly", "sia_philly.csv"))
	if err != nil {
		t.Skipf("the Philly trace is not here (GOVERNOR_DATA names the folder of the data): %v", err)
	}
	trace, err := simulate.ParseTrace("sia_philly.csv", content)
	must.NoError(t, err)
	return trace
}

// The trace that the index is measured with gives here what it gives there
// (docs/performance.md): the share of jobs at the best ring, and the mean wait.
func TestPhilly(t *testing.T) {
	t.Parallel()
	jobs := philly(t).Jobs[20_000:50_000]
	var c simulate.Cluster
	must.NoError(t, c.Grow("68xdgx-1v"))
	results := map[string]simulate.Result{}
	for _, policy := range simulate.Policies() {
		r, err := simulate.Run(c, jobs, simulate.Options{Policy: policy})
		must.NoError(t, err)
		t.Logf("%-10s at the best %4.1f %%, ring %.3f, mean wait %5d s, p99 %6d s, used %.1f %%, idle while waiting %.1f %%", policy, float64(r.AtIdeal)/10_000,
			float64(r.Ring)/1e6, r.Wait.Mean/1000, r.Wait.P99/1000, float64(r.Utilisation)/10_000, float64(r.Fragmented)/10_000)
		results[policy] = r
		must.Eq(t, len(jobs), r.Jobs)
	}
	must.Between(t, 740_000, results[simulate.Governor].AtIdeal, 840_000)
	must.Between(t, 280_000, results[simulate.Nomad].AtIdeal, 380_000)
	must.Greater(t, results[simulate.BestFit].AtIdeal+80_000, results[simulate.BestSet].AtIdeal)
	must.Between(t, 3_500_000, results[simulate.Governor].Wait.Mean, 4_700_000)
}
