package budgetspec_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/zclconf/go-cty/cty"
)

// inLanguage is a policy in the language: what the parser is compared with.
// Where indirect says so, a value stands in a variable or a local.
func inLanguage(p *budget.Policy, indirect func() bool) string {
	w := &writer{indirect: indirect}
	w.block("governor", func() {
		w.word("enforcement", int(p.Enforcement), "enforce", "shadow")
		w.word("unmatched", int(p.Unmatched), "deny", "allow")
		w.word("out_of_band", int(p.OutOfBand), "govern", "report")
		w.text("timezone", p.Location.String())
		w.text("currency", p.Currency)
		w.block("meter", func() {
			w.word("basis", int(p.Meter.Basis), "allocated", "running")
			w.span("interval", p.Meter.Interval)
			w.word("idle", int(p.Meter.Idle), "shared", "owner", "none")
		})
	})
	for _, c := range p.Classes {
		w.block("gpu_class "+quoted(c.Name), func() {
			w.texts("devices", c.Devices)
			if c.Watts != 0 {
				w.set("watts", strconv.FormatInt(c.Watts, 10))
			}
			parts := map[string]string{}
			for _, s := range c.Shares {
				parts[s.Class] = number(s.Parts, quantity.GPU)
			}
			w.object("share", parts)
		})
	}
	for _, c := range p.RateCards {
		w.rateCard(c)
	}
	w.others(p)
	for _, b := range p.Roots {
		w.budget(b)
	}
	return strings.Join(append(w.lines, w.declared...), "\n") + "\n"
}

type writer struct {
	lines []string
	depth int
	// indirect says whether the next value is declared elsewhere; declared are the
	// blocks that do.
	indirect func() bool
	declared []string
}

func (w *writer) line(text string) {
	w.lines = append(w.lines, strings.Repeat("  ", w.depth)+text)
}

func (w *writer) set(name, value string) {
	if name != "when" && name != "condition" && w.indirect() {
		n := len(w.declared)
		if n%2 == 0 || strings.Contains(value, "notify.") {
			w.declared = append(w.declared, fmt.Sprintf("locals {\n  v%d = %s\n}", n, value))
			value = fmt.Sprintf("local.v%d", n)
		} else {
			w.declared = append(w.declared, fmt.Sprintf("variable \"v%d\" {\n  default = %s\n}", n, value))
			value = fmt.Sprintf("var.v%d", n)
		}
	}
	w.line(name + " = " + value)
}

// block writes nothing where the body is empty: a block without effect is an
// error.
func (w *writer) block(header string, body func()) {
	before := len(w.lines)
	w.line(header + " {")
	w.depth++
	body()
	w.depth--
	if len(w.lines) == before+1 {
		w.lines = w.lines[:before]
		return
	}
	w.line("}")
}

// quoted is a text as the language quotes it.
func quoted(text string) string {
	return string(hclwrite.TokensForValue(cty.StringVal(text)).Bytes())
}

func (w *writer) text(name, text string) {
	if text != "" {
		w.set(name, quoted(text))
	}
}

func (w *writer) texts(name string, texts []string) {
	var all []string
	for _, t := range texts {
		all = append(all, quoted(t))
	}
	if len(all) > 0 {
		w.set(name, "["+strings.Join(all, ", ")+"]")
	}
}

// word is one of a few words, by a number that begins at zero.
func (w *writer) word(name string, n int, words ...string) {
	if words[n] != "" {
		w.text(name, words[n])
	}
}

func (w *writer) span(name string, d time.Duration) {
	if d != 0 {
		w.text(name, d.String())
	}
}

// spanOrNone writes zero as "none".
func (w *writer) spanOrNone(name string, d time.Duration) {
	if d == 0 {
		w.text(name, "none")
	}
	w.span(name, d)
}

// number is an amount in units: a decimal number where it is one, else a quotient.
func number(a, unit quantity.Amount) string {
	switch {
	case a == 0:
		return `"none"`
	case unit == quantity.CurrencyUnit:
		return fmt.Sprintf("%d.%06d", a/unit, a%unit)
	case a%unit == 0:
		return strconv.FormatInt(int64(a/unit), 10)
	}
	return fmt.Sprintf("%d / %d", a, unit)
}

