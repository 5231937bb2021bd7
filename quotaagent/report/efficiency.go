package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Efficiency says what GPUs were paid for and did nothing, and what a unit of work cost.
type Efficiency struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Zone     string    `json:"zone"`
	Currency string    `json:"currency"`
	// By is what the lines are grouped by: budget, namespace, user or job.
	By    Column           `json:"by"`
	Lines []EfficiencyLine `json:"lines"`
	Total EfficiencyLine   `json:"total"`
	// Unallocated is capacity that nobody had, Ungoverned what was used around Governor.
	Unallocated Amounts  `json:"unallocated"`
	Ungoverned  Amounts  `json:"ungoverned"`
	Incomplete  []string `json:"incomplete"`
}

// EfficiencyLine is what one budget, namespace, user or job used, and what came of it.
// Used, Idle and Overdraft are of the time; all about jobs is of the holds that were closed
// in it, with all that they ever used.
type EfficiencyLine struct {
	Key string `json:"key"`
	// Used is what was paid for, of it Idle was had and not used, as far as it was
	// measured.
	Used Amounts `json:"used"`
	Idle Amounts `json:"idle"`
	// Tokens are the requests to language models in Used, with what they cost by
	// themselves.
	Tokens Amounts `json:"tokens"`
	Jobs   JobSums `json:"jobs"`
	// CostPerGPUHour is what an hour that was paid for cost, CostPerBusyGPUHour one that was
	// used, CostPerJob a job that ended, and CostPerGoodJob a batch job that ended well:
	// what all batch jobs cost, shared among those. CostPerMillionTokens is what a million
	// tokens cost, with the GPUs that made them: of a job those of the job, and of a budget
	// all that it paid. In micro-units; nil where there was none.
	CostPerGPUHour     *quantity.Amount `json:"cost_per_gpu_hour"`
	CostPerBusyGPUHour *quantity.Amount `json:"cost_per_busy_gpu_hour"`
	CostPerJob         *quantity.Amount `json:"cost_per_job"`
	CostPerGoodJob     *quantity.Amount `json:"cost_per_good_job"`

	CostPerMillionTokens *quantity.Amount `json:"cost_per_million_tokens"`
}

// JobSums are sums over jobs that ended.
type JobSums struct {
	// Ended are the jobs that ran and ended. Of them Good are batch jobs whose allocations
	// all ended well, if need be at a later try, and Bad those of which one failed, was lost,
	// or was ended by policy; of services nobody can say.
	Ended int `json:"ended"`
	Good  int `json:"good"`
	Bad   int `json:"bad"`
	// Starts are how many allocations began.
	Starts int             `json:"starts"`
	Cost   quantity.Amount `json:"cost"`
	// BatchCost is that of Good and Bad.
	BatchCost quantity.Amount `json:"batch_cost"`
	// Asked is the GPU time that they were admitted for, Used what they used, and Unused
	// what of the first was given back: time that nobody else could be promised meanwhile.
	Asked  quantity.Amount `json:"asked_gpu_ms"`
	Used   quantity.Amount `json:"used_gpu_ms"`
	Unused quantity.Amount `json:"unused_gpu_ms"`
	// Retried is the GPU time of allocations that another one replaced, Failed that of last
	// ones which failed or were lost.
	Retried quantity.Amount `json:"retried_gpu_ms"`
	Failed  quantity.Amount `json:"failed_gpu_ms"`
}

// EfficiencyColumns are what an efficiency report may be grouped by.
func EfficiencyColumns() []Column { return []Column{Budget, Namespace, User, Job} }

// ParseEfficiencyColumn reads the name of one of them.
func ParseEfficiencyColumn(text string) (Column, error) {
	if c := Column(text); slices.Contains(EfficiencyColumns(), c) {
		return c, nil
	}
	return "", fmt.Errorf("efficiency cannot be grouped by %.40q; it can by one of: %s", text, joinColumns(EfficiencyColumns()))
}

// EfficiencyKeys are the columns that the rows of MakeEfficiency are grouped by.
func EfficiencyKeys(by Column) []Column {
	if by == Job {
		return []Column{Namespace, Job}
	}
	return []Column{by}
}

