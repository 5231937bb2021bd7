package forecast

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
)

// The horizons at which past forecasts are compared with what came, in hours, and how
// many comparisons it takes at least.
var horizons = []int{24, 48, 96, 168, 336}

const (
	originsMin = 5
	// pastMin is how many hours are known before the first forecast that is compared.
	pastMin = 7 * 24
	// guess is how much more than the median is taken for P90 while too few forecasts can
	// be compared: half as much again.
	guess = quantity.RatioOne * 3 / 2
	// weekHours is how long the longer season is.
	weekHours = 7 * 24
	// hoursMax bounds how far ahead is looked.
	hoursMax = 400 * 24
)

// What is kept of an average from hour to hour, in millionths: with half-lives of a day
// and of a week.
const (
	keepDay  = 971_532
	keepWeek = 995_883
)

// Scheduled is what running work may use until it ends at the latest, at an even rate.
type Scheduled struct {
	Amount quantity.Amount
	Until  time.Time
}

// Account is one limit in one period, with what was used of it lately.
type Account struct {
	// Now lies in the period, End is its end; zero for a limit without one.
	Now, End    time.Time
	Limit, Used quantity.Amount
	// First is the beginning of the first of the Hours, which follow one another and end no
	// later than Now: what was used in each.
	First     time.Time
	Hours     []quantity.Amount
	Scheduled []Scheduled
}

// Exhaustion is when a limit is reached. P50 is the median: it is as likely to come
// earlier as later. P90 is the cautious date: in nine of ten cases it comes later.
type Exhaustion struct {
	// P50 and P90 are nil where the limit lasts to the end of its period, or, without an
	// end, for more than a year.
	P50 *time.Time `json:"p50"`
	P90 *time.Time `json:"p90"`
	// AtEnd50 and AtEnd90 are what is used at the end of the period; nil without an end.
	AtEnd50 *quantity.Amount `json:"at_end_p50"`
	AtEnd90 *quantity.Amount `json:"at_end_p90"`
	// Hours of use that it is made of, and of how many past forecasts the P90 comes; with
	// too few it is a guess.
	Hours   int `json:"hours"`
	Origins int `json:"origins"`
}

// Cause is a job that has much part in what is expected.
type Cause struct {
	Namespace string `json:"namespace"`
	JobID     string `json:"job_id"`
	// Amount is what it used in the last seven days, and may still use.
	Amount quantity.Amount `json:"amount"`
	// Share is its part of what all jobs together did, in millionths.
	Share quantity.Ratio `json:"share_millionths"`
}

// causesMax is how many causes are named.
const causesMax = 3

// Outlook is the forecast of one limit with its causes.
type Outlook struct {
	Exhaustion
	// Causes are the jobs that used and hold most, at most three.
	Causes []Cause `json:"causes"`
}

// TopCauses are those of some jobs that count most, the largest first.
func TopCauses(jobs []Cause) []Cause {
	all := slices.DeleteFunc(slices.Clone(jobs), func(c Cause) bool { return c.Amount <= 0 })
	total := quantity.Amount(0)
	for _, c := range all {
		total = total.Add(c.Amount)
	}
	slices.SortFunc(all, func(a, b Cause) int {
		return cmp.Or(cmp.Compare(b.Amount, a.Amount), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.JobID, b.JobID))
	})
	out := append([]Cause{}, all[:min(causesMax, len(all))]...)
	for i := range out {
		out[i].Share = quantity.Ratio(quantity.MulDiv(out[i].Amount, int64(quantity.RatioOne), int64(total)))
	}
	return out
}

