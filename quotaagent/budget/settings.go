package budget

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
)

// Setting is one thing that a policy says and that a decision can depend on, in
// words.
type Setting struct {
	// Block is where it stands: "budget acme/research", "rate_card 2026".
	Block string `json:"block"`
	// Name is what it sets, such as "limit month cost"; "" for the block itself.
	Name  string `json:"name,omitempty"`
	Value string `json:"value,omitempty"`
	// Source is the file and line, as far as it is known.
	Source Source `json:"-"`
}

// Settings are all settings of a policy. Blocks come in the order governor,
// gpu_class, rate_card, schedule, notify, budget, assert, moved; each begins with
// the block itself. No two have the same block and name.
func (p *Policy) Settings() []Setting {
	l := &lister{currency: p.Currency}
	l.governor(p)
	for _, c := range p.Classes {
		l.class(c)
	}
	for _, c := range p.RateCards {
		l.rateCard(c)
	}
	for _, s := range p.Schedules {
		l.open("schedule "+s.Name, s.Source)
		l.set("when", s.text())
	}
	for _, n := range p.Notifiers {
		l.open("notify "+n.Kind+" "+n.Name, n.Source)
		l.set("url", n.URL)
		l.set("format", n.Format)
		l.set("secret_env", n.SecretEnv)
		l.set("events", strings.Join(n.Events, ", "))
		l.set("budgets", strings.Join(n.Budgets, ", "))
	}
	p.Walk(l.budget)
	for _, a := range p.Asserts {
		l.open("assert "+a.Name, a.Source)
		l.set("condition", a.Condition.String())
		l.set("error_message", a.Message)
	}
	for _, m := range p.Moves {
		l.open("moved "+m.From, m.Source)
		l.set("to", m.To)
	}
	return l.out
}

// Settings are what this budget itself says, the block first.
func (b *Budget) Settings(currency string) []Setting {
	l := &lister{currency: currency}
	l.budget(b)
	return l.out
}

// Settings are what the card says, the block first.
func (c RateCard) Settings(currency string) []Setting {
	l := &lister{currency: currency}
	l.rateCard(c)
	return l.out
}

type lister struct {
	currency, block string
	at              Source
	out             []Setting
}

func (l *lister) open(block string, at Source) {
	l.block, l.at = block, at
	l.out = append(l.out, Setting{Block: block, Source: at})
}

// set adds a setting; an empty value is one that is not set.
func (l *lister) set(name, value string) { l.setAt(name, value, l.at) }

func (l *lister) setAt(name, value string, at Source) {
	if value == "" {
		return
	}
	if at == (Source{}) {
		at = l.at
	}
	l.out = append(l.out, Setting{Block: l.block, Name: name, Value: value, Source: at})
}

func (l *lister) span(name string, d time.Duration) { l.set(name, FormatDuration(d)) }

func (l *lister) amounts(name string, amounts map[Dimension]quantity.Amount, at Source) {
	for _, d := range slices.Sorted(maps.Keys(amounts)) {
		l.setAt(name+" "+d.Key(), d.exactly(amounts[d], l.currency), at)
	}
}

func (l *lister) governor(p *Policy) {
	l.open("governor", Source{})
	l.set("enforcement", [...]string{"enforce", "shadow"}[p.Enforcement])
	l.set("unmatched", [...]string{"deny", "allow"}[p.Unmatched])
	l.set("out_of_band", [...]string{"govern", "report"}[p.OutOfBand])
	if p.Location != nil {
		l.set("timezone", p.Location.String())
	}
	l.set("currency", p.Currency)
	l.set("meter basis", [...]string{"allocated", "running"}[p.Meter.Basis])
	l.span("meter interval", cmp.Or(p.Meter.Interval, DefaultInterval))
	l.set("meter idle", [...]string{"shared", "owner", "none"}[p.Meter.Idle])
}

func (l *lister) class(c Class) {
	l.open("gpu_class "+c.Name, c.Source)
	l.set("devices", strings.Join(slices.Sorted(slices.Values(c.Devices)), ", "))
	if c.Watts > 0 {
		l.set("watts", strconv.FormatInt(c.Watts, 10))
	}
	for _, s := range c.Shares {
		l.set("share "+s.Class, quantity.FormatExact(s.Parts, quantity.GPU))
	}
}

