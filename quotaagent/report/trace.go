package report

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
)

// Ran is what one allocation had of one GPU class. Times are Unix milliseconds.
type Ran struct {
	Hold, Alloc    string
	Namespace, Job string
	Budget, Class  string
	// CreatedMS is when the hold was made; 0 where it has not ended.
	CreatedMS      int64
	BeginMS, EndMS int64
	GPUTime        quantity.Amount
}

// submitted is when each allocation was asked for: those that began before any other of
// their hold had ended with the job, the others, which took the place of one, when they
// began.
func submitted(runs []Ran) []int64 {
	first := make(map[string]int64)
	for _, r := range runs {
		if end, seen := first[r.Hold]; !seen || r.EndMS < end {
			first[r.Hold] = r.EndMS
		}
	}
	out := make([]int64, len(runs))
	for i, r := range runs {
		out[i] = r.BeginMS
		if r.CreatedMS != 0 && r.CreatedMS < r.BeginMS && r.BeginMS < first[r.Hold] {
			out[i] = r.CreatedMS
		}
	}
	return out
}

// WriteTrace writes what ran as a trace for governor simulate, a line for each
// allocation. device names the GPUs of a class; "" where they can be several.
func WriteTrace(w io.Writer, runs []Ran, device func(class string) string) error {
	at := submitted(runs)
	order := make([]int, 0, len(runs))
	for i := range runs {
		if runs[i].EndMS > runs[i].BeginMS && runs[i].GPUTime > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := &runs[i], &runs[j]
		return cmp.Or(cmp.Compare(at[i], at[j]), cmp.Compare(a.BeginMS, b.BeginMS), strings.Compare(a.Alloc, b.Alloc), strings.Compare(a.Class, b.Class))
	})
	out := csv.NewWriter(w)
	if err := out.Write([]string{"submit_time", "duration", "gpus", "gpu_milli", "class", "budget", "job"}); err != nil {
		return fmt.Errorf("write the trace: %w", err)
	}
	for _, i := range order {
		r := &runs[i]
		ms := r.EndMS - r.BeginMS
		gpus, milli := (int64(r.GPUTime)+ms/2)/ms, int64(1000)
		if gpus == 0 {
			gpus, milli = 1, max(1, int64(r.GPUTime.Mul(1000))/ms)
		}
		err := out.Write([]string{time.UnixMilli(at[i]).UTC().Format("2006-01-02T15:04:05.000Z"), strconv.FormatFloat(float64(ms)/1000, 'f', -1, 64),
			strconv.FormatInt(gpus, 10), strconv.FormatInt(milli, 10), device(r.Class), r.Budget, r.Namespace + "/" + r.Job})
		if err != nil {
			return fmt.Errorf("write the trace: %w", err)
		}
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return fmt.Errorf("write the trace: %w", err)
	}
	return nil
}
