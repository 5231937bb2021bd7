package agent

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// modelLimit names one limit of a budget.
type modelLimit struct {
	window budget.Window
	dim    budget.Dimension
}

// modelCard is a rate card: what an hour of each class costs, in thousandths of
// the currency, which keeps rounding in play.
type modelCard struct {
	from   time.Time
	prices map[string]int64
}

// modelPolicy is the reference's own reading of the budgets: it writes the text
// that the agents parse, and never reads what they made of it.
type modelPolicy struct {
	zone string
	// limits by path, in the units of the ledger.
	limits map[string]map[modelLimit]quantity.Amount
	cards  []modelCard
}

// The budgets of the model, parents first; a leaf claims the namespace of its
// last name.
var modelPaths = []string{"acme", "acme/research", "acme/research/nlp", "acme/research/vision", "acme/serving"}

func modelLeaf(namespace string) string {
	if namespace == "serving" {
		return "acme/serving"
	}
	return "acme/research/" + namespace
}

func newModelPolicy(rng *rand.Rand, at time.Time) *modelPolicy {
	p := &modelPolicy{zone: []string{"UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns"}[rng.IntN(4)],
		limits: map[string]map[modelLimit]quantity.Amount{}}
	p.cards = []modelCard{{from: at.Add(-300 * 24 * time.Hour), prices: map[string]int64{"a": 1 + rng.Int64N(9000), "b": 1 + rng.Int64N(900)}}}
	for depth, path := range modelPaths {
		l := map[modelLimit]quantity.Amount{}
		scale := int64(8)
		if depth > 1 {
			scale = 4
		}
		l[modelLimit{budget.Concurrent, budget.GPUs(budget.AnyClass)}] = quantity.GPU.Mul(3 + rng.Int64N(2*scale))
		if rng.IntN(2) == 0 {
			l[modelLimit{budget.Concurrent, budget.GPUs("a")}] = quantity.GPU.Mul(2 + rng.Int64N(scale))
		}
		for _, w := range []budget.Window{budget.Hour, budget.Day, budget.Week, budget.Month, budget.Total} {
			if rng.IntN(5) == 0 {
				most := max(1, min(budget.LongestMillis(w), 31*24*3_600_000))
				if w == budget.Total {
					most = 60 * 24 * 3_600_000
				}
				l[modelLimit{w, budget.GPUTime(budget.AnyClass)}] = quantity.Amount(9000 * (scale * most / 9000 / (1 + rng.Int64N(40))))
			}
			if rng.IntN(5) == 0 {
				l[modelLimit{w, budget.Tokens(budget.OutputTokens)}] = quantity.Amount(1 + rng.Int64N(scale*2500))
			}
			if rng.IntN(8) == 0 {
				l[modelLimit{w, budget.Cost}] = quantity.Amount(1000 * (1 + rng.Int64N(scale*int64(w+1)*60_000)))
			}
		}
		p.limits[path] = l
	}
	return p
}

func (p *modelPolicy) clone() *modelPolicy {
	c := &modelPolicy{zone: p.zone, limits: map[string]map[modelLimit]quantity.Amount{}, cards: slices.Clone(p.cards)}
	for path, l := range p.limits {
		c.limits[path] = maps.Clone(l)
	}
	return c
}

// scale multiplies one limit of one budget; it reports whether that lowered it.
func (p *modelPolicy) scale(rng *rand.Rand) (lowered bool) {
	path := modelPaths[rng.IntN(len(modelPaths))]
	keys := slices.SortedFunc(maps.Keys(p.limits[path]), func(a, b modelLimit) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
	key := keys[rng.IntN(len(keys))]
	old := p.limits[path][key]
	unit := quantity.Amount(9000)
	if key.window == budget.Concurrent {
		unit = quantity.GPU
	}
	steps := []int64{25, 50, 80, 125, 200, 400}
	next := max(unit, quantity.MulDiv(old, steps[rng.IntN(len(steps))], 100)/unit*unit)
	p.limits[path][key] = next
	return next < old
}

// addCard adds prices that come into force in a while.
func (p *modelPolicy) addCard(rng *rand.Rand, at time.Time) {
	from := at.Add(3 * time.Hour).Add(time.Duration(rng.Int64N(40*3600)) * time.Second).Truncate(time.Second)
	last := p.cards[len(p.cards)-1].from
	if !from.After(last) {
		from = last.Add(time.Hour)
	}
	p.cards = append(p.cards, modelCard{from: from, prices: map[string]int64{"a": 1 + rng.Int64N(9000), "b": 1 + rng.Int64N(900)}})
}

// cardAt is the number of the card in force at an instant.
func (p *modelPolicy) cardAt(at time.Time) int {
	found := -1
	for i, c := range p.cards {
		if !c.from.After(at) {
			found = i
		}
	}
	return found
}

// perHour is the price in micro-units.
func (c modelCard) perHour(class string) int64 { return 1000 * c.prices[class] }

// text is the policy in the budget language.
func (p *modelPolicy) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "governor {\n  timezone = %q\n  currency = \"USD\"\n}\n", p.zone)
	for _, class := range modelClasses {
		fmt.Fprintf(&b, "gpu_class %q { devices = [%q] }\n", class, modelDevice(class))
	}
	for i, c := range p.cards {
		fmt.Fprintf(&b, "rate_card %q {\n  effective_from = %q\n", modelCardName(i), c.from.UTC().Format(time.RFC3339))
		for _, class := range modelClasses {
			fmt.Fprintf(&b, "  gpu %q { per_hour = %s }\n", class, modelMoney(quantity.Amount(c.perHour(class))))
		}
		b.WriteString("  tokens \"m\" {\n    input_per_million  = 1.3\n    output_per_million = 7\n  }\n}\n")
	}
	p.budget(&b, "acme")
	return b.String()
}