func (l *lister) rateCard(c RateCard) {
	l.open("rate_card "+c.Name, c.Source)
	l.set("effective_from", c.EffectiveFrom.UTC().Format(time.RFC3339))
	for _, class := range slices.Sorted(maps.Keys(c.PerGPUHour)) {
		l.set("gpu "+class, l.price(c.PerGPUHour[class])+" per GPU-hour")
	}
	if e := c.Energy; e != nil {
		l.setAt("energy", l.price(e.PerKWh)+" per kWh", e.Source)
		l.setAt("energy pue", quantity.FormatExact(quantity.Amount(e.PUE), quantity.Amount(quantity.RatioOne)), e.Source)
	}
	for _, model := range slices.Sorted(maps.Keys(c.Tokens)) {
		for _, kind := range TokenKinds() {
			if price, ok := c.Tokens[model].PerMillion[kind]; ok {
				l.setAt(fmt.Sprintf("tokens %s %s", model, kind), l.price(price)+" per million", c.Tokens[model].Source)
			}
		}
	}
	for _, m := range c.Modifiers {
		l.setAt("modifier "+m.Name, fmt.Sprintf("x %s when %s", quantity.FormatExact(quantity.Amount(m.Multiply), quantity.Amount(quantity.RatioOne)), m.When), m.Source)
	}
}

func (l *lister) price(a quantity.Amount) string { return Cost.exactly(a, l.currency) }

// exactly is Format without rounding: of a price all decimals, and at least two;
// what has no short decimals as a fraction, "1/3 GPU-hours". So no change of a
// setting goes unseen.
func (d Dimension) exactly(a quantity.Amount, currency string) string {
	switch {
	case d == Cost:
		text := quantity.FormatExact(a, quantity.CurrencyUnit)
		_, decimals, _ := strings.Cut(text, ".")
		switch len(decimals) {
		case 0:
			text += ".00"
		case 1:
			text += "0"
		}
		return text + " " + currency
	case d == Energy:
		return quantity.FormatExact(a, quantity.KWh) + " kWh"
	case d.IsGPUTime():
		return quantity.FormatExact(a, quantity.GPUHour) + " GPU-hours"
	case d.IsGPUs() && a != quantity.GPU:
		return quantity.FormatExact(a, quantity.GPU) + " GPUs"
	}
	return d.Format(a, currency)
}

// limit is a ceiling without rounding, or "unlimited".
func (d Dimension) limit(l quantity.Limit, currency string) string {
	amount, finite := l.Finite()
	if !finite {
		return "unlimited"
	}
	return d.exactly(amount, currency)
}

func (s Schedule) text() string {
	var days []string
	for i := range s.Days {
		if day := (i + 1) % len(s.Days); s.Days[day] { // weeks begin on Monday
			days = append(days, strings.ToLower(time.Weekday(day).String()[:3]))
		}
	}
	return fmt.Sprintf("%s %02d:%02d to %02d:%02d", strings.Join(days, ", "), s.Start/60, s.Start%60, s.End/60, s.End%60)
}

func (l *lister) budget(b *Budget) {
	l.open("budget "+b.Path, b.Source)
	l.set("description", b.Description)
	l.set("owner", b.Owner)
	if m := b.Match; m != nil {
		l.setAt("match namespaces", strings.Join(m.Namespaces, ", "), m.Source)
		l.setAt("match identities", strings.Join(m.Identities, ", "), m.Source)
		l.setAt("match node_pools", strings.Join(m.NodePools, ", "), m.Source)
		if m.When != nil {
			l.setAt("match when", m.When.String(), m.Source)
		}
	}
	l.limits(b)
	l.perJob(b.PerJob)
	l.span("lease", b.Lease)
	l.set("over_budget admit", b.Admit.word())
	l.rules(b)
}