func limit(l quantity.Limit, unit quantity.Amount) string {
	amount, finite := l.Finite()
	if !finite {
		return `"unlimited"`
	}
	return number(amount, unit)
}

func (w *writer) object(name string, values map[string]string) {
	if text := object(values); text != "" {
		w.set(name, text)
	}
}

func object(values map[string]string) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		all = append(all, quoted(key)+" = "+values[key])
	}
	if len(all) == 0 {
		return ""
	}
	return "{ " + strings.Join(all, ", ") + " }"
}

func percent(r quantity.Ratio) string {
	return fmt.Sprintf("\"%d.%04d%%\"", r/10_000, r%10_000)
}

// unitOf is what the language calls a dimension, its key in a map or "", and the
// unit it counts in.
func unitOf(d budget.Dimension) (name, key string, unit quantity.Amount) {
	switch {
	case d == budget.Cost:
		return "cost", "", quantity.CurrencyUnit
	case d == budget.Energy:
		return "energy", "", quantity.KWh
	case d == budget.Jobs:
		return "jobs", "", 1
	case d.IsTokens():
		return "tokens", d.Class(), 1
	case d.IsGPUTime():
		return "gpu_hours", d.Class(), quantity.GPUHour
	}
	return "gpus", d.Class(), quantity.GPU
}

// amounts are values by dimension as the attributes that set them.
func (w *writer) amounts(limits map[budget.Dimension]quantity.Limit) {
	for name, text := range sortedMap(attributes(limits)) {
		w.set(name, text)
	}
}

func attributes(limits map[budget.Dimension]quantity.Limit) map[string]string {
	plain, maps := map[string]string{}, map[string]map[string]string{}
	for d, l := range limits {
		name, key, unit := unitOf(d)
		if key == "" {
			plain[name] = limit(l, unit)
			continue
		}
		if maps[name] == nil {
			maps[name] = map[string]string{}
		}
		maps[name][key] = limit(l, unit)
	}
	for name, values := range maps {
		plain[name] = object(values)
		if all, alone := values[budget.AnyClass]; alone && len(values) == 1 {
			plain[name] = all // a plain amount is for all classes
		}
	}
	return plain
}

func sortedMap(values map[string]string) func(func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for _, key := range slices.Sorted(maps.Keys(values)) {
			if !yield(key, values[key]) {
				return
			}
		}
	}
}

func finite(amounts map[budget.Dimension]quantity.Amount) map[budget.Dimension]quantity.Limit {
	limits := map[budget.Dimension]quantity.Limit{}
	for d, a := range amounts {
		limits[d] = quantity.LimitOf(a)
	}
	return limits
}

// others are the blocks beside classes, prices and budgets.
func (w *writer) others(p *budget.Policy) {
	for _, s := range p.Schedules {
		w.block("schedule "+quoted(s.Name), func() {
			var days []string
			for day, on := range s.Days {
				if on {
					days = append(days, strings.ToLower(time.Weekday(day).String()[:3]))
				}
			}
			w.texts("days", days)
			w.text("start", fmt.Sprintf("%02d:%02d", s.Start/60, s.Start%60))
			w.text("end", fmt.Sprintf("%02d:%02d", s.End/60, s.End%60))
		})
	}
	for _, n := range p.Notifiers {
		w.block("notify "+quoted(n.Kind)+" "+quoted(n.Name), func() {
			w.text("url", n.URL)
			w.text("format", n.Format)
			w.text("secret_env", n.SecretEnv)
			w.texts("events", n.Events)
			w.texts("budgets", n.Budgets)
		})
	}
	for _, a := range p.Asserts {
		w.block("assert "+quoted(a.Name), func() {
			w.set("condition", a.Condition.String())
			w.text("error_message", a.Message)
		})
	}
	for _, m := range p.Moves {
		w.block("moved", func() {
			w.text("from", m.From)
			w.text("to", m.To)
		})
	}
}

