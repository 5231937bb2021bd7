package forecast

import (
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// horizon is how far ahead a date is told; what is farther is as good as never.
const horizon = 2 * 365 * 24 * time.Hour

// trendDays is how many days a trend takes at least.
const trendDays = 3

// Day is one whole calendar day, [Start, End).
type Day struct{ Start, End time.Time }

// Use is what the jobs of one budget used of one class on one day.
type Use struct {
	Budget, Class string
	// Day is its beginning.
	Day           time.Time
	GPUTime, Cost quantity.Amount
	Energy        quantity.Amount
}

// Supply is how many GPUs of a class there are, and how many of them are free now.
type Supply struct {
	Class      string
	GPUs, Free int
}

// Demand is GPUs that some job waits for; any of the classes would do.
type Demand struct {
	Classes []string
	GPUs    int64
}

// Input is what a forecast is made of.
type Input struct {
	Now time.Time
	// Days are consecutive, the oldest first; Uses are of them.
	Days []Day
	Uses []Use
	// Supply by class; empty where it is not known.
	Supply []Supply
	// Starting has its budget, and Nomad has not started any of it; Waiting waits for
	// budget.
	Starting, Waiting []Demand
	// Standings of the limits that are looked at.
	Standings []ledger.Standing
	// More are GPUs that might be bought, by class.
	More map[string]int
}

// Class is what is to be expected of the GPUs of one class. GPUs that end in Milli are
// thousandths.
type Class struct {
	Class string `json:"class"`
	// GPUs that there are, and Free now.
	GPUs int `json:"gpus"`
	Free int `json:"free"`
	// MeanMilli were in use on average, PeakMilli on the busiest day.
	MeanMilli int64 `json:"mean_milli"`
	PeakMilli int64 `json:"peak_milli"`
	// TrendMilli is how many more each day, by the straight line through the days; nil
	// for too few days. FullOn is when the line reaches all GPUs; nil when it does not
	// within two years, or when there are none, as far as is known.
	TrendMilli *int64     `json:"trend_milli"`
	FullOn     *time.Time `json:"full_on"`
	// Starting wait for GPUs, Waiting for budget; a job that may have one of several
	// classes counts for each.
	Starting int64 `json:"starting"`
	Waiting  int64 `json:"waiting"`
	// With is the same with more GPUs; nil unless it was asked for.
	With *With `json:"with,omitempty"`
}

// With is a class with more GPUs.
type With struct {
	GPUs   int        `json:"gpus"`
	FullOn *time.Time `json:"full_on"`
	// Serves is how many of the GPUs that jobs wait to start on there would be more.
	Serves int64 `json:"serves"`
}

// Limit is what is to be expected of one limit of a budget, in base units.
type Limit struct {
	Budget    string          `json:"budget"`
	Window    string          `json:"window"`
	Start     *time.Time      `json:"start,omitempty"`
	End       *time.Time      `json:"end,omitempty"`
	Dimension string          `json:"dimension"`
	Limit     quantity.Amount `json:"limit"`
	// Used is what is posted; for GPUs at once what is held.
	Used quantity.Amount `json:"used"`
	// PerDay is the mean of the days; for GPUs at once the mean in use. AtEnd is what is
	// used at the end of the period if it goes on like this; nil without an end.
	PerDay quantity.Amount  `json:"per_day"`
	AtEnd  *quantity.Amount `json:"at_end"`
	// RunsOut is when the limit is reached at the mean of the days, for GPUs at once
	// along their trend; nil when it is not in this period, or not within two years.
	RunsOut *time.Time `json:"runs_out"`
	// Outlook is what the hours of the last weeks and running work let expect; nil for GPUs
	// at once.
	Outlook *Outlook `json:"outlook,omitempty"`
	Source  string   `json:"source,omitempty"`
}

// Forecast is what is to be expected.
type Forecast struct {
	Classes []Class `json:"classes"`
	Limits  []Limit `json:"limits"`
}

// Make makes a forecast. The order of what is in the input does not matter.
func Make(in Input) Forecast {
	return Forecast{Classes: classes(&in), Limits: limits(&in)}
}

// classes are all that are there, were used, or are waited for.
func classes(in *Input) []Class {
	supply, names := map[string]Supply{}, map[string]bool{}
	for _, s := range in.Supply {
		have := supply[s.Class]
		supply[s.Class], names[s.Class] = Supply{s.Class, have.GPUs + s.GPUs, have.Free + s.Free}, true
	}
	for _, u := range in.Uses {
		names[u.Class] = true
	}
	for _, d := range slices.Concat(in.Starting, in.Waiting) {
		for _, class := range d.Classes {
			names[class] = true
		}
	}
	for class := range in.More {
		names[class] = true
	}
	out := make([]Class, 0, len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		curve := in.curve(func(u *Use) bool { return u.Class == name })
		c := Class{Class: name, GPUs: supply[name].GPUs, Free: supply[name].Free, MeanMilli: curve.mean() / (micro / 1000), PeakMilli: curve.peak() / (micro / 1000),
			TrendMilli: curve.slopeMilli(), Starting: waitFor(in.Starting, name), Waiting: waitFor(in.Waiting, name)}
		if c.GPUs > 0 {
			c.FullOn = in.reaches(curve, int64(c.GPUs)*micro)
		}
		if more, asked := in.More[name]; asked {
			c.With = &With{GPUs: c.GPUs + more, Serves: min(int64(more), c.Starting)}
			if len(in.Supply) > 0 {
				c.With.FullOn = in.reaches(curve, int64(c.GPUs+more)*micro)
			}
		}
		out = append(out, c)
	}
	return out
}

func waitFor(demands []Demand, class string) int64 {
	n := int64(0)
	for _, d := range demands {
		if slices.Contains(d.Classes, class) {
			n += d.GPUs
		}
	}
	return n
}

// curve is how many GPUs were in use on each day, in micro.
type curve []int64

// micro is a millionth of a GPU: a line that is drawn far ahead magnifies what was
// rounded.
const micro = 1_000_000

func (in *Input) curve(counts func(*Use) bool) curve {
	sums := make(map[int64]quantity.Amount)
	for i := range in.Uses {
		if u := &in.Uses[i]; counts(u) {
			sums[u.Day.UnixMilli()] = sums[u.Day.UnixMilli()].Add(u.GPUTime)
		}
	}
	out := make(curve, len(in.Days))
	for i, d := range in.Days {
		out[i] = scaled(int64(sums[d.Start.UnixMilli()]), micro, d.End.Sub(d.Start).Milliseconds())
	}
	return out
}

func (c curve) mean() int64 {
	if len(c) == 0 {
		return 0
	}
	sum := int64(0)
	for _, v := range c {
		sum += v
	}
	return sum / int64(len(c))
}

func (c curve) peak() int64 {
	if len(c) == 0 {
		return 0
	}
	return slices.Max(c)
}

// line is the straight line through the days (least squares): its height on the last
// day, and how much it rises each day, in micro and both times div.
func (c curve) line() (last, slope, div *big.Int, ok bool) {
	n := int64(len(c))
	if n < trendDays {
		return nil, nil, nil, false
	}
	sx, sxx := n*(n-1)/2, (n-1)*n*(2*n-1)/6
	sy, sxy := new(big.Int), new(big.Int)
	for i, y := range c {
		sy.Add(sy, big.NewInt(y))
		sxy.Add(sxy, product(int64(i), y))
	}
	div = big.NewInt(n*sxx - sx*sx)
	slope = new(big.Int).Mul(sxy, big.NewInt(n))
	slope.Sub(slope, new(big.Int).Mul(sy, big.NewInt(sx)))
	// The line goes through the mean of both; from there to the last day are (n-1)/2.
	last = new(big.Int).Mul(sy, div)
	last.Mul(last, big.NewInt(2))
	last.Add(last, new(big.Int).Mul(slope, big.NewInt(n*(n-1))))
	return last.Quo(last, big.NewInt(2*n)), slope, div, true
}

// slopeMilli is how much the line rises each day, in thousandths; nil for too few days.
func (c curve) slopeMilli() *int64 {
	_, slope, div, ok := c.line()
	if !ok {
		return nil
	}
	milli := new(big.Int).Quo(slope, div.Mul(div, big.NewInt(micro/1000))).Int64()
	return &milli
}

// reaches is when the line is as high as so many micro; nil when it is not within the
// horizon.
func (in *Input) reaches(c curve, most int64) *time.Time {
	last, slope, div, ok := c.line()
	if !ok {
		return nil
	}
	left := new(big.Int).Mul(div, big.NewInt(most))
	if left.Sub(left, last); left.Sign() <= 0 && last.Sign() > 0 {
		return &in.Now // on the line it is full already
	}
	if slope.Sign() <= 0 {
		return nil
	}
	// A day's mean is that of its noon.
	noon := in.Days[len(in.Days)-1]
	from := noon.Start.Add(noon.End.Sub(noon.Start) / 2)
	return in.within(from, left.Mul(left, big.NewInt((24*time.Hour).Milliseconds())), slope)
}

// within is from plus part/whole milliseconds, not before now; nil beyond the horizon.
func (in *Input) within(from time.Time, part, whole *big.Int) *time.Time {
	ms := new(big.Int).Div(part, whole)
	if !ms.IsInt64() || ms.Int64() > horizon.Milliseconds() {
		return nil
	}
	at := from.Add(time.Duration(ms.Int64()) * time.Millisecond)
	switch {
	case at.After(in.Now.Add(horizon)):
		return nil
	case at.Before(in.Now):
		at = in.Now
	}
	at = at.In(in.Now.Location())
	return &at
}

func product(a, b int64) *big.Int { return new(big.Int).Mul(big.NewInt(a), big.NewInt(b)) }

// limits are those that usage is known for and that have an end, budgets in the order
// of the standings.
func limits(in *Input) []Limit {
	out := []Limit{}
	for i := range in.Standings {
		s := &in.Standings[i]
		limit, finite := s.Limit.Total().Finite()
		d := s.Limit.Dimension
		known := d == budget.Cost || d == budget.Energy || d.IsGPUTime() || d.IsGPUs()
		if !finite || !known || s.Limit.Window == budget.Committed {
			continue
		}
		l := Limit{Budget: s.Budget.Path, Window: s.Limit.Window.String(), Dimension: string(d), Limit: limit, Source: s.Limit.Source.String()}
		if s.Limit.Window == budget.Concurrent {
			in.gauge(&l, s)
		} else {
			in.period(&l, s)
		}
		out = append(out, l)
	}
	return out
}

// counts reports whether a use is one of a budget's, of a dimension's class.
func counts(s *ledger.Standing, u *Use) bool {
	path, class := s.Budget.Path, s.Limit.Dimension.Class()
	inside := u.Budget == path || strings.HasPrefix(u.Budget, path+"/")
	return inside && (class == "" || class == budget.AnyClass || class == u.Class)
}

// gauge is a limit of GPUs at once: the mean that was in use, and its trend.
func (in *Input) gauge(l *Limit, s *ledger.Standing) {
	c := in.curve(func(u *Use) bool { return counts(s, u) })
	l.Used, l.PerDay = s.Held, quantity.Amount(scaled(c.mean(), int64(quantity.GPU), micro))
	l.RunsOut = in.reaches(c, scaled(int64(l.Limit), micro, int64(quantity.GPU)))
}

// period is a limit of a calendar window, or of all time.
func (in *Input) period(l *Limit, s *ledger.Standing) {
	l.Used = s.Posted
	sum := quantity.Amount(0)
	for i := range in.Uses {
		if u := &in.Uses[i]; counts(s, u) {
			sum = sum.Add(amountOf(u, s.Limit.Dimension))
		}
	}
	elapsed := int64(0)
	if n := len(in.Days); n > 0 {
		elapsed = in.Days[n-1].End.Sub(in.Days[0].Start).Milliseconds()
		l.PerDay = quantity.Amount(scaled(int64(sum), (24 * time.Hour).Milliseconds(), elapsed))
	}
	until := in.Now.Add(horizon)
	if p := budget.PeriodAt(s.Limit.Window, in.Now, in.Now.Location()); !p.Start.IsZero() {
		l.Start, l.End, until = &p.Start, &p.End, p.End
		end := l.Used
		if elapsed > 0 {
			end = end.Add(quantity.Amount(scaled(int64(sum), p.End.Sub(in.Now).Milliseconds(), elapsed)))
		}
		l.AtEnd = &end
	}
	left := l.Limit.Sub(l.Used)
	if left <= 0 {
		l.RunsOut = &in.Now
		return
	}
	if sum <= 0 || elapsed == 0 {
		return
	}
	if at := in.within(in.Now, product(int64(left), elapsed), big.NewInt(int64(sum))); at != nil && at.Before(until) {
		l.RunsOut = at
	}
}

func amountOf(u *Use, d budget.Dimension) quantity.Amount {
	if d == budget.Cost {
		return u.Cost
	}
	if d == budget.Energy {
		return u.Energy
	}
	return u.GPUTime
}

// scaled is a*b/c, as large as fits.
func scaled(a, b, c int64) int64 {
	v := product(a, b)
	v.Quo(v, big.NewInt(c))
	if !v.IsInt64() {
		return int64(quantity.MaxAmount)
	}
	return v.Int64()
}
