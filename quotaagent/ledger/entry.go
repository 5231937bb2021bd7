package ledger

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// The kinds of entries. Usage, tokens and corrections are what the balances have
// posted: replayed they give the balances. Of these, overdraft and idle say a
// part once more, for reports: what was used beyond what was held, and what was
// held and not used. Unallocated and ungoverned are no budget's: capacity that
// nobody held, and GPUs that were used around Governor. A grant raises limits,
// and a receipt closes a hold; neither has amounts.
const (
	UsageEntry       = "usage"
	TokensEntry      = "tokens"
	CorrectionEntry  = "correction"
	OverdraftEntry   = "overdraft"
	IdleEntry        = "idle"
	UnallocatedEntry = "unallocated"
	UngovernedEntry  = "ungoverned"
	GrantEntry       = "grant"
	ReceiptEntry     = "receipt"
)

// EntryKinds are all kinds, in the order of reports.
func EntryKinds() []string {
	return []string{UsageEntry, TokensEntry, CorrectionEntry, OverdraftEntry, IdleEntry, UnallocatedEntry, UngovernedEntry, GrantEntry, ReceiptEntry}
}

// PostedKind reports whether the amounts of such entries are in the posted
// amounts of their budget and its ancestors.
func PostedKind(kind string) bool {
	return kind == UsageEntry || kind == TokensEntry || kind == CorrectionEntry
}

// The ways in which a hold ends.
const (
	// Settled: the job is over, and all that it used is posted.
	Settled = "settled"
	// Voided: Nomad refused the job.
	Voided = "voided"
	// Expired: nobody confirmed the submission in time.
	Expired = "expired"
)

// Receipt is the account of a hold that ended, in an entry of kind receipt.
type Receipt struct {
	// Outcome is settled, voided or expired.
	Outcome   string `json:"outcome"`
	CreatedMS int64  `json:"created_ms"`
	EndedMS   int64  `json:"ended_ms"`
	// Estimate is the worst case as admitted, Posted what was used.
	Estimate Usage `json:"estimate"`
	Posted   Usage `json:"posted"`
	// Identity are the names of who submitted, JobType Nomad's type of the job.
	Identity []string `json:"identity,omitempty"`
	JobType  string   `json:"job_type,omitempty"`
	// Reason is that of the decision which admitted the job last.
	Reason string `json:"reason,omitempty"`
	// Stopped is the reason for which policy ended the job; "" if it did not.
	Stopped string `json:"stopped,omitempty"`
	// Starts is how many allocations it had, FailedSlots how many of its places ended with
	// one that failed or was lost.
	Starts      int `json:"starts,omitempty"`
	FailedSlots int `json:"failed_slots,omitempty"`
	// Retried is the GPU time of allocations that another one replaced, Failed that of the
	// last ones of FailedSlots, in GPU-milliseconds.
	Retried quantity.Amount `json:"retried_gpu_ms,omitempty"`
	Failed  quantity.Amount `json:"failed_gpu_ms,omitempty"`
}

// tries sums up what allocations did that ended in vain. Of a job that was changed it is
// what happened since.
func (r *Receipt) tries(h Hold) {
	r.Starts = len(h.Finished)
	for _, name := range slices.Sorted(maps.Keys(h.Slots)) {
		slot := h.Slots[name]
		for _, line := range h.Lines {
			if line.EveryNode || line.Lease || !strings.HasPrefix(name, h.JobID+"."+line.Group+"[") {
				continue // the allocations of a system job all have one name; a service only ends
			}
			gpus := int64(0)
			for _, n := range line.Needs {
				gpus += n.GPUs
			}
			r.Retried = r.Retried.Add(quantity.Amount(slot.UsedMS - slot.LastMS).Mul(gpus))
			if !slot.Done {
				r.FailedSlots++
				r.Failed = r.Failed.Add(quantity.Amount(slot.LastMS).Mul(gpus))
			}
		}
	}
}

