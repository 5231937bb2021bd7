package report

import (
	"cmp"
	"maps"
	"slices"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Receipt is the account of one hold that was closed. For each amount
//
//	Held = Posted - Overdraft + Released
//
// where what was released was voided, or expired when nobody confirmed the
// submission.
type Receipt struct {
	HoldID    string   `json:"hold_id"`
	Namespace string   `json:"namespace"`
	JobID     string   `json:"job_id"`
	Budget    string   `json:"budget"`
	Run       string   `json:"run,omitempty"`
	Submitter string   `json:"submitter,omitempty"`
	Identity  []string `json:"identity,omitempty"`
	JobType   string   `json:"job_type,omitempty"`
	// Outcome is settled, voided or expired.
	Outcome string `json:"outcome"`
	// Reason is that of the decision that admitted the job, Stopped the one for which
	// policy ended it.
	Reason    string `json:"reason,omitempty"`
	Stopped   string `json:"stopped,omitempty"`
	CreatedMS int64  `json:"created_ms"`
	EndedMS   int64  `json:"ended_ms"`
	// Items are the accounts of money, energy and the GPU time of each class.
	Items []Item `json:"items"`
	// Prices say what was paid for which class under which rate card.
	Prices []Price `json:"prices"`
	// Starts is how many allocations there were, Retried the GPU time of those that another
	// one replaced, Failed that of last ones which failed or were lost.
	Starts  int             `json:"starts"`
	Retried quantity.Amount `json:"retried_gpu_ms"`
	Failed  quantity.Amount `json:"failed_gpu_ms"`
	// Idle is what was held and not used, as far as it was measured.
	Idle quantity.Amount `json:"idle_gpu_ms"`
	// Estimated is the GPU time that could not be observed.
	Estimated quantity.Amount `json:"estimated_gpu_ms"`
}

// Item is the account of one amount of a hold.
type Item struct {
	// Name is "cost", "energy_j" or "gpu_ms/<class>".
	Name string `json:"name"`
	// Held is the worst case as admitted, Posted what was used. Overdraft is what
	// was used beyond what was held.
	Held      quantity.Amount `json:"held"`
	Posted    quantity.Amount `json:"posted"`
	Voided    quantity.Amount `json:"voided"`
	Expired   quantity.Amount `json:"expired"`
	Overdraft quantity.Amount `json:"overdraft"`
	// Waste is the part of what was held that was not used: nobody else could be promised
	// it meanwhile. In millionths.
	Waste quantity.Ratio `json:"waste_millionths"`
}

// Price is what was posted for one class under one rate card.
type Price struct {
	Class    string          `json:"class"`
	RateCard string          `json:"rate_card,omitempty"`
	GPUTime  quantity.Amount `json:"gpu_ms"`
	Cost     quantity.Amount `json:"cost"`
}

// PerGPUHour is the average price in micro-units; false where no time was posted.
func (p Price) PerGPUHour() (quantity.Amount, bool) {
	if p.GPUTime <= 0 || p.Cost < 0 {
		return 0, false
	}
	return quantity.MulDiv(p.Cost, 3_600_000, int64(p.GPUTime)), true
}

// MakeReceipt puts the entries of one hold together. closing is the one of kind
// receipt; of the others only those of that hold count.
func MakeReceipt(closing ledger.Entry, entries []ledger.Entry) Receipt {
	r := Receipt{HoldID: closing.HoldID, Namespace: closing.Namespace, JobID: closing.JobID, Budget: closing.Budget, Run: closing.Run,
		Submitter: closing.Submitter, Items: []Item{}, Prices: []Price{}}
	from := ledger.Receipt{}
	if closing.Receipt != nil {
		from = *closing.Receipt
	}
	r.Identity, r.JobType, r.Outcome, r.Reason, r.Stopped = from.Identity, from.JobType, from.Outcome, from.Reason, from.Stopped
	r.Starts, r.Retried, r.Failed = from.Starts, from.Retried, from.Failed
	r.CreatedMS, r.EndedMS = from.CreatedMS, from.EndedMS
	classes := slices.Collect(maps.Keys(from.Estimate.GPUTime))
	classes = slices.AppendSeq(classes, maps.Keys(from.Posted.GPUTime))
	slices.Sort(classes)
	for _, class := range slices.Compact(classes) {
		if class == budget.AnyClass {
			continue // the sum of the others
		}
		r.Items = append(r.Items, itemOf("gpu_ms/"+class, from.Estimate.GPUTime[class], from.Posted.GPUTime[class], from.Outcome))
	}
	r.Items = append(r.Items, itemOf("energy_j", from.Estimate.Energy, from.Posted.Energy, from.Outcome),
		itemOf("cost", from.Estimate.Cost, from.Posted.Cost, from.Outcome))
	r.price(entries)
	return r
}

// itemOf closes one amount of a hold (I8).
func itemOf(name string, held, posted quantity.Amount, outcome string) Item {
	i := Item{Name: name, Held: held, Posted: posted}
	switch left := held.Sub(posted); {
	case left < 0:
		i.Overdraft = -left
	case outcome == ledger.Expired:
		i.Expired = left
	default:
		i.Voided = left
	}
	if held > 0 {
		i.Waste = quantity.Ratio(quantity.MulDiv(i.Voided.Add(i.Expired), int64(quantity.RatioOne), int64(held)))
	}
	return i
}

// Balanced reports whether the account of the item is closed: all that was held
// is posted, voided or expired.
func (i Item) Balanced() bool {
	return i.Held == i.Posted.Sub(i.Overdraft).Add(i.Voided).Add(i.Expired)
}

func (r *Receipt) price(entries []ledger.Entry) {
	type key struct{ class, card string }
	sums := make(map[key]Price)
	for _, e := range entries {
		switch {
		case e.HoldID != r.HoldID:
		case e.Kind == ledger.IdleEntry:
			r.Idle = r.Idle.Add(e.GPUTime)
		case ledger.PostedKind(e.Kind) && e.Class != "":
			k := key{e.Class, e.RateCard}
			p := sums[k]
			sums[k] = Price{Class: e.Class, RateCard: e.RateCard, GPUTime: p.GPUTime.Add(e.GPUTime), Cost: p.Cost.Add(e.Cost)}
			if e.Estimated {
				r.Estimated = r.Estimated.Add(e.GPUTime)
			}
		}
	}
	for _, p := range sums {
		r.Prices = append(r.Prices, p)
	}
	slices.SortFunc(r.Prices, func(a, b Price) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.RateCard, b.RateCard))
	})
}
