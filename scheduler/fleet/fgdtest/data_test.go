package fgdtest_test

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/nomad-governor/governor/scheduler/fleet"
	"github.com/nomad-governor/governor/scheduler/fleet/fgdtest"
	"github.com/shoenig/test/must"
)

// data is the folder with the traces. They are not part of this repository.
func data() string {
	if dir := os.Getenv("GOVERNOR_DATA"); dir != "" {
		return filepath.Join(dir, "openb")
	}
	return filepath.Join("..", "..", "..", "..", "shared", "data", "openb")
}

// seeds says how much to run: GOVERNOR_FGD=full is all workloads with all ten of
// the authors' seeds, a number that many of them, nothing a sample.
func seeds(t *testing.T) (count int, full bool) {
	t.Helper()
	switch text := os.Getenv("GOVERNOR_FGD"); text {
	case "":
		return 0, false
	case "full":
		return 10, true
	default:
		count, err := strconv.Atoi(text)
		must.NoError(t, err)
		must.Between(t, 1, count, 10)
		return count, count == 10
	}
}

// suite is the authors' evaluation, or the part of it that is run.
type suite struct {
	nodes     []fleet.Node
	workloads []string
	seeds     []int64
	// full says that this is all of it.
	full bool
	// authors have these allocations at the full load, on average over their seeds.
	authors map[fgdtest.Cell]float64
}

// open reads the data, or skips the test where there are none.
func open(t *testing.T) suite {
	t.Helper()
	if _, err := os.Stat(data()); err != nil {
		t.Skipf("the traces are not here (%s): GOVERNOR_DATA names the folder above openb", data())
	}
	s := suite{
		nodes:     read(t, "openb_node_list_gpu_node.csv", fgdtest.ReadNodes),
		workloads: []string{"default", "cpu250"}, seeds: []int64{42},
		authors: map[fgdtest.Cell]float64{},
	}
	if count, full := seeds(t); count > 0 {
		s.full = full
		s.workloads = fgdtest.Workloads()
		s.seeds = []int64{42, 43, 44, 45, 46, 47, 48, 49, 50, 51}[:count]
	}
	counts := map[fgdtest.Cell]float64{}
	for _, r := range read(t, "analysis_allo_discrete.csv", fgdtest.ReadResults) {
		counts[r.Cell]++
		s.authors[r.Cell] += (r.Allocation[fgdtest.LoadPercent] - s.authors[r.Cell]) / counts[r.Cell]
	}
	must.MapLen(t, 17*6, s.authors)
	return s
}

func trace(t *testing.T, workload string) []fgdtest.Pod {
	t.Helper()
	return read(t, "openb_pod_list_"+workload+".csv", fgdtest.ReadPods)
}

func read[T any](t *testing.T, name string, from func(io.Reader) ([]T, error)) []T {
	t.Helper()
	file, err := os.Open(filepath.Join(data(), name))
	must.NoError(t, err)
	defer file.Close()
	items, err := from(file)
	must.NoError(t, err)
	must.SliceNotEmpty(t, items)
	return items
}
