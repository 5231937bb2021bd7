package budget_test

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/shoenig/test/must"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing")

// written is a condition that is only ever printed.
type written string

func (written) Holds(budget.Facts) (bool, error) { return false, nil }
func (written) Uses(string) bool                 { return false }
func (w written) String() string                 { return string(w) }

// complete is a policy in which nothing is left out.
func complete() *budget.Policy {
	at := budget.Source{File: "a.hcl", Line: 1}
	bound := func(a quantity.Amount) *budget.JobLimit {
		return &budget.JobLimit{Ceiling: quantity.LimitOf(a), Source: at}
	}
	number := func(n int) *int { return &n }
	most := 7 * quantity.GPUHour
	root := &budget.Budget{
		Name: "acme", Path: "acme", Description: "everything", Owner: "ops", Lease: 24 * time.Hour, Admit: budget.AdmitQueue, Source: at,
		Match: &budget.Match{Namespaces: []string{"a-*"}, Identities: []string{"role:x"}, NodePools: []string{"large"}, When: written(`job.type == "batch"`), Source: at},
		Limits: []budget.Limit{
			{Window: budget.Concurrent, Dimension: budget.GPUs("h100"), Ceiling: quantity.LimitOf(64 * quantity.GPU), Source: at},
			{Window: budget.Month, Dimension: budget.Cost, Ceiling: quantity.LimitOf(1_000_000_001), Rollover: &budget.Rollover{Share: 100_000, Periods: 1, Source: at}, Source: at},
			{Window: budget.Month, Dimension: budget.GPUTime("any"), Ceiling: quantity.LimitOf(1_200_000), Rollover: &budget.Rollover{Most: &most, Periods: 3, Source: at}, Source: at},
			{Window: budget.Month, Dimension: budget.Tokens(budget.OutputTokens), Ceiling: quantity.LimitOf(1_000), Source: at},
			{Window: budget.Month, Dimension: budget.Energy, Ceiling: quantity.LimitOf(5 * quantity.KWh), Source: at},
		},
		PerJob: budget.PerJob{
			GPUs: bound(16 * quantity.GPU), GPUTime: bound(quantity.GPUHour), Cost: bound(3_000_000), Energy: bound(quantity.KWh),
			MaxRuntime: 72 * time.Hour, MaxRuntimeSource: at, DefaultRuntime: 4 * time.Hour, Reschedules: number(2),
		},
		Rules: budget.Rules{
			Enforcement: budget.SoftMandatory, Priority: number(40), Cohort: "pool",
			Borrow:    map[string]quantity.Amount{"h100": 32 * quantity.GPU},
			Lend:      map[string]quantity.Limit{"h100": quantity.LimitOf(48 * quantity.GPU)},
			Reclaim:   &budget.Reclaim{AnyPriority: true, Grace: 10 * time.Minute, MinRuntime: 5 * time.Minute},
			Committed: []budget.Limit{{Window: budget.Committed, Dimension: budget.GPUTime("h100"), Ceiling: quantity.LimitOf(9 * quantity.GPUHour), Source: at}},
			Soft:      800_000, Running: budget.StopRunning,
			Throttle:  &budget.Throttle{MinCount: 1, Step: 250_000, Every: 10 * time.Minute},
			Stop:      &budget.Stop{Signal: "SIGUSR1", Grace: 15 * time.Minute, Then: "stop"},
			Queue:     &budget.Queue{Order: budget.ByPriority, Timeout: 48 * time.Hour, Source: at},
			FairShare: &budget.FairShare{Weight: 3, HalfLife: 168 * time.Hour},
			Overrides: []budget.Override{{
				Name: "break-glass", Who: []string{"role:oncall"}, Max: map[budget.Dimension]quantity.Amount{budget.Cost: 5_000_000_000}, Expires: 8 * time.Hour,
				ReasonRequired: true, Approvals: 1, Notify: []string{"webhook.finops"}, Source: at,
			}},
			PerRun: &budget.PerRun{
				Caps: map[budget.Dimension]budget.JobLimit{budget.Jobs: *bound(12)}, Concurrency: 2, WallClock: 6 * time.Hour, Source: at,
			},
			Alerts:  []budget.Alert{{Name: "fast_burn", When: written(`burn_rate("1h") > 14`), Notify: []string{"webhook.finops"}, Source: at}},
			MaxIdle: 30 * time.Minute, Undeclared: budget.UndeclaredDeny, Placement: budget.PlacementPrefer,
		},
	}
	return &budget.Policy{
		Enforcement: budget.Shadow, Unmatched: budget.UnmatchedAllow, OutOfBand: budget.OutOfBandReport, Location: time.UTC, Currency: "EUR",
		Meter:   budget.Meter{Basis: budget.Running, Interval: time.Minute, Idle: budget.IdleOwner},
		Classes: []budget.Class{{Name: "mig", Devices: []string{"nvidia/mig/1g"}, Watts: 100, Shares: []budget.Share{{Class: "h100", Parts: 720}}, Source: at}},
		RateCards: []budget.RateCard{{
			Name: "2026", EffectiveFrom: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), PerGPUHour: map[string]quantity.Amount{"h100": 2_900_000},
			Energy:    &budget.EnergyRate{PerKWh: 210_000, PUE: 1_300_000, Source: at},
			Tokens:    map[string]budget.TokenRate{"llama": {PerMillion: map[budget.TokenKind]quantity.Amount{budget.OutputTokens: 400_000}, Source: at}},
			Modifiers: []budget.Modifier{{Name: "night", When: written("schedule.night"), Multiply: 600_000, Source: at}},
			Source:    at,
		}},
		Schedules: []budget.Schedule{{Name: "night", Days: [7]bool{true}, Start: 1200, End: 360, Source: at}},
		Notifiers: []budget.Notifier{{Kind: "webhook", Name: "finops", URL: "https://x.example", Format: "cloudevents", SecretEnv: "SECRET", Events: []string{"budget.*"}, Budgets: []string{"acme"}, Source: at}},
		Asserts:   []budget.Assert{{Name: "pin", Condition: written("true"), Message: "Name the model.", Source: at}},
		Moves:     []budget.Move{{From: "old", To: "acme", Source: at}},
		Roots:     []*budget.Budget{root},
	}
}