func modelCardName(i int) string { return fmt.Sprintf("card-%03d", i) }

func (p *modelPolicy) budget(b *strings.Builder, path string) {
	name := path[strings.LastIndexByte(path, '/')+1:]
	fmt.Fprintf(b, "budget %q {\n  lease = \"40m\"\n", name)
	byWindow := map[budget.Window][]string{}
	for key, a := range p.limits[path] {
		switch {
		case key.dim == budget.Cost:
			byWindow[key.window] = append(byWindow[key.window], "cost = "+modelMoney(a))
		case key.dim.IsTokens():
			byWindow[key.window] = append(byWindow[key.window], fmt.Sprintf("tokens = { %s = %d }", key.dim.Class(), a))
		case key.window == budget.Concurrent:
			byWindow[key.window] = append(byWindow[key.window], fmt.Sprintf("%s = %d", key.dim.Class(), a/quantity.GPU))
		default:
			// Multiples of 9 seconds are exact in hours.
			byWindow[key.window] = append(byWindow[key.window], fmt.Sprintf("gpu_hours = %d / 3600000", int64(a)))
		}
	}
	for _, w := range slices.Sorted(maps.Keys(byWindow)) {
		slices.Sort(byWindow[w])
		if w == budget.Concurrent {
			fmt.Fprintf(b, "concurrent {\n  gpus = { %s }\n}\n", strings.Join(byWindow[w], ", "))
			continue
		}
		fmt.Fprintf(b, "limit %q {\n  %s\n}\n", w.String(), strings.Join(byWindow[w], "\n  "))
	}
	leaf := true
	for _, child := range modelPaths {
		if strings.HasPrefix(child, path+"/") && !strings.Contains(child[len(path)+1:], "/") {
			leaf = false
			p.budget(b, child)
		}
	}
	if leaf {
		fmt.Fprintf(b, "match { namespaces = [%q] }\nper_job { default_runtime = \"1h\" }\n", name)
	}
	b.WriteString("}\n")
}

// modelMoney writes an amount to the last digit.
func modelMoney(a quantity.Amount) string {
	return strings.ReplaceAll(quantity.FormatDecimal(a, 1_000_000, 6), ",", "")
}

// excess is where a balance that grew is over a limit now and was not as far over
// it before; "" when it is nowhere. Periods that ended before now do not matter.
func (p *modelPolicy) excess(path string, before, after ledger.Balance, now time.Time, loc *time.Location) string {
	for key, limit := range p.limits[path] {
		for _, period := range modelPeriods(key.window, after, now, loc) {
			was, is := before.UsedIn(period, key.dim), after.UsedIn(period, key.dim)
			if is > was && is > limit {
				return fmt.Sprintf("%s: %s in %s: %d was used and held, now %d, and the limit is %d", path, key.dim, period.Key(), was, is, limit)
			}
		}
	}
	return ""
}

// modelPeriods are the periods of a window that a balance says anything about,
// from the present one on, and one of the far future.
func modelPeriods(w budget.Window, b ledger.Balance, now time.Time, loc *time.Location) []budget.Period {
	present := budget.PeriodAt(w, now, loc)
	if w.Gauge() || w == budget.Total {
		return []budget.Period{present}
	}
	periods := []budget.Period{present, budget.PeriodAt(w, now.AddDate(3, 0, 0), loc)}
	for _, v := range []ledger.Vector{b.Posted, b.Held} {
		for _, key := range v.Periods() {
			of, ok := ledger.WindowOf(key)
			if !ok || of != w {
				continue
			}
			at, err := time.Parse(budget.PeriodKeyLayout, key[strings.IndexByte(key, '/')+1:])
			if err == nil && at.After(present.Start) {
				periods = append(periods, budget.PeriodAt(w, at, loc))
			}
		}
	}
	return periods
}