func (l *lister) limits(b *Budget) {
	for _, limits := range [][]Limit{b.Limits, b.Committed} {
		for _, limit := range limits {
			name := "limit " + limit.Window.String() + " " + limit.Dimension.Key()
			if limit.Window == Concurrent {
				name = "concurrent " + limit.Dimension.Key()
			}
			if limit.Window == Committed {
				name = "max_committed " + limit.Dimension.Key()
			}
			l.setAt(name, limit.Dimension.limit(limit.Ceiling, l.currency), limit.Source)
			if r := limit.Rollover; r != nil {
				l.setAt(name+" rollover", r.text(limit.Dimension, l.currency), r.Source)
			}
		}
	}
	for _, class := range slices.Sorted(maps.Keys(b.Borrow)) {
		l.set("concurrent borrow "+class, GPUs(class).exactly(b.Borrow[class], l.currency))
	}
	for _, class := range slices.Sorted(maps.Keys(b.Lend)) {
		l.set("concurrent lend "+class, GPUs(class).limit(b.Lend[class], l.currency))
	}
	if r := b.Reclaim; r != nil {
		from := "lower_priority"
		if r.AnyPriority {
			from = "any"
		}
		l.set("reclaim", fmt.Sprintf("from %s, grace %s, not before %s", from, orNone(FormatDuration(r.Grace)), cmp.Or(FormatDuration(r.MinRuntime), "0s")))
	}
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func (r Rollover) text(d Dimension, currency string) string {
	carry := r.Share.String()
	if r.Most != nil {
		carry = "at most " + d.exactly(*r.Most, currency)
	}
	if periods := max(1, r.Periods); periods > 1 {
		return fmt.Sprintf("carry %s for %d periods", carry, periods)
	}
	return "carry " + carry + " for 1 period"
}

func (l *lister) perJob(j PerJob) {
	bound := func(name string, d Dimension, b *JobLimit) {
		if b != nil {
			l.setAt("per_job "+name, d.limit(b.Ceiling, l.currency), b.Source)
		}
	}
	bound("gpus", GPUs(AnyClass), j.GPUs)
	bound("gpu_hours", GPUTime(AnyClass), j.GPUTime)
	bound("cost", Cost, j.Cost)
	bound("energy", Energy, j.Energy)
	l.setAt("per_job max_runtime", FormatDuration(j.MaxRuntime), j.MaxRuntimeSource)
	l.span("per_job default_runtime", j.DefaultRuntime)
	if j.Reschedules != nil {
		l.set("per_job reschedules", strconv.Itoa(*j.Reschedules))
	}
}

func (l *lister) rules(b *Budget) {
	l.set("enforcement", b.Enforcement.word())
	if b.Priority != nil {
		l.set("priority", strconv.Itoa(*b.Priority))
	}
	l.set("cohort", b.Cohort)
	if b.Soft != 0 {
		l.set("soft", b.Soft.String())
	}
	l.set("over_budget running", b.Running.word())
	if t := b.Throttle; t != nil {
		l.set("over_budget throttle", t.String())
	}
	if s := b.Stop; s != nil {
		l.set("over_budget stop", s.String())
	}
	if q := b.Queue; q != nil {
		l.setAt("queue", q.text(), q.Source)
	}
	if f := b.FairShare; f != nil {
		l.set("fair_share", fmt.Sprintf("weight %d, half-life %s", f.Weight, FormatDuration(cmp.Or(f.HalfLife, DefaultHalfLife))))
	}
	for _, o := range b.Overrides {
		l.override(o)
	}
	l.perRun(b.PerRun)
	for _, a := range b.Alerts {
		l.setAt("alert "+a.Name, fmt.Sprintf("when %s, notify %s", a.When, orNone(strings.Join(a.Notify, ", "))), a.Source)
	}
	l.span("max_idle", b.MaxIdle)
	l.set("undeclared_gpus", b.Undeclared.word())
	l.set("placement mode", b.Placement.word())
}

func (l *lister) override(o Override) {
	name := "override " + o.Name
	l.setAt(name+" who", strings.Join(o.Who, ", "), o.Source)
	l.amounts(name+" max", o.Max, o.Source)
	l.setAt(name+" expires", FormatDuration(o.Expires), o.Source)
	reason := "optional"
	if o.ReasonRequired {
		reason = "required"
	}
	l.setAt(name+" reason", reason, o.Source)
	l.setAt(name+" approval", strconv.Itoa(o.Approvals), o.Source)
	l.setAt(name+" notify", strings.Join(o.Notify, ", "), o.Source)
}

func (l *lister) perRun(r *PerRun) {
	if r == nil {
		return
	}
	for _, d := range slices.Sorted(maps.Keys(r.Caps)) {
		at := r.Caps[d].Source
		if at == (Source{}) {
			at = r.Source
		}
		l.setAt("per_run "+d.Key(), d.limit(r.Caps[d].Ceiling, l.currency), at)
	}
	if r.Concurrency > 0 {
		l.setAt("per_run concurrency", strconv.Itoa(r.Concurrency), r.Source)
	}
	l.setAt("per_run wall_clock", FormatDuration(cmp.Or(r.WallClock, DefaultWallClock)), r.Source)
}

// FormatDuration prints a duration without the units that are zero: "1h30m",
// "72h"; "" for zero.
func FormatDuration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func (a Admit) word() string { return [...]string{"", "deny", "warn", "queue"}[a] }

func (l Level) word() string {
	return [...]string{"", "advisory", "soft-mandatory", "hard-mandatory"}[l]
}

func (r RunningRule) word() string { return [...]string{"", "let_finish", "throttle", "stop"}[r] }

// String says how, in words.
func (t Throttle) String() string {
	return fmt.Sprintf("by %s every %s, keeping %d", t.Step, FormatDuration(t.Every), t.MinCount)
}

// String says how, in words.
func (s Stop) String() string {
	return fmt.Sprintf("signal %s, grace %s, then %s", orNone(s.Signal), orNone(FormatDuration(s.Grace)), cmp.Or(s.Then, "stop"))
}

func (q Queue) text() string {
	order := [...]string{"fifo", "priority", "fair_share"}[q.Order]
	if q.Timeout == 0 {
		return order + ", without a timeout"
	}
	return order + ", timeout " + FormatDuration(q.Timeout)
}