// unseen are the fields that are no settings: where things stand, what follows
// from others, and what has one value only.
func unseen() []string {
	return []string{"Revision", "Source", "Parent", "Children", "MaxRuntimeSource", "Then"}
}

// leaves visits every field of a value that is not taken apart, and every one
// that must not be at its zero value in a complete policy.
func leaves(path string, v reflect.Value, visit func(path string, leaf reflect.Value)) {
	switch v.Interface().(type) {
	case *time.Location, time.Time, quantity.Limit, budget.Condition:
		visit(path, v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		switch {
		case !v.IsNil():
			leaves(path, v.Elem(), visit)
		case !rollover(path):
			visit(path, v) // and is found to be missing
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; !slices.Contains(unseen(), name) {
				leaves(path+"."+name, v.Field(i), visit)
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			leaves(fmt.Sprintf("%s[%d]", path, i), v.Index(i), visit)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			// A map's elements cannot be set in place.
			element := reflect.New(v.Type().Elem()).Elem()
			element.Set(v.MapIndex(key))
			leaves(fmt.Sprintf("%s[%s]", path, key), element, func(at string, leaf reflect.Value) {
				visit(at, leaf)
				v.SetMapIndex(key, element)
			})
		}
	default:
		visit(path, v)
	}
}

// rollover reports whether a field belongs to a rollover: only some limits have
// one, and it has either a share or an amount.
func rollover(path string) bool { return strings.Contains(path, ".Rollover") }

// change gives a leaf another value of its type.
func change(path string, v reflect.Value) {
	switch x := v.Interface().(type) {
	case *time.Location:
		v.Set(reflect.ValueOf(time.FixedZone("Mars", 60)))
		return
	case time.Time:
		v.Set(reflect.ValueOf(x.Add(time.Second)))
		return
	case quantity.Limit:
		amount, _ := x.Finite()
		v.Set(reflect.ValueOf(quantity.LimitOf(amount + 1)))
		return
	case budget.Condition:
		v.Set(reflect.ValueOf(written(x.String() + " || false")))
		return
	}
	switch v.Kind() {
	case reflect.String:
		if strings.HasSuffix(path, "Dimension") {
			v.SetString(string(budget.GPUTime("other")))
			return
		}
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		step := int64(1)
		if strings.HasSuffix(v.Type().String(), "Duration") {
			step = int64(time.Millisecond)
		}
		v.SetInt(v.Int() + step)
	case reflect.Uint8:
		v.SetUint(v.Uint() ^ 1)
	default:
		panic("cannot change " + path)
	}
}

// Whatever a policy says appears in its settings, so that a plan shows every
// change, however small.
func TestEveryFieldIsASetting(t *testing.T) {
	t.Parallel()
	var paths []string
	leaves("", reflect.ValueOf(complete()), func(path string, leaf reflect.Value) {
		zero := strings.Contains(path, "Days[") || strings.HasSuffix(path, "Limits[0].Window") || rollover(path) // some days, and Concurrent
		must.False(t, leaf.IsZero() && !zero, must.Sprintf("%s is not set in the complete policy", path))
		if !leaf.IsZero() || !rollover(path) {
			paths = append(paths, path)
		}
	})
	must.Greater(t, 90, len(paths))
	for _, path := range paths {
		if path == ".Roots[0].Name" {
			continue // the end of the path
		}
		changed := complete()
		leaves("", reflect.ValueOf(changed), func(at string, leaf reflect.Value) {
			if at == path {
				change(at, leaf)
			}
		})
		must.SliceNotEmpty(t, budget.Compare(complete(), changed), must.Sprintf("a change of %s is not seen", path))
	}
	must.SliceEmpty(t, budget.Compare(complete(), complete()))
}

func TestSettingsOfACompletePolicy(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	keys := map[string]bool{}
	for _, s := range complete().Settings() {
		must.False(t, keys[s.Block+"\n"+s.Name], must.Sprintf("%s %s comes twice", s.Block, s.Name))
		keys[s.Block+"\n"+s.Name] = true
		if s.Name == "" {
			fmt.Fprintf(&out, "%s\n", s.Block)
			continue
		}
		fmt.Fprintf(&out, "  %s: %s\n", s.Name, s.Value)
	}
	const path = "testdata/settings.golden"
	if *update {
		must.NoError(t, os.WriteFile(path, []byte(out.String()), 0o600))
	}
	want, err := os.ReadFile(path)
	must.NoError(t, err)
	must.Eq(t, string(want), out.String())
}