func (w *writer) notify(names []string) {
	var all []string
	for _, name := range names {
		all = append(all, "notify."+name)
	}
	if len(all) > 0 {
		w.set("notify", "["+strings.Join(all, ", ")+"]")
	}
}

func (w *writer) rateCard(c budget.RateCard) {
	w.block("rate_card "+quoted(c.Name), func() {
		w.text("effective_from", c.EffectiveFrom.Format(time.RFC3339))
		for _, class := range slices.Sorted(maps.Keys(c.PerGPUHour)) {
			w.block("gpu "+quoted(class), func() { w.set("per_hour", number(c.PerGPUHour[class], quantity.CurrencyUnit)) })
		}
		if e := c.Energy; e != nil {
			w.block("energy", func() {
				w.set("per_kwh", number(e.PerKWh, quantity.CurrencyUnit))
				w.set("pue", number(quantity.Amount(e.PUE), quantity.Amount(quantity.RatioOne)))
			})
		}
		for _, model := range slices.Sorted(maps.Keys(c.Tokens)) {
			w.block("tokens "+quoted(model), func() {
				for kind, price := range c.Tokens[model].PerMillion {
					w.set(string(kind)+"_per_million", number(price, quantity.CurrencyUnit))
				}
			})
		}
		for _, m := range c.Modifiers {
			w.block("modifier "+quoted(m.Name), func() {
				w.set("when", m.When.String())
				w.set("multiply", number(quantity.Amount(m.Multiply), quantity.Amount(quantity.RatioOne)))
			})
		}
	})
}

func (w *writer) budget(b *budget.Budget) {
	before := len(w.lines)
	w.block("budget "+quoted(b.Name), func() {
		w.text("description", b.Description)
		w.text("owner", b.Owner)
		w.span("lease", b.Lease)
		w.word("enforcement", int(b.Enforcement), "", "advisory", "soft-mandatory", "hard-mandatory")
		w.word("undeclared_gpus", int(b.Undeclared), "", "deny", "allow")
		w.text("cohort", b.Cohort)
		w.span("max_idle", b.MaxIdle)
		if b.Soft != 0 {
			w.set("soft", percent(b.Soft))
		}
		if b.Priority != nil {
			w.set("priority", strconv.Itoa(*b.Priority))
		}
		if b.Placement != budget.PlacementInherit {
			w.block("placement", func() { w.word("mode", int(b.Placement), "", "require", "prefer", "off") })
		}
		if m := b.Match; m != nil {
			w.block("match", func() {
				w.texts("namespaces", m.Namespaces)
				w.texts("identities", m.Identities)
				w.texts("node_pools", m.NodePools)
				if m.When != nil {
					w.set("when", m.When.String())
				}
			})
		}
		w.limits(b)
		w.perJob(b.PerJob)
		w.rules(b)
		for _, child := range b.Children {
			w.budget(child)
		}
	})
	if len(w.lines) == before { // a budget may say nothing
		w.line("budget " + quoted(b.Name) + " {}")
	}
}

func (w *writer) limits(b *budget.Budget) {
	byWindow := map[budget.Window]map[budget.Dimension]quantity.Limit{}
	rollovers := map[budget.Window]map[budget.Dimension]*budget.Rollover{}
	for _, l := range slices.Concat(b.Limits, b.Committed) {
		if byWindow[l.Window] == nil {
			byWindow[l.Window], rollovers[l.Window] = map[budget.Dimension]quantity.Limit{}, map[budget.Dimension]*budget.Rollover{}
		}
		byWindow[l.Window][l.Dimension] = l.Ceiling
		if l.Rollover != nil {
			rollovers[l.Window][l.Dimension] = l.Rollover
		}
	}
	for window := budget.Hour; window <= budget.Committed; window++ {
		header := "limit " + quoted(window.String())
		if window == budget.Committed {
			header = "max_committed"
		}
		w.block(header, func() {
			w.amounts(byWindow[window])
			w.rollover(window, rollovers[window])
		})
	}
	w.block("concurrent", func() {
		w.amounts(byWindow[budget.Concurrent])
		borrow, lend := map[string]string{}, map[string]string{}
		for class, most := range b.Borrow {
			borrow[class] = number(most, quantity.GPU)
		}
		for class, most := range b.Lend {
			lend[class] = limit(most, quantity.GPU)
		}
		w.object("borrow", borrow)
		w.object("lend", lend)
		if r := b.Reclaim; r != nil {
			w.block("reclaim", func() {
				w.text("from", map[bool]string{true: "any", false: "lower_priority"}[r.AnyPriority])
				w.spanOrNone("grace", r.Grace)
				w.spanOrNone("min_runtime", r.MinRuntime)
			})
		}
	})
}

