package forecast_test

import (
	"encoding/csv"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/forecast"
)

// score is how well many forecasts of one horizon did.
type score struct {
	n int
	// below are how often what came was no more than P50 and P90 said.
	below50, below90 int
	// loss is the pinball loss of P50 and P90, flat that of the mean of the 14 days before
	// for both, all in parts of what came.
	loss50, loss90, flat50, flat90, came float64
}

// pinball is the loss of a quantile that was told as x when y came.
func pinball(q, x, y float64) float64 {
	if y >= x {
		return q * (y - x)
	}
	return (1 - q) * (x - y)
}

// walk forecasts from each day on, with eight weeks before it, and compares.
func (s *score) walk(first time.Time, hours []quantity.Amount, ahead int) {
	const past = 56 * 24
	for at := past; at+ahead <= len(hours); at += 24 {
		begin := first.Add(time.Duration(at) * time.Hour)
		e := forecast.Exhaust(forecast.Account{Now: begin, End: begin.Add(time.Duration(ahead) * time.Hour), Limit: quantity.MaxAmount,
			First: begin.Add(-past * time.Hour), Hours: hours[at-past : at]})
		came, flat := 0.0, 0.0
		for _, x := range hours[at : at+ahead] {
			came += float64(x)
		}
		for _, x := range hours[at-14*24 : at] {
			flat += float64(x) * float64(ahead) / (14 * 24)
		}
		s.n++
		if came <= float64(*e.AtEnd50) {
			s.below50++
		}
		if came <= float64(*e.AtEnd90) {
			s.below90++
		}
		s.came += came
		s.loss50, s.loss90 = s.loss50+pinball(0.5, float64(*e.AtEnd50), came), s.loss90+pinball(0.9, float64(*e.AtEnd90), came)
		s.flat50, s.flat90 = s.flat50+pinball(0.5, flat, came), s.flat90+pinball(0.9, flat, came)
	}
}

func (s *score) coverage() float64 { return float64(s.below90) / float64(max(1, s.n)) }

// String is a row of the table in docs/performance.md.
func (s *score) String() string {
	part := func(x float64) float64 { return 100 * x / math.Max(1, s.came) }
	return fmt.Sprintf("%5d forecasts, came <= P50 in %3.0f %%, <= P90 in %3.0f %%, pinball loss P50 %5.2f %% (mean of 14 days %5.2f %%), P90 %5.2f %% (%5.2f %%)",
		s.n, 100*float64(s.below50)/float64(max(1, s.n)), 100*s.coverage(), part(s.loss50), part(s.flat50), part(s.loss90), part(s.flat90))
}

// team is the use of a team that works in the day and on weekdays, starts jobs of all
// lengths at random, and slowly does more.
func team(rng *rand.Rand, days int, drift float64) []quantity.Amount {
	hours := make([]quantity.Amount, days*24)
	for h := range hours {
		rate := 0.15
		if day, hour := h/24%7, h%24; day < 5 && hour >= 8 && hour < 20 {
			rate = 0.6
		}
		for rng.Float64() < rate*(1+drift*float64(h)/24) {
			rate /= 2
			gpus := quantity.Amount(int64(1) << rng.IntN(4))
			for lasts := int(math.Exp(rng.NormFloat64()*1.2 + 1)); lasts >= 0 && h+lasts < len(hours); lasts-- {
				hours[h+lasts] += gpus * quantity.GPUHour
			}
		}
	}
	return hours
}

// TestP90CoversWhatComes on made-up teams: about nine of ten times no more comes than P90
// says. The bounds are wide enough for the seeds, and too narrow for a P90 that is the
// median, or that says everything.
func TestP90CoversWhatComes(t *testing.T) {
	t.Parallel()
	first := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	for name, drift := range map[string]float64{"steady": 0, "growing 1 % of the beginning a day": 0.01} {
		for _, days := range []int{1, 7, 14} {
			var s score
			for seed := range uint64(4) {
				s.walk(first, team(rand.New(rand.NewPCG(seed, 7)), 126, drift), days*24)
			}
			t.Logf("%s, %2d days: %s", name, days, &s)
			must.Between(t, 0.80, s.coverage(), 0.99, must.Sprint(name, days))
			must.Less(t, s.flat90, s.loss90, must.Sprint("better than the mean"))
		}
	}
}

// TestOnPhilly prints how it does on Microsoft's trace: GPU time by hour of each virtual
// cluster, as if each job had begun when it was submitted.
func TestOnPhilly(t *testing.T) {
	t.Parallel()
	folder := os.Getenv("GOVERNOR_DATA")
	file, err := os.Open(filepath.Join(folder, "philly", "sia_philly.csv")) //nolint:gosec // where the environment says
	if err != nil {
		t.Skipf("the Philly trace is not here (GOVERNOR_DATA names the folder of the data): %v", err)
	}
	defer func() { _ = file.Close() }()
	records, err := csv.NewReader(file).ReadAll()
	must.NoError(t, err)
	first := time.Date(2017, 10, 3, 0, 0, 0, 0, time.UTC)
	const days = 74
	clusters := map[string][]quantity.Amount{}
	for _, r := range records[1:] {
		at, err := time.Parse(time.DateTime, r[0])
		must.NoError(t, err)
		seconds, err := strconv.ParseFloat(r[1], 64)
		must.NoError(t, err)
		gpus, err := strconv.ParseInt(r[2], 10, 64)
		must.NoError(t, err)
		if clusters[r[4]] == nil {
			clusters[r[4]] = make([]quantity.Amount, days*24)
		}
		spread(clusters[r[4]], first, at, at.Add(time.Duration(seconds*float64(time.Second))), quantity.Amount(gpus))
	}
	for _, ahead := range []int{1, 7, 14} {
		var s score
		for _, hours := range clusters {
			s.walk(first, hours, ahead*24)
		}
		t.Logf("%d virtual clusters, %2d days: %s", len(clusters), ahead, &s)
		must.Positive(t, s.n)
	}
}

// spread adds the time of some GPUs in [from, to) to its hours.
func spread(hours []quantity.Amount, first, from, to time.Time, gpus quantity.Amount) {
	for h := max(0, int(from.Sub(first)/time.Hour)); h < len(hours); h++ {
		begin := first.Add(time.Duration(h) * time.Hour)
		end := begin.Add(time.Hour)
		if !begin.Before(to) {
			return
		}
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		if end.After(begin) {
			hours[h] += gpus.Mul(end.Sub(begin).Milliseconds())
		}
	}
}

func BenchmarkExhaust(b *testing.B) {
	a := account(1_000_000_000_000, 0, team(rand.New(rand.NewPCG(1, 7)), 28, 0))
	for b.Loop() {
		forecast.Exhaust(a)
	}
}