// Exhaust forecasts one limit. What comes in an hour is expected to be a mean of three:
// what was used lately (an exponential average with a half-life of a day, which counts
// half at first and less from day to day), what was used in the last weeks (half-life a
// week), and what was used at this hour of the week before (of the day, while there are
// less than two weeks). It is never less than what running work uses: for half of the
// time that it may still take (P50), and for all of it (P90). All weights are positive
// and constant, so that more use never makes it later. How much more P90 is than P50
// comes from the forecasts that would have been made before.
func Exhaust(a Account) Exhaustion {
	out := Exhaustion{Hours: len(a.Hours)}
	ahead := hoursMax
	if !a.End.IsZero() {
		ahead = int(min(hoursMax, (a.End.Sub(a.Now)+time.Hour-1)/time.Hour))
	}
	m := newModel(a.Hours, slotsOf(a.First, len(a.Hours)+ahead))
	begun := a.begun()
	floor := a.floor(begun)
	more := a.ratios(m, begun, floor) // the model learns all hours by it
	if len(more) == 0 {
		floor = 0 // the guess is of what is expected
	}
	rates := m.expected(ahead)
	if len(more) > 0 {
		out.Origins = more[0].origins
	}
	median, high := a.Used, a.Used
	var use, whole quantity.Amount
	for h := range ahead {
		begin := a.Now.Add(time.Duration(h) * time.Hour)
		end := begin.Add(time.Hour)
		if !a.End.IsZero() && end.After(a.End) {
			end = a.End
		}
		part := func(perHour quantity.Amount) quantity.Amount {
			return quantity.MulDiv(perHour, end.Sub(begin).Milliseconds(), time.Hour.Milliseconds())
		}
		use, whole = use.Add(part(rates[h])), whole.Add(part(max(rates[h], a.running(begin, 1))))
		nextMedian := median.Add(part(max(rates[h], a.running(begin, 2))))
		base := floor.Mul(int64(h + 1))
		nextHigh := max(high, nextMedian, a.Used.Add(whole), a.Used.Add(ratioAt(more, h+1).OfUp(use.Add(base)).Sub(base)))
		a.reached(&out.P50, begin, end, median, nextMedian)
		a.reached(&out.P90, begin, end, high, nextHigh)
		median, high = nextMedian, nextHigh
		if a.End.IsZero() && out.P50 != nil && out.P90 != nil {
			break
		}
	}
	if !a.End.IsZero() {
		out.AtEnd50, out.AtEnd90 = &median, &high
	}
	return out
}

// reached notes when the limit is reached in an hour, if it is for the first time.
func (a Account) reached(at **time.Time, begin, end time.Time, before, after quantity.Amount) {
	if *at != nil || after < a.Limit {
		return
	}
	when := begin
	if left := a.Limit.Sub(before); left > 0 {
		when = begin.Add(time.Duration(quantity.MulDiv(left, int64(end.Sub(begin)), int64(max(1, after.Sub(before))))))
	}
	when = when.Truncate(time.Second)
	*at = &when
}

// running is what running work uses per hour at an instant, when it takes one part of the
// time that it may.
func (a Account) running(at time.Time, parts time.Duration) quantity.Amount {
	total := quantity.Amount(0)
	for _, s := range a.Scheduled {
		lasts := s.Until.Sub(a.Now)
		if lasts > 0 && at.Before(a.Now.Add(lasts/parts)) {
			total = total.Add(quantity.MulDiv(s.Amount, time.Hour.Milliseconds(), max(1, lasts.Milliseconds())))
		}
	}
	return total
}

// average is an exponential average of what came from hour to hour, with its weight.
type average struct {
	sum    quantity.Amount
	weight int64
	keep   int64
}

func (a *average) add(x quantity.Amount) {
	a.sum = quantity.MulDiv(a.sum, a.keep, int64(quantity.RatioOne)).Add(x)
	a.weight = a.weight*a.keep/int64(quantity.RatioOne) + int64(quantity.RatioOne)
}

func (a *average) value() quantity.Amount {
	return quantity.MulDiv(a.sum, int64(quantity.RatioOne), max(1, a.weight))
}

// model is what was learnt from the hours that were added to it.
type model struct {
	hours []quantity.Amount
	// slots are the hours of the week, by the local clock, of the hours and of those that
	// follow them.
	slots     []int
	n         int
	day, week average
	// sums and counts are of the hours of the week, of the last weeks: habits change.
	sums   [weekHours]quantity.Amount
	counts [weekHours]int64
}

// seasonWeeks is how many weeks count for what is usual at an hour.
const seasonWeeks = 4

func newModel(hours []quantity.Amount, slots []int) *model {
	return &model{hours: hours, slots: slots, day: average{keep: keepDay}, week: average{keep: keepWeek}}
}

// learn adds the hours up to the n-th.
func (m *model) learn(n int) {
	for ; m.n < n; m.n++ {
		x := max(0, m.hours[m.n]) // a correction may have taken back more
		m.day.add(x)
		m.week.add(x)
		m.sums[m.slots[m.n]] = m.sums[m.slots[m.n]].Add(x)
		m.counts[m.slots[m.n]]++
		if old := m.n - seasonWeeks*weekHours; old >= 0 {
			m.sums[m.slots[old]] = m.sums[m.slots[old]].Sub(max(0, m.hours[old]))
			m.counts[m.slots[old]]--
		}
	}
}