// MakeEfficiency puts the sums of a time, by EfficiencyKeys, and the receipts of the holds
// that were closed in it together.
func MakeEfficiency(q Query, by Column, zone, currency string, rows []Row, receipts []ledger.Entry) Efficiency {
	e := Efficiency{From: q.From, To: q.To, Zone: zone, Currency: currency, By: by, Lines: []EfficiencyLine{}, Incomplete: []string{}}
	lines := make(map[string]*EfficiencyLine)
	at := func(key string) *EfficiencyLine {
		if lines[key] == nil {
			lines[key] = &EfficiencyLine{Key: key}
		}
		return lines[key]
	}
	for _, r := range rows {
		switch {
		case r.Kind == ledger.UnallocatedEntry:
			e.Unallocated = e.Unallocated.Add(r.Amounts)
		case r.Kind == ledger.UngovernedEntry:
			e.Ungoverned = e.Ungoverned.Add(r.Amounts)
		case ledger.PostedKind(r.Kind):
			line := at(strings.Join(r.Key, "/"))
			line.Used, e.Total.Used = line.Used.Add(r.Amounts), e.Total.Used.Add(r.Amounts)
			if r.Kind == ledger.TokensEntry || r.Kind == ledger.CorrectionEntry && r.Tokens() != 0 {
				line.Tokens, e.Total.Tokens = line.Tokens.Add(r.Amounts), e.Total.Tokens.Add(r.Amounts)
			}
		case r.Kind == ledger.IdleEntry:
			line := at(strings.Join(r.Key, "/"))
			line.Idle, e.Total.Idle = line.Idle.Add(r.Amounts), e.Total.Idle.Add(r.Amounts)
		}
	}
	for _, r := range receipts {
		if r.Receipt == nil || r.Receipt.Outcome != ledger.Settled || r.Receipt.Posted.Total() == 0 && r.Receipt.Posted.Cost == 0 {
			continue // it never ran
		}
		at(efficiencyKey(by, r)).Jobs.add(r.Receipt)
		e.Total.Jobs.add(r.Receipt)
	}
	for _, line := range lines {
		line.price()
		e.Lines = append(e.Lines, *line)
	}
	e.Total.price()
	slices.SortFunc(e.Lines, func(a, b EfficiencyLine) int {
		return cmp.Or(cmp.Compare(b.Used.Cost, a.Used.Cost), strings.Compare(a.Key, b.Key))
	})
	return e
}

func efficiencyKey(by Column, e ledger.Entry) string {
	switch by { //nolint:exhaustive // EfficiencyColumns are all that come here
	case Namespace:
		return e.Namespace
	case User:
		return e.Submitter
	case Job:
		return e.Namespace + "/" + e.JobID
	}
	return e.Budget
}

func (j *JobSums) add(r *ledger.Receipt) {
	asked, summed := r.Estimate.GPUTime[budget.AnyClass] // the sum of the others
	if !summed {
		asked = r.Estimate.Total()
	}
	used := r.Posted.Total()
	j.Ended++
	j.Starts += r.Starts
	if r.JobType == "batch" || r.JobType == "sysbatch" {
		j.BatchCost = j.BatchCost.Add(r.Posted.Cost)
		if r.FailedSlots > 0 || r.Stopped != "" {
			j.Bad++
		} else {
			j.Good++
		}
	}
	j.Cost, j.Asked, j.Used = j.Cost.Add(r.Posted.Cost), j.Asked.Add(asked), j.Used.Add(used)
	j.Unused = j.Unused.Add(max(0, asked.Sub(used)))
	j.Retried, j.Failed = j.Retried.Add(r.Retried), j.Failed.Add(r.Failed)
}

func (l *EfficiencyLine) price() {
	each := func(cost quantity.Amount, of, unit int64) *quantity.Amount {
		if of <= 0 || cost < 0 {
			return nil
		}
		price := quantity.MulDiv(cost, unit, of)
		return &price
	}
	hour := int64(quantity.GPUHour)
	gpus := l.Used.Cost.Sub(l.Tokens.Cost)
	l.CostPerGPUHour = each(gpus, int64(l.Used.GPUTime), hour)
	l.CostPerBusyGPUHour = each(gpus, int64(l.Used.GPUTime.Sub(l.Idle.GPUTime)), hour)
	l.CostPerMillionTokens = each(l.Used.Cost, int64(l.Tokens.Tokens()), 1_000_000)
	l.CostPerJob = each(l.Jobs.Cost, int64(l.Jobs.Ended), 1)
	l.CostPerGoodJob = each(l.Jobs.BatchCost, int64(l.Jobs.Good), 1)
}
