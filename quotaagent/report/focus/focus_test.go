package focus_test

import (
	"bytes"
	"encoding/csv"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/report/focus"
	"github.com/nomad-governor/governor/quotaagent/report/focus/focustest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var march = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// prices has one card, on which energy has a price.
var prices = focus.Prices{
	PerGPUHour: func(card, class string) (quantity.Amount, bool) {
		price := map[string]quantity.Amount{"2026 h100": 2_900_000, "green h100": 2_500_000, "green l40s": 900_000}[card+" "+class]
		return price, price != 0
	},
	EnergyPerKWh: func(card string) (quantity.Amount, bool) { return 273_000, card == "green" },
}

func charge(change func(c *focus.Charge)) focus.Charge {
	c := focus.Charge{Kind: ledger.UsageEntry, Budget: "acme/research", Namespace: "research", Job: "train", User: "22222222-user", Class: "h100", RateCard: "2026",
		Amounts: report.Amounts{GPUTime: 48 * quantity.GPUHour, Cost: 139_200_000, Energy: 33 * quantity.KWh},
		Start:   march.AddDate(0, 0, 8), End: march.AddDate(0, 0, 9), BillingStart: march, BillingEnd: march.AddDate(0, 1, 0)}
	if change != nil {
		change(&c)
	}
	return c
}

// examples are charges of all kinds.
func examples() []focus.Charge {
	return []focus.Charge{
		charge(nil),
		charge(func(c *focus.Charge) { // energy has a price: a row of its own
			c.RateCard, c.Job, c.Estimated = "green", "=eval \"x\"", true
			c.Cost = 120_000_000 + 9_009_000
		}),
		charge(func(c *focus.Charge) { c.Cost = 69_600_000; c.Job = "night" }),                    // half price
		charge(func(c *focus.Charge) { c.Cost = 278_400_000; c.Job = "urgent" }),                  // twice the price
		charge(func(c *focus.Charge) { c.Cost = 139_200_007; c.Job = "rounded" }),                 // posted in parts
		charge(func(c *focus.Charge) { c.RateCard, c.Class, c.Job = "forgotten", "v100", "old" }), // a price that nobody knows any more
		charge(func(c *focus.Charge) { c.GPUTime, c.RateCard, c.Cost = 0, "green", 9_009_001 }),   // energy alone
		charge(func(c *focus.Charge) {
			c.Kind, c.GPUTime, c.Cost, c.Energy = ledger.CorrectionEntry, -quantity.GPUHour, -2_900_000, 0
		}), // by the meter
		charge(func(c *focus.Charge) {
			c.Kind, c.User, c.Author, c.Reason, c.Key, c.Late = ledger.CorrectionEntry, "", "11111111-root", "node gpu-7 was broken", "correction/refund-01", true
			c.Amounts = report.Amounts{GPUTime: -4 * quantity.GPUHour, Cost: -12_500_000}
		}),
		charge(func(c *focus.Charge) {
			c.Kind, c.User, c.Amounts = ledger.CorrectionEntry, "", report.Amounts{Cost: 3_000_000}
		}), // pruned
		charge(func(c *focus.Charge) {
			c.Kind, c.Class, c.Model = ledger.TokensEntry, "", "llama-70b"
			c.Amounts = report.Amounts{InputTokens: 3_000_000, OutputTokens: 500_000, Cost: 1_250_000}
		}),
		charge(func(c *focus.Charge) {
			c.Kind, c.Budget, c.Namespace, c.Job, c.User = ledger.UnallocatedEntry, "", "", "", ""
			c.Energy = 0
		}),
		charge(func(c *focus.Charge) { c.Kind, c.Budget, c.User = ledger.UngovernedEntry, "", "" }),
		charge(func(c *focus.Charge) { c.Amounts = report.Amounts{} }), // nothing
	}
}

func export(t must.T, charges []focus.Charge) string {
	var out bytes.Buffer
	w, err := focus.NewWriter(&out, prices, "USD", []string{"acme"})
	must.NoError(t, err)
	for _, c := range charges {
		must.NoError(t, w.Write(c))
	}
	must.NoError(t, w.Flush())
	return out.String()
}

func checked(t must.T, text string) {
	found, err := focustest.Check(strings.NewReader(text))
	must.NoError(t, err)
	must.SliceEmpty(t, found)
}

func TestExportIsWhatItWas(t *testing.T) {
	t.Parallel()
	const path = "testdata/export.csv"
	got := export(t, examples())
	checked(t, got)
	if *update {
		must.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	must.NoError(t, err)
	must.Eq(t, string(want), got)
}

// total sums a column of money, in micro-units.
func total(t must.T, text, column string) quantity.Amount {
	records, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	must.NoError(t, err)
	at, sum := slices.Index(records[0], column), quantity.Amount(0)
	for _, r := range records[1:] {
		digits, negative := strings.CutPrefix(strings.Replace(r[at], ".", "", 1), "-")
		amount := quantity.Amount(0)
		for _, d := range digits {
			amount = amount.Mul(10).Add(quantity.Amount(d - '0'))
		}
		if negative {
			amount = -amount
		}
		sum = sum.Add(amount)
	}
	return sum
}

// TestWhateverIsExportedKeepsTheRulesAndAddsUp, to the micro-unit, the millisecond and the
// joule.
func TestWhateverIsExportedKeepsTheRulesAndAddsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var want report.Amounts
		var charges []focus.Charge
		for range rapid.IntRange(0, 12).Draw(t, "charges") {
			c := charge(func(c *focus.Charge) {
				c.Kind = rapid.SampledFrom([]string{ledger.UsageEntry, ledger.CorrectionEntry, ledger.UnallocatedEntry, ledger.TokensEntry, ledger.UngovernedEntry}).Draw(t, "kind")
				c.RateCard = rapid.SampledFrom([]string{"2026", "green", "", "gone"}).Draw(t, "card")
				c.Class = rapid.SampledFrom([]string{"h100", "l40s", ""}).Draw(t, "class")
				c.User = rapid.SampledFrom([]string{"u", ""}).Draw(t, "user")
				c.Job = rapid.SampledFrom([]string{"j", ""}).Draw(t, "job")
				c.Late = rapid.Bool().Draw(t, "late")
				sign := quantity.Amount(1)
				if c.Kind == ledger.CorrectionEntry {
					sign = -1
				}
				amount := func(name string) quantity.Amount {
					return sign * quantity.Amount(rapid.SampledFrom([]int64{0, 1, 7, 999, 3_600_001, 86_400_000, 1_000_000_000_007}).Draw(t, name))
				}
				c.Amounts = report.Amounts{GPUTime: amount("ms"), Cost: amount("cost"), Energy: amount("energy"), OutputTokens: amount("tokens")}
			})
			want = want.Add(c.Amounts)
			charges = append(charges, c)
		}
		text := export(t, charges)
		checked(t, text)
		must.Eq(t, want.Cost, total(t, text, "BilledCost"))
		must.Eq(t, want.Cost, total(t, text, "EffectiveCost"))
		must.Eq(t, want.GPUTime, total(t, text, "x_GpuMilliseconds"))
	})
}