// usual is what is used at each hour of the week: of the week while it knows two of them,
// of the day while it knows three, else what is used in any hour.
func (m *model) usual(otherwise quantity.Amount) [weekHours]quantity.Amount {
	var out [weekHours]quantity.Amount
	for slot := range out {
		sum, count := m.sums[slot], m.counts[slot]
		if m.n < 2*weekHours {
			sum, count = 0, 0
			for other := slot % 24; other < weekHours && m.n >= 3*24; other += 24 {
				sum, count = sum.Add(m.sums[other]), count+m.counts[other]
			}
		}
		out[slot] = otherwise
		if count > 0 {
			out[slot] = quantity.MulDiv(sum, 1, count)
		}
	}
	return out
}

// expected is the median of what is used in each of the hours that follow.
func (m *model) expected(ahead int) []quantity.Amount {
	lately, weeks := m.day.value(), m.week.value()
	usual := m.usual(weeks)
	out := make([]quantity.Amount, ahead)
	share := int64(quantity.RatioOne / 2) // of what was used lately
	for h := range out {
		slow := weeks.Add(usual[m.slots[m.n+h]])
		out[h] = quantity.MulDiv(lately.Mul(2*share).Add(slow.Mul(int64(quantity.RatioOne)-share)), 1, 2*int64(quantity.RatioOne))
		share = share * keepDay / int64(quantity.RatioOne)
	}
	return out
}

// slotsOf are the hours of the week of so many hours.
func slotsOf(first time.Time, n int) []int {
	out := make([]int, n)
	for i := range out {
		at := first.Add(time.Duration(i) * time.Hour)
		out[i] = int(at.Weekday())*24 + at.Hour()
	}
	return out
}

// ratio is how much more came than was expected in nine of ten cases, over a horizon.
type ratio struct {
	hours   int
	more    quantity.Ratio
	origins int
}

// ratios forecasts the past from each of its days, and compares. It begins a week after
// the first use: how much more than nothing came says nothing.
func (a Account) ratios(m *model, begun int, floor quantity.Amount) []ratio {
	found := make([][]int64, len(horizons))
	for origin := begun + pastMin; origin+horizons[0] <= len(a.Hours); origin += 24 {
		ahead := min(horizons[len(horizons)-1], len(a.Hours)-origin)
		m.learn(origin)
		rates := m.expected(ahead)
		var want, came quantity.Amount
		next := 0
		for h := range ahead {
			want, came = want.Add(rates[h]), came.Add(max(0, a.Hours[origin+h]))
			if h+1 == horizons[next] {
				base := floor.Mul(int64(h + 1)).Add(1)
				found[next] = append(found[next], int64(quantity.MulDiv(came.Add(base), int64(quantity.RatioOne), int64(want.Add(base)))))
				next++
				if next == len(horizons) {
					break
				}
			}
		}
	}
	m.learn(len(a.Hours))
	var out []ratio
	for i, ratios := range found {
		if len(ratios) < originsMin {
			continue
		}
		slices.Sort(ratios)
		// The rank that nine of ten new ones stay below (split conformal prediction).
		rank := min(len(ratios), (9*(len(ratios)+1)+9)/10)
		out = append(out, ratio{horizons[i], max(quantity.RatioOne, quantity.Ratio(ratios[rank-1])), len(ratios)})
	}
	return out
}

// begun is the first hour in which something was used.
func (a Account) begun() int {
	return max(0, slices.IndexFunc(a.Hours, func(x quantity.Amount) bool { return x > 0 }))
}

// floor is a quarter of what is used in an hour on average. It is added to both sides when
// forecasts are compared: where little was expected, a little more is many times as much.
func (a Account) floor(begun int) quantity.Amount {
	total := quantity.Amount(0)
	for _, x := range a.Hours {
		total = total.Add(max(0, x))
	}
	return quantity.MulDiv(total, 1, 4*int64(max(1, len(a.Hours)-begun)))
}

// ratioAt is that of the longest horizon that is shorter: those of long horizons come from
// few forecasts that overlap, and say too little.
func ratioAt(all []ratio, hours int) quantity.Ratio {
	if len(all) == 0 {
		return guess
	}
	at := all[0].more
	for _, r := range all {
		if r.hours < hours {
			at = r.more
		}
	}
	return at
}
