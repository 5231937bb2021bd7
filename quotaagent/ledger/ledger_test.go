package ledger_test

import (
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

const hour = int64(3_600_000)

var start = time.Date(2026, 3, 28, 22, 0, 0, 0, time.UTC) // 23:00 in Berlin, before the day of 23 hours

func berlin(t testing.TB) *time.Location {
	loc, err := time.LoadLocation("Europe/Berlin")
	must.NoError(t, err)
	return loc
}

func calendar(t testing.TB, windows ...budget.Window) ledger.Calendar {
	return ledger.Calendar{Location: berlin(t), Windows: windows}
}

// batch is a line of one-GPU allocations.
func batch(count int, hours int64, starts int) ledger.Line {
	return ledger.Line{Group: "g", Count: count, RuntimeMS: hours * hour * int64(starts), OnceMS: hours * hour, Starts: starts,
		Needs: []ledger.Need{{Classes: []string{"a"}, GPUs: 1}}}
}

func service(count, canaries int) ledger.Line {
	return ledger.Line{Group: "g", Count: count + canaries, Canaries: canaries, RuntimeMS: 24 * hour, Lease: true,
		Needs: []ledger.Need{{Classes: []string{"a"}, GPUs: 1}}}
}

// confirmed is an active hold, registered at index 10.
func confirmed(lines ...ledger.Line) ledger.Hold {
	return ledger.Confirm(ledger.Submit(ledger.Hold{JobID: "job", Budget: "x", State: ledger.Held}, lines, 1), 10)
}

// seen is a running allocation of slot i that began some hours after start.
func seen(t testing.TB, h ledger.Hold, id string, i string, index uint64, hours int64) ledger.Hold {
	next, changed := ledger.Observe(h, ledger.Observation{Alloc: id, Name: "job.g[" + i + "]", Group: "g", CreateIndex: index,
		StartMS: start.UnixMilli() + hours*hour, GPUs: []ledger.TrackGPUs{{Class: "a", IDs: []string{id}}}}, start.UnixMilli()+hours*hour)
	must.True(t, changed)
	return next
}

// heldHours is the GPU time held in the period of w that begins with or holds
// the instant some hours after start.
func heldHours(t testing.TB, h ledger.Hold, w budget.Window, hours int64) float64 {
	b := ledger.Balance{Held: ledger.Charges(h, calendar(t, budget.Hour, budget.Day, budget.Month, budget.Total))}
	p := budget.PeriodAt(w, start.Add(time.Duration(hours)*time.Hour), berlin(t))
	return float64(b.HeldIn(p, budget.GPUTime("any"))) / float64(hour)
}

func gauge(h ledger.Hold) quantity.Amount {
	return ledger.Charges(h, ledger.Calendar{Location: time.UTC}).At(ledger.ConcurrentKey, budget.GPUs("any")) / quantity.GPU
}

func TestUnplacedWorkCountsInEveryPeriod(t *testing.T) {
	t.Parallel()
	h := confirmed(batch(1, 4, 1))
	for _, later := range []int64{0, 1, 30, 2000} {
		must.Eq(t, 4, heldHours(t, h, budget.Day, later))
		must.Eq(t, 1, heldHours(t, h, budget.Hour, later), must.Sprint("an hour has no more than one hour"))
	}
	must.Eq(t, 4, heldHours(t, h, budget.Total, 0))
}

func TestPlacedWorkCountsWhereItFallsOnTheDayOf23Hours(t *testing.T) {
	t.Parallel()
	h := seen(t, confirmed(batch(1, 30, 1)), "1", "0", 11, 0)
	must.Eq(t, 1, heldHours(t, h, budget.Day, 0), must.Sprint("23:00 to midnight"))
	must.Eq(t, 23, heldHours(t, h, budget.Day, 1))
	must.Eq(t, 6, heldHours(t, h, budget.Day, 24))
	must.Eq(t, 0, heldHours(t, h, budget.Day, 48))
	must.Eq(t, 30, heldHours(t, h, budget.Month, 0))
}

func TestAFurtherStartStaysHeldInEveryPeriod(t *testing.T) {
	t.Parallel()
	h := seen(t, confirmed(batch(1, 2, 2)), "1", "0", 11, 0)
	must.Eq(t, 3, heldHours(t, h, budget.Day, 0), must.Sprint("one hour of this run, and a second run"))
	must.Eq(t, 2, heldHours(t, h, budget.Day, 100), must.Sprint("the second run may start days later"))
	must.Eq(t, 4, heldHours(t, h, budget.Total, 0))
	must.Eq(t, 1, heldHours(t, h, budget.Hour, 0), must.Sprint("one GPU cannot use more than an hour of an hour"))
}

func TestAChangedJobHoldsAWholeRunAgain(t *testing.T) {
	t.Parallel()
	h := seen(t, confirmed(batch(1, 4, 1)), "1", "0", 11, 0)
	again := ledger.Submit(h, []ledger.Line{batch(1, 4, 1)}, 1)
	must.Eq(t, 4, heldHours(t, again, budget.Day, 240), must.Sprint("its replacement may run any day"))
	must.Eq(t, 4, heldHours(t, again, budget.Total, 0), must.Sprint("one of the two runs to its end, not both"))
	must.Eq(t, 1, gauge(again), must.Sprint("the same GPU"))
	changed := ledger.Confirm(again, 20)
	must.Eq(t, 4, heldHours(t, changed, budget.Day, 240))
	replaced := seen(t, changed, "2", "0", 21, 10)
	must.Eq(t, 0, heldHours(t, replaced, budget.Day, 240))
	must.Eq(t, 4, heldHours(t, replaced, budget.Total, 0), must.Sprint("as much as before it was seen: nobody has decided about more"))
	replaced = looked(t, replaced)
	must.Eq(t, 4, heldHours(t, replaced, budget.Total, 0), must.Sprint("the successor's run, none of the old one's"))
	must.Eq(t, 2, gauge(replaced), must.Sprint("the old one is still stopping"))
}

func TestTheSameJobOnceMoreHoldsNothingMore(t *testing.T) {
	t.Parallel()
	h := seen(t, confirmed(batch(2, 4, 1)), "1", "0", 11, 0)
	h.Slots["job.g[1]"] = ledger.Slot{UsedMS: hour, Done: true}
	before := ledger.Charges(h, calendar(t, budget.Day, budget.Total))
	pending := ledger.SubmitUnchanged(h, []ledger.Line{batch(2, 4, 1)}, 1)
	must.Eq(t, before, ledger.Charges(pending, calendar(t, budget.Day, budget.Total)))
	must.Eq(t, before, ledger.Charges(ledger.Confirm(pending, 10), calendar(t, budget.Day, budget.Total)))
	must.Eq(t, 8, heldHours(t, ledger.Confirm(pending, 20), budget.Total, 0), must.Sprint("Nomad found it changed after all: all starts again"))
}

// Nomad may place the next start of a job that several classes can serve on another
// one than the last: until it cannot start again it counts in the limits of all.
func TestWhatMayStartAgainCountsInEveryClass(t *testing.T) {
	t.Parallel()
	for starts, other := range map[int]quantity.Amount{1: 0, 2: 2 * quantity.GPU} {
		line := batch(1, 2, starts)
		line.Needs[0].Classes, line.Needs[0].GPUs = []string{"h100", "l40s"}, 2
		h := confirmed(line)
		cal := calendar(t, budget.Total)
		for _, d := range []string{"h100", "l40s", budget.AnyClass} {
			must.Eq(t, 2*quantity.GPU, ledger.Charges(h, cal).At(ledger.ConcurrentKey, budget.GPUs(d)), must.Sprint(d))
		}
		h, taken := ledger.Observe(h, ledger.Observation{Alloc: "x", Name: "job.g[0]", Group: "g", CreateIndex: 11,
			GPUs: []ledger.TrackGPUs{{Class: "l40s", IDs: []string{"G0", "G1"}}}}, 0)
		must.True(t, taken)
		charged := ledger.Charges(h, cal)
		must.Eq(t, other, charged.At(ledger.ConcurrentKey, budget.GPUs("h100")), must.Sprint(starts, " starts"))
		must.Eq(t, 2*quantity.GPU, charged.At(ledger.ConcurrentKey, budget.GPUs("l40s")))
		must.Eq(t, 2*quantity.GPU, charged.At(ledger.ConcurrentKey, budget.GPUs(budget.AnyClass)))
	}
}

func TestAResubmissionHoldsTheLargerOfBothShapes(t *testing.T) {
	t.Parallel()
	wide, long := batch(4, 1, 1), batch(1, 4, 1)
	h := ledger.Submit(confirmed(wide), []ledger.Line{long}, 1)
	first := 4 * ledger.RegisterWithin.Hours() // what the four may use until the job is registered anew
	must.Eq(t, 4+first, heldHours(t, h, budget.Total, 0), must.Sprint("not four times four hours"))
	must.Eq(t, 4, gauge(h))
	voided, remains := ledger.Void(h)
	must.True(t, remains)
	must.Eq(t, confirmed(wide), voided)
}

// looked is the hold after its job's allocations were looked at.
func looked(t *testing.T, h ledger.Hold) ledger.Hold {
	next, former := ledger.Looked(h)
	must.True(t, former)
	_, former = ledger.Looked(next)
	must.False(t, former)
	return next
}

// Allocations of the job as it was may have started that nobody has seen: what they
// need is held until somebody looks, however often the job changes meanwhile.
func TestAChangedJobHoldsWhatItWasUntilItIsLookedAt(t *testing.T) {
	t.Parallel()
	h := confirmed(batch(9, 4, 1))
	before := ledger.Charges(h, calendar(t, budget.Day, budget.Total))
	for i := range 100 {
		h = ledger.Confirm(ledger.Submit(h, []ledger.Line{batch(1, 1, 1)}, 1), uint64(20+i))
		must.Eq(t, before, ledger.Charges(h, calendar(t, budget.Day, budget.Total)))
	}
	must.LessEq(t, 65, len(h.Former), must.Sprint("a document is bounded: 64, and the one that was confirmed since"))
	must.Eq(t, 1, gauge(looked(t, h)))
	must.Eq(t, ledger.Charges(confirmed(batch(1, 1, 1)), calendar(t, budget.Day)), ledger.Charges(looked(t, h), calendar(t, budget.Day)))
}

func TestACountOfZeroSurvivesTheStore(t *testing.T) {
	t.Parallel()
	h := ledger.Submit(confirmed(batch(2, 4, 1)), nil, 1)
	value, err := ledger.EncodeHold(h)
	must.NoError(t, err)
	stored, err := ledger.DecodeHold(value)
	must.NoError(t, err)
	must.NotNil(t, stored.Pending)
	must.Eq(t, 8, heldHours(t, stored, budget.Total, 0))
	must.Eq(t, 8, heldHours(t, ledger.Confirm(stored, 20), budget.Total, 0), must.Sprint("what has started may not have been seen"))
	must.Eq(t, 0, heldHours(t, looked(t, ledger.Confirm(stored, 20)), budget.Total, 0))
}

func TestASmallerCountKeepsTheLowestIndexes(t *testing.T) {
	t.Parallel()
	h := confirmed(batch(12, 4, 1))
	for _, i := range []string{"0", "1", "10", "11"} {
		h = seen(t, h, i, i, 11, 0)
	}
	h = ledger.Confirm(ledger.Submit(h, []ledger.Line{batch(3, 4, 1)}, 1), 20)
	must.Eq(t, 12, gauge(h), must.Sprint("any of the others may have started"))
	h = looked(t, h)
	must.Eq(t, 5, gauge(h), must.Sprint("0 and 1 run, 10 and 11 stop, and 2 is still to come"))
}

func TestOneOfTwoSubmissionsAtOnceRefusedLeavesTheOther(t *testing.T) {
	t.Parallel()
	first := ledger.Submit(ledger.Hold{JobID: "job", Budget: "x", State: ledger.Held}, []ledger.Line{batch(8, 4, 1)}, 5)
	both := ledger.Submit(first, []ledger.Line{batch(1, 1, 1)}, 3)
	must.Eq(t, 8, gauge(both), must.Sprint("the small one does not hide the large one"))
	must.Eq(t, 5, both.ExpiresMS)
	left, remains := ledger.Void(both)
	must.True(t, remains, must.Sprint("or the accepted one would run without a hold"))
	must.Eq(t, 8, gauge(ledger.Confirm(left, 10)))
	_, remains = ledger.Void(left)
	must.False(t, remains)
}

func TestCanariesAreHeldOnlyDuringAnUpdate(t *testing.T) {
	t.Parallel()
	pending := ledger.Submit(ledger.Hold{JobID: "job", Budget: "x", State: ledger.Held}, []ledger.Line{service(2, 2)}, 1)
	must.Eq(t, 4, gauge(pending), must.Sprint("a submission may be an update"))
	h := ledger.Confirm(pending, 10)
	must.Eq(t, 2, gauge(h), must.Sprint("the first start has no canaries"))
	h = seen(t, seen(t, h, "1", "0", 11, 0), "2", "1", 11, 0)
	update := ledger.Confirm(ledger.Submit(h, []ledger.Line{service(2, 2)}, 1), 20)
	must.Eq(t, 4, gauge(update), must.Sprint("older allocations run"))
}

func TestALeaseIsRenewedAtItsHalf(t *testing.T) {
	t.Parallel()
	h := seen(t, confirmed(service(1, 0)), "1", "0", 11, 0)
	at := func(hours int64) int64 { return start.UnixMilli() + hours*hour }
	must.Eq(t, at(24), h.Tracks[0].LeaseMS)
	_, moved := ledger.Renew(h, at(12))
	must.False(t, moved, must.Sprint("half of it is left"))
	next, moved := ledger.Renew(h, at(13))
	must.True(t, moved)
	must.Eq(t, at(37), next.Tracks[0].LeaseMS)
	_, moved = ledger.Renew(next, at(12))
	must.False(t, moved, must.Sprint("a clock a little back"))
	far, _ := ledger.Renew(next, at(1000))
	back, moved := ledger.Renew(far, at(14))
	must.True(t, moved, must.Sprint("the clock was far ahead for a moment"))
	must.Eq(t, at(38), back.Tracks[0].LeaseMS)
}

func TestObservations(t *testing.T) {
	t.Parallel()
	active := confirmed(batch(1, 4, 1))
	unconfirmed := ledger.Submit(ledger.Hold{JobID: "job", State: ledger.Held}, nil, 1)
	posted := confirmed(batch(1, 4, 1))
	posted.Finished = []string{"a"}
	cases := map[string]struct {
		hold    ledger.Hold
		index   uint64
		end     int64
		changed bool
		wantEnd int64
	}{
		"a running allocation of this life is taken in":                  {hold: active, index: 11, changed: true},
		"an ended one of this life as well":                              {hold: active, index: 11, end: 9 * hour, changed: true, wantEnd: 9 * hour},
		"an ended one of an old life is not":                             {hold: active, index: 9, end: 9 * hour},
		"a running one of an old life is: it holds its GPUs":             {hold: active, index: 9, changed: true},
		"one that was posted to its end is not":                          {hold: posted, index: 11, end: 9 * hour},
		"nothing is taken in before Nomad accepted":                      {hold: unconfirmed, index: 11},
		"terminal before created counts as no time, never as a negative": {hold: active, index: 11, end: 2 * hour, changed: true, wantEnd: 5 * hour},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := ledger.Observation{Alloc: "a", Name: "job.g[0]", Group: "g", CreateIndex: tc.index, StartMS: 5 * hour, EndMS: tc.end}
			next, changed := ledger.Observe(tc.hold, o, 0)
			must.Eq(t, tc.changed, changed)
			if changed {
				must.Eq(t, tc.wantEnd, next.Tracks[0].EndMS)
				must.Len(t, 0, tc.hold.Tracks, must.Sprint("the given hold is not changed"))
			}
		})
	}
}