func (w *writer) rollover(window budget.Window, rules map[budget.Dimension]*budget.Rollover) {
	w.block("rollover", func() {
		most := map[budget.Dimension]quantity.Limit{}
		var last *budget.Rollover
		for d, r := range rules {
			last = r
			if r.Most != nil {
				most[d] = quantity.LimitOf(*r.Most)
			}
		}
		if last == nil {
			return
		}
		if last.Share != 0 {
			w.set("carry", percent(last.Share))
		}
		w.object("max", attributes(most))
		w.text("expires", fmt.Sprintf("%d %ss", last.Periods, window))
	})
}

func (w *writer) perJob(j budget.PerJob) {
	w.block("per_job", func() {
		for _, bound := range []struct {
			name string
			set  *budget.JobLimit
			unit quantity.Amount
		}{{"gpus", j.GPUs, quantity.GPU}, {"gpu_hours", j.GPUTime, quantity.GPUHour}, {"cost", j.Cost, quantity.CurrencyUnit}, {"energy", j.Energy, quantity.KWh}} {
			if bound.set != nil {
				w.set(bound.name, limit(bound.set.Ceiling, bound.unit))
			}
		}
		w.span("max_runtime", j.MaxRuntime)
		w.span("default_runtime", j.DefaultRuntime)
		if j.Reschedules != nil {
			w.set("reschedules", strconv.Itoa(*j.Reschedules))
		}
	})
}

func (w *writer) rules(b *budget.Budget) {
	w.block("over_budget", func() {
		w.word("admit", int(b.Admit), "", "deny", "warn", "queue")
		w.word("running", int(b.Running), "", "let_finish", "throttle", "stop")
		if t := b.Throttle; t != nil {
			w.block("throttle", func() {
				w.set("min_count", strconv.Itoa(t.MinCount))
				w.set("step", percent(t.Step))
				w.span("every", t.Every)
			})
		}
		if s := b.Stop; s != nil {
			w.block("stop", func() {
				w.text("signal", s.Signal)
				if s.Signal == "" {
					w.text("signal", "none")
				}
				w.spanOrNone("grace", s.Grace)
				w.text("then", s.Then)
			})
		}
	})
	if q := b.Queue; q != nil {
		w.block("queue", func() {
			w.word("order", int(q.Order), "fifo", "priority", "fair_share")
			w.span("timeout", q.Timeout)
		})
	}
	if f := b.FairShare; f != nil {
		w.block("fair_share", func() {
			w.set("weight", strconv.FormatInt(f.Weight, 10))
			w.span("half_life", f.HalfLife)
		})
	}
	for _, o := range b.Overrides {
		w.override(o)
	}
	for _, a := range b.Alerts {
		w.block("alert "+quoted(a.Name), func() {
			w.set("when", a.When.String())
			w.notify(a.Notify)
		})
	}
	if r := b.PerRun; r != nil {
		caps := map[budget.Dimension]quantity.Limit{}
		for d, c := range r.Caps {
			caps[d] = c.Ceiling
		}
		w.block("per_run", func() {
			w.amounts(caps)
			w.set("concurrency", strconv.Itoa(r.Concurrency))
			w.span("wall_clock", r.WallClock)
		})
	}
}

func (w *writer) override(o budget.Override) {
	w.block("override "+quoted(o.Name), func() {
		w.texts("who", o.Who)
		w.object("max", attributes(finite(o.Max)))
		w.span("expires", o.Expires)
		w.text("reason", map[bool]string{true: "required", false: "optional"}[o.ReasonRequired])
		w.set("approval", strconv.Itoa(o.Approvals))
		w.notify(o.Notify)
	})
}
