package burn

import (
	"slices"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

const (
	// fine is the pause between two samples, and fineFor how long all of them are kept.
	fine    = time.Minute
	fineFor = 70 * time.Minute
	// coarse is the pause between older ones.
	coarse = 5 * time.Minute
	// Longest is the longest time over which a rate is measured.
	Longest = 6 * time.Hour
	// keepFor is a little longer, so that there is a sample before its beginning.
	keepFor = Longest + 3*coarse
)

// Account is what is counted: a dimension of a budget.
type Account struct {
	Budget    string
	Dimension budget.Dimension
}

// Reading is what an account has posted in its present period.
type Reading struct {
	Account
	// Period names the present period, Posted is what is posted in it.
	Period string
	Posted quantity.Amount
	// Before is what is posted by now in a period that has ended.
	Before func(period string) quantity.Amount
}

// Meter remembers readings. It is not safe for concurrent use.
type Meter struct {
	accounts map[Account]*account
}

// account is a running sum, with samples of it in the order of time.
type account struct {
	period  string
	posted  quantity.Amount
	sum     quantity.Amount
	samples []sample
}

type sample struct {
	atMS int64
	sum  quantity.Amount
}

// New returns a meter that has seen nothing.
func New() *Meter { return &Meter{accounts: make(map[Account]*account)} }

// Known reports whether an account was read before.
func (m *Meter) Known(a Account) bool { return m.accounts[a] != nil }

// Take notes readings that were all made at one time. What is not among them is
// forgotten.
func (m *Meter) Take(at time.Time, readings []Reading) {
	seen := make(map[Account]bool, len(readings))
	for _, r := range readings {
		seen[r.Account] = true
		a := m.accounts[r.Account]
		if a == nil {
			a = &account{period: r.Period, posted: r.Posted}
			m.accounts[r.Account] = a
		}
		a.take(at.UnixMilli(), r)
	}
	for key := range m.accounts {
		if !seen[key] {
			delete(m.accounts, key)
		}
	}
}

func (a *account) take(atMS int64, r Reading) {
	if a.period != r.Period {
		a.sum = a.sum.Add(r.Before(a.period).Sub(a.posted)).Add(r.Posted)
	} else {
		a.sum = a.sum.Add(r.Posted.Sub(a.posted))
	}
	a.period, a.posted = r.Period, r.Posted
	n := len(a.samples)
	switch {
	case n > 0 && atMS <= a.samples[n-1].atMS: // the clock was set back
		a.samples[n-1].sum = a.sum
	case n > 1 && atMS-a.samples[n-2].atMS < fine.Milliseconds():
		a.samples[n-1] = sample{atMS, a.sum} // the last one moves along until a minute is over
	default:
		a.samples = append(a.samples, sample{atMS, a.sum})
	}
	a.thin(atMS)
}

// thin removes samples that are not needed any more.
func (a *account) thin(nowMS int64) {
	kept := a.samples[:0]
	for i, s := range a.samples {
		age := nowMS - s.atMS
		switch {
		case age > keepFor.Milliseconds():
			continue
		case i < len(a.samples)-1 && age > fineFor.Milliseconds() && len(kept) > 0 && s.atMS-kept[len(kept)-1].atMS < coarse.Milliseconds():
			continue
		}
		kept = append(kept, s)
	}
	a.samples = kept
}

// Past is what was posted to an account since a time, from another source.
type Past struct {
	At    time.Time
	Since quantity.Amount
}

// Seed puts what is known of the past before the first reading of an account, so that
// rates are known soon after a start.
func (m *Meter) Seed(of Account, past []Past) {
	a := m.accounts[of]
	if a == nil || len(a.samples) == 0 {
		return
	}
	first := a.samples[0]
	var before []sample
	for _, p := range past {
		if at := p.At.UnixMilli(); at < first.atMS {
			before = append(before, sample{at, first.sum.Sub(p.Since)})
		}
	}
	slices.SortFunc(before, func(x, y sample) int { return int(x.atMS - y.atMS) })
	a.samples = append(before, a.samples...)
}

// Used is how much was posted to an account in a time up to the last reading; false
// when that is not known, for it was not watched for so long.
func (m *Meter) Used(of Account, over time.Duration) (quantity.Amount, bool) {
	a := m.accounts[of]
	if a == nil || over <= 0 || len(a.samples) < 2 {
		return 0, false
	}
	last := a.samples[len(a.samples)-1]
	from := last.atMS - over.Milliseconds()
	if from < a.samples[0].atMS {
		return 0, false
	}
	i, _ := slices.BinarySearchFunc(a.samples, from, func(s sample, at int64) int { return int(s.atMS - at) })
	then := a.samples[i].sum
	if s := a.samples[i]; s.atMS > from { // between two samples the use is taken as even
		p := a.samples[i-1]
		then = p.sum.Add(quantity.MulDiv(s.sum.Sub(p.sum), from-p.atMS, s.atMS-p.atMS))
	}
	return max(0, last.sum.Sub(then)), true
}

// Rate is how fast a limit is used when so much is used in a time, as a multiple of
// the even rate: 1 uses it up just at the end of its period. It is false for a limit
// of nothing and for a period without an end.
func Rate(used quantity.Amount, over time.Duration, limit quantity.Amount, period budget.Period) (float64, bool) {
	length := period.End.Sub(period.Start)
	if limit <= 0 || over <= 0 || length <= 0 {
		return 0, false
	}
	return float64(used) / float64(limit) * (length.Seconds() / over.Seconds()), true
}