func TestALongHoldStaysSmall(t *testing.T) {
	t.Parallel()
	line := batch(1, 24*365*50, 1)
	h := seen(t, confirmed(line), "1", "0", 11, 0)
	v := ledger.Charges(h, calendar(t, budget.Hour, budget.Day, budget.Week, budget.Month, budget.Total))
	must.LessEq(t, 300, len(v.Periods()))
	must.Eq(t, 1, heldHours(t, h, budget.Hour, 24*365*40), must.Sprint("every hour is still held"))
	line.RuntimeMS = 1<<63 - 1
	h.Lines = []ledger.Line{line}
	must.Positive(t, ledger.Charges(h, calendar(t, budget.Total)).At("total", budget.GPUTime("any")), must.Sprint("the end does not wrap around"))
}

func TestPrunedPeriodsAreThoseThatEndedLongAgo(t *testing.T) {
	t.Parallel()
	b := ledger.Balance{Posted: ledger.NewVector()}
	for _, key := range []string{"hour/2026-03-20T10:00Z", "hour/2026-03-28T21:00Z", "month/2026-01-31T23:00Z", "month/2026-02-28T23:00Z", "total"} {
		b.Posted.Add(key, budget.Cost, 1)
	}
	b.Prune(start, 48*time.Hour, ledger.Calendar{})
	must.Eq(t, []string{"hour/2026-03-28T21:00Z", "month/2026-02-28T23:00Z", "total"}, b.Posted.Periods())
}

