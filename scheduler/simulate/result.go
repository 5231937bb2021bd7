package simulate

import "github.com/nomad-governor/governor/internal/quantity"

// Million is what shares are told in: parts per million.
const Million = 1_000_000

// Result is what became of the jobs. Times are milliseconds, GPU time is
// GPU-milliseconds, shares are in parts per million.
type Result struct {
	Name   string `json:"name"`
	Policy string `json:"policy"`
	Nodes  int    `json:"nodes"`
	GPUs   int    `json:"gpus"`
	// Jobs that ran, and those that no idle cluster of this kind could run.
	Jobs     int      `json:"jobs"`
	NeverFit NeverFit `json:"never_fit"`
	// BeginMS is the first submission, MakespanMS from there to the last end.
	BeginMS    int64 `json:"begin_ms"`
	MakespanMS int64 `json:"makespan_ms"`
	Wait       Waits `json:"wait"`
	// BusyMS is the GPU time that jobs had, Utilisation its share of all, and Arriving that
	// until the last submission: behind it only what is left runs.
	BusyMS      quantity.Amount `json:"busy_gpu_ms"`
	Utilisation int64           `json:"utilisation_ppm"`
	Arriving    int64           `json:"utilisation_arriving_ppm"`
	// IdleMS is the GPU time that nobody had while a job waited for GPUs, and Fragmented
	// its share of all GPU time of those times. What waits for a limit does not count.
	IdleMS     quantity.Amount `json:"idle_gpu_ms"`
	Fragmented int64           `json:"idle_while_waiting_ppm"`
	// Several are the jobs with two or more GPUs on a node whose links are known, AtIdeal
	// the share of them that got the best ring that there is for their size, and Ring the
	// mean of their rings against that, weighed by GPU time.
	Several int   `json:"multi_gpu_jobs"`
	AtIdeal int64 `json:"at_ideal_ppm"`
	Ring    int64 `json:"ring_ppm"`
	// WaitingMax is how many jobs waited at most at once.
	WaitingMax int         `json:"waiting_max"`
	Budgets    []BudgetUse `json:"budgets"`
	// Series is utilisation and queue over time, in equal steps.
	Series []Step `json:"series"`
}

// NeverFit are jobs that could never run.
type NeverFit struct {
	Jobs int `json:"jobs"`
	// FirstLine and GPUs are of the first of them.
	FirstLine int `json:"first_line,omitempty"`
	GPUs      int `json:"first_gpus,omitempty"`
}

func (n *NeverFit) add(j *Job) {
	if n.Jobs++; n.Jobs == 1 {
		n.FirstLine, n.GPUs = j.Line, j.GPUs
	}
}

// Waits is how long jobs waited, in milliseconds; percentiles are nearest ranks.
type Waits struct {
	Mean int64 `json:"mean_ms"`
	P50  int64 `json:"p50_ms"`
	P95  int64 `json:"p95_ms"`
	P99  int64 `json:"p99_ms"`
	Max  int64 `json:"max_ms"`
}

// BudgetUse is what the jobs of a budget had.
type BudgetUse struct {
	Budget string          `json:"budget"`
	Jobs   int             `json:"jobs"`
	BusyMS quantity.Amount `json:"busy_gpu_ms"`
	WaitMS int64           `json:"mean_wait_ms"`
}

// Step is the mean of one stretch of time.
type Step struct {
	// FromMS is since the beginning.
	FromMS int64 `json:"from_ms"`
	// Busy is the share of the GPUs, Waiting the number of jobs that wait, in thousandths.
	Busy    int64 `json:"busy_ppm"`
	Waiting int64 `json:"waiting_milli"`
}