// TestTheCheckFindsWhatIsWrong: a rule that nothing breaks proves nothing.
func TestTheCheckFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	good := export(t, examples()[:1])
	checked(t, good)
	records, err := csv.NewReader(strings.NewReader(good)).ReadAll()
	must.NoError(t, err)
	for name, c := range map[string]struct{ column, value, rule string }{
		"a category":       {"ChargeCategory", "usage", "ChargeCategory is one of the allowed values"},
		"a class":          {"ChargeClass", "Fix", "ChargeClass is one of the allowed values"},
		"a currency":       {"BillingCurrency", "Dollar", "BillingCurrency is a code of ISO 4217"},
		"no account":       {"BillingAccountId", "", "BillingAccountId is not null"},
		"a comma":          {"BilledCost", "1,000", "BilledCost is a plain decimal"},
		"a zone":           {"ChargePeriodStart", "2026-03-09T00:00:00+01:00", "ChargePeriodStart is in UTC and ISO 8601"},
		"an end before":    {"ChargePeriodEnd", "2026-03-08T00:00:00Z", "ChargePeriodEnd is exclusive, and after the start"},
		"another month":    {"BillingPeriodEnd", "2026-03-05T00:00:00Z", "the charge period of usage is in the billing period"},
		"no quantity":      {"PricingQuantity", "", "PricingQuantity is not null for usage"},
		"another quantity": {"PricingQuantity", "47", "PricingQuantity times ListUnitPrice is ListCost"},
		"dear":             {"EffectiveCost", "139.300000", "list cost is no less than contracted, and that no less than effective cost"},
		"a reservation":    {"CapacityReservationStatus", "Unused", "CapacityReservationStatus is null where CapacityReservationId is, and nowhere else"},
		"a subcategory":    {"ServiceSubcategory", "Generative AI", "ServiceSubcategory is one of the category's"},
		"tags":             {"Tags", "team=x", "Tags are a JSON object"},
		"a tag":            {"Tags", `{"team":"x"}`, "tags that the provider defines have its prefix"},
		"a unit":           {"PricingUnit", "GPU hours!", "PricingUnit is a unit, or a number of units"},
		"an adjustment":    {"ChargeCategory", "Adjustment", "ConsumedQuantity is null but for usage"},
	} {
		broken := [][]string{records[0], slices.Clone(records[1])}
		broken[1][slices.Index(records[0], c.column)] = c.value
		var rules []string
		for _, v := range violations(t, broken) {
			rules = append(rules, v.Rule)
			must.StrContains(t, v.String(), v.Source)
		}
		must.SliceContains(t, rules, c.rule, must.Sprint(name))
	}
	head := slices.Clone(records[0])
	head[0], head[1] = "Cost", "ServiceName"
	var rules []string
	for _, v := range violations(t, [][]string{head}) {
		rules = append(rules, v.Rule)
	}
	must.SliceContainsSubset(t, rules, []string{"BilledCost is there", "columns that are not in the specification begin with x_", "each column is there once"})
}

func violations(t *testing.T, records [][]string) []focustest.Violation {
	var text bytes.Buffer
	must.NoError(t, csv.NewWriter(&text).WriteAll(records))
	found, err := focustest.Check(&text)
	must.NoError(t, err)
	return found
}