func TestDocumentsThatCannotBeReadAreErrors(t *testing.T) {
	t.Parallel()
	_, err := ledger.DecodeHold([]byte("{"))
	must.ErrorContains(t, err, "decode hold")
	_, err = ledger.DecodeBalance([]byte("[]"))
	must.ErrorContains(t, err, "decode balance")
	empty, err := ledger.DecodeBalance(nil)
	must.NoError(t, err)
	must.NotNil(t, empty.Posted)
	must.NotNil(t, empty.Held)
}

func BenchmarkCharges(b *testing.B) {
	cases := map[string]func() ledger.Hold{
		"1 group": func() ledger.Hold { return seen(b, confirmed(batch(1, 4, 1)), "1", "0", 11, 0) },
		"100 groups": func() ledger.Hold {
			h := confirmed()
			for i := range 100 {
				l := batch(2, 4, 2)
				l.Group = string(rune('a'+i/26)) + string(rune('a'+i%26))
				h.Lines = append(h.Lines, l)
			}
			return h
		},
		"hours for 30 days": func() ledger.Hold { return seen(b, confirmed(batch(1, 24*30, 1)), "1", "0", 11, 0) },
		"hours for 8 days":  func() ledger.Hold { return seen(b, confirmed(batch(1, 24*8, 1)), "1", "0", 11, 0) },
	}
	for name, build := range cases {
		h, cal := build(), calendar(b, budget.Hour, budget.Day, budget.Month)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				ledger.Charges(h, cal)
			}
		})
	}
}

// Two submissions are on their way, of which Nomad has taken the first; that was seen
// before its answer came. The second is refused, and its refusal comes first: the hold
// stays that of the job that is registered (a model run found it, seed 130261780).
func TestALateAnswerDoesNotConfirmWhatWasRefused(t *testing.T) {
	t.Parallel()
	large, small := batch(1, 4, 1), batch(1, 1, 1)
	large.Needs[0].GPUs = 2
	h := ledger.Submit(ledger.Hold{JobID: "job", State: ledger.Held}, []ledger.Line{large}, 1)
	h = ledger.Guess(ledger.Confirm(h, 18), 1000)
	h = ledger.Submit(h, []ledger.Line{small}, 2)
	h, taken := ledger.AnsweredLate(h, 10) // the refusal, which nobody can tell from the first answer
	must.True(t, taken)
	h = ledger.Confirm(h, 18)
	must.Eq(t, []ledger.Line{large}, h.Lines)
	must.Nil(t, h.Pending)
}