// ReceiptOf is the entry that closes a hold. The hold is as it ended, with
// everything posted.
func ReceiptOf(h Hold, endedMS int64) Entry {
	r := Receipt{Outcome: Settled, CreatedMS: h.CreatedMS, EndedMS: endedMS, Estimate: h.Estimate, Posted: h.Posted,
		Identity: h.Identity, JobType: h.Facts.Type, Reason: h.Reason}
	if h.State == Held {
		r.Outcome = Voided
		if h.ExpiresMS != 0 && h.ExpiresMS <= endedMS {
			r.Outcome = Expired
		}
	}
	if h.Ending != nil {
		r.Stopped = h.Ending.Cause
	}
	r.tries(h)
	return Entry{Key: "receipt/" + h.ID, Kind: ReceiptEntry, Budget: h.Budget, Namespace: h.Namespace, JobID: h.JobID, HoldID: h.ID,
		Run: h.Run, Submitter: h.Accessor, FromMS: endedMS, ToMS: endedMS, Receipt: &r}
}

// PostedVector is what the entry adds to the posted amounts of its budget's
// balance, in every period of the windows that [FromMS, ToMS) overlaps. All
// windows get the same hours, so that a month is always the sum of its days.
func (e Entry) PostedVector(loc *time.Location, windows []budget.Window) Vector {
	v := NewVector()
	if !PostedKind(e.Kind) {
		return v
	}
	for _, part := range e.Hours(loc) {
		for _, w := range windows {
			part.addTo(v, budget.PeriodAt(w, part.Hour.Start, loc).Key())
		}
	}
	return v
}

func (p Part) addTo(v Vector, period string) {
	for class, a := range p.Shares {
		v.Add(period, budget.GPUTime(class), a)
	}
	v.Add(period, budget.Cost, p.Cost)
	v.Add(period, budget.Energy, p.Energy)
	for _, kind := range budget.TokenKinds() {
		v.Add(period, budget.Tokens(kind), p.Tokens[kind])
	}
}

// Validate says what is wrong with an entry that cannot be kept.
func (e Entry) Validate() error {
	switch {
	case e.Key == "":
		return fmt.Errorf("entry of kind %q for job %q has no key", e.Kind, e.JobID)
	case !knownKind(e.Kind):
		return fmt.Errorf("entry %q has kind %q; there are %s", e.Key, e.Kind, strings.Join(EntryKinds(), ", "))
	case e.FromMS < 0 || e.ToMS < e.FromMS:
		return fmt.Errorf("entry %q is from %d to %d; it must end no earlier than it begins, after 1970", e.Key, e.FromMS, e.ToMS)
	case e.ToMS-e.FromMS > longestEntryMS || e.ToMS > latestEntryMS:
		return fmt.Errorf("entry %q lasts from %d to %d; it may last ten years at most", e.Key, e.FromMS, e.ToMS)
	}
	amounts := []quantity.Amount{e.GPUTime, e.Cost, e.Energy}
	for _, class := range slices.Sorted(maps.Keys(e.Shares)) {
		amounts = append(amounts, e.Shares[class])
	}
	for _, kind := range budget.TokenKinds() {
		amounts = append(amounts, e.Tokens[kind])
	}
	for _, a := range amounts {
		if a > largestAmount || a < -largestAmount {
			return fmt.Errorf("entry %q has an amount of %d; at most %d is possible, so that sums stay exact", e.Key, int64(a), int64(largestAmount))
		}
	}
	return nil
}

const (
	longestEntryMS = int64(10 * 366 * 24 * 3_600_000)
	// latestEntryMS is the beginning of the year 2500.
	latestEntryMS = int64(16_725_225_600_000)
	// largestAmount is a billion currency units, or 270 million GPU-hours: sums of
	// thousands of these fit.
	largestAmount quantity.Amount = 1_000_000_000_000_000
)

func knownKind(kind string) bool {
	for _, k := range EntryKinds() {
		if k == kind {
			return true
		}
	}
	return false
}
