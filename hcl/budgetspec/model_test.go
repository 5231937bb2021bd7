package budgetspec_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// A policy that is written down in the language is read as the same policy,
// whatever it says: every block, attribute and amount.
func TestAPolicyIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) { checkModel(t, t) })
}

// FuzzModel is the same with the fuzzer's coverage as a guide.
func FuzzModel(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) { checkModel(t, t) }))
}

func checkModel(t *rapid.T, tb must.T) {
	want := drawPolicy(t)
	text := inLanguage(want, rapid.SampledFrom([]func() bool{
		func() bool { return false }, func() bool { return true }, func() bool { return rapid.Bool().Draw(t, "indirect") },
	}).Draw(t, "how"))
	got, diags := budgetspec.Parse(single(text))
	for _, d := range diags {
		must.NotEq(tb, 1, int(d.Severity), must.Sprintf("%s\n%s", d, text))
	}
	must.NotNil(tb, got)
	must.Eq(tb, dumpBare(want), dumpBare(got), must.Sprint(text))
}

// model draws the parts of a policy.
type model struct {
	t         *rapid.T
	classes   []string
	schedules []string // as they are referred to
	notifiers []string
	names     int
}

func drawPolicy(t *rapid.T) *budget.Policy {
	m := &model{t: t}
	p := &budget.Policy{
		Enforcement: pick(m, budget.Enforce, budget.Shadow), Unmatched: pick(m, budget.UnmatchedDeny, budget.UnmatchedAllow), OutOfBand: pick(m, budget.OutOfBandGovern, budget.OutOfBandReport),
		Currency: pick(m, "USD", "EUR", "XCR"), Location: location(pick(m, "UTC", "Europe/Berlin", "America/New_York")),
		Meter: budget.Meter{Basis: pick(m, budget.Allocated, budget.Running), Idle: pick(m, budget.IdleShared, budget.IdleOwner, budget.IdleNone)},
	}
	if m.yes() {
		p.Meter.Interval = m.span(5*time.Second, 10*time.Minute)
	}
	for i := range m.upTo(3) {
		p.Schedules = append(p.Schedules, m.schedule(fmt.Sprintf("s%d", i)))
		m.schedules = append(m.schedules, "schedule."+p.Schedules[i].Name)
	}
	for i := range m.upTo(3) {
		n := budget.Notifier{Kind: "webhook", Name: fmt.Sprintf("n-%d", i), URL: fmt.Sprintf("https://x.example:%d/a?b=%%20", 1+m.upTo(9)), Format: "cloudevents"}
		n.SecretEnv = pick(m, "", "SECRET_1")
		n.Events = pick(m, nil, []string{"*"}, []string{"budget.*", "override.used"})
		p.Notifiers = append(p.Notifiers, n)
		m.notifiers = append(m.notifiers, n.Kind+"."+n.Name)
	}
	for i := range m.upTo(3) {
		p.Asserts = append(p.Asserts, budget.Assert{Name: fmt.Sprintf("a%d", i), Condition: m.condition(), Message: m.text()})
	}
	for i := range m.upTo(4) {
		p.Classes = append(p.Classes, m.class(fmt.Sprintf("c%d", i), p.Classes))
		m.classes = append(m.classes, p.Classes[i].Name)
	}
	for i := range 1 + m.upTo(3) {
		p.RateCards = append(p.RateCards, m.rateCard(i))
	}
	for range 1 + m.upTo(2) {
		p.Roots = append(p.Roots, m.budget(nil, 2))
	}
	slices.SortFunc(p.Roots, func(x, y *budget.Budget) int { return strings.Compare(x.Name, y.Name) })
	p.Walk(func(b *budget.Budget) {
		if m.upTo(4) == 0 {
			p.Moves = append(p.Moves, budget.Move{From: fmt.Sprintf("gone/%d", len(p.Moves)), To: b.Path})
		}
	})
	return p
}

func location(name string) *time.Location {
	loc, err := time.LoadLocation(name)
	if err != nil {
		panic(err)
	}
	return loc
}

func pick[T any](m *model, choices ...T) T {
	return choices[rapid.IntRange(0, len(choices)-1).Draw(m.t, "choice")]
}

func (m *model) yes() bool { return rapid.Bool().Draw(m.t, "yes") }

// upTo is a number below n.
func (m *model) upTo(n int) int { return rapid.IntRange(0, n-1).Draw(m.t, "number") }

// some is a subset in the given order.
func some[T any](m *model, all []T) []T {
	return slices.DeleteFunc(slices.Clone(all), func(T) bool { return m.yes() })
}

func (m *model) amount() quantity.Amount {
	return quantity.Amount(rapid.Int64Range(1, int64(quantity.MaxAmount)>>rapid.IntRange(0, 62).Draw(m.t, "bits")).Draw(m.t, "amount"))
}

func (m *model) limit() quantity.Limit {
	switch m.upTo(6) {
	case 0:
		return quantity.Unlimited
	case 1:
		return quantity.LimitOf(0)
	}
	return quantity.LimitOf(m.amount())
}

func (m *model) span(least, most time.Duration) time.Duration {
	return time.Duration(rapid.Int64Range(least.Milliseconds(), most.Milliseconds()).Draw(m.t, "ms")) * time.Millisecond
}

func (m *model) name() string {
	m.names++
	return fmt.Sprintf("%s%d", pick(m, "a", "team-", "x_", "0"), m.names)
}

func (m *model) text() string {
	return rapid.StringOfN(rapid.RuneFrom([]rune("ab ${}%\"\\\n\tü€")), 1, 12, -1).Draw(m.t, "text")
}

func (m *model) ratio() quantity.Ratio {
	return quantity.Ratio(rapid.Int64Range(1, int64(quantity.RatioOne)).Draw(m.t, "ratio"))
}

func (m *model) class(name string, before []budget.Class) budget.Class {
	c := budget.Class{Name: name}
	for i := range 1 + m.upTo(3) {
		c.Devices = append(c.Devices, fmt.Sprintf("nvidia/gpu/%s model %d", name, i))
	}
	if m.yes() {
		c.Watts = int64(1 + m.upTo(2000))
	}
	for _, of := range before {
		if len(of.Shares) == 0 && m.yes() {
			c.Shares = append(c.Shares, budget.Share{Class: of.Name, Parts: quantity.Amount(1 + m.upTo(int(quantity.GPU)))})
		}
	}
	return c
}

func (m *model) rateCard(i int) budget.RateCard {
	c := budget.RateCard{
		Name: fmt.Sprintf("card%d", i), EffectiveFrom: time.Date(2020+i, time.Month(1+m.upTo(12)), 1, m.upTo(24), 0, 0, 0, time.UTC),
		PerGPUHour: map[string]quantity.Amount{},
	}
	for _, class := range m.classes {
		c.PerGPUHour[class] = m.price()
	}
	if m.yes() || len(m.classes) == 0 {
		c.Energy = &budget.EnergyRate{PerKWh: m.amount(), PUE: quantity.Ratio(1_000_000 + m.upTo(9_000_000))}
	}
	for i := range m.upTo(3) {
		rate := budget.TokenRate{PerMillion: map[budget.TokenKind]quantity.Amount{pick(m, budget.TokenKinds()...): m.price()}}
		for _, kind := range some(m, budget.TokenKinds()) {
			rate.PerMillion[kind] = m.price()
		}
		if c.Tokens == nil {
			c.Tokens = map[string]budget.TokenRate{}
		}
		c.Tokens[fmt.Sprintf("Org/Model \"%d\"", i)] = rate
	}
	for i := range m.upTo(3) {
		c.Modifiers = append(c.Modifiers, budget.Modifier{Name: fmt.Sprintf("m%d", i), When: m.timed(m.condition()), Multiply: pick(m, 0, m.ratio(), 1000*quantity.RatioOne)})
	}
	return c
}

func (m *model) price() quantity.Amount { return pick(m, 0, m.amount()) }

// plain is a condition by its text.
type plain string

func (plain) Holds(budget.Facts) (bool, error) { panic("never evaluated") }
func (plain) Uses(string) bool                 { panic("never asked") }
func (p plain) String() string                 { return string(p) }

func (m *model) condition() budget.Condition {
	return pick(m, plain(`job.type != "system"`), plain(`job.namespace == "a" && !(job.type == "batch")`), plain(`contains(submitter.names, "role:a") ? true : job.gpus < 8`))
}

// timed is a condition that may depend on schedules, if there are any.
func (m *model) timed(otherwise budget.Condition) budget.Condition {
	if len(m.schedules) == 0 || m.yes() {
		return otherwise
	}
	return plain(pick(m, m.schedules...))
}

func (m *model) schedule(name string) budget.Schedule {
	s := budget.Schedule{Name: name, Start: m.upTo(24 * 60), End: m.upTo(24 * 60)}
	s.Days[m.upTo(7)] = true
	for day := range s.Days {
		s.Days[day] = s.Days[day] || m.yes()
	}
	return s
}

func (m *model) budget(parent *budget.Budget, depth int) *budget.Budget {
	b := &budget.Budget{Name: m.name(), Parent: parent}
	b.Path = b.Name
	if parent != nil {
		b.Path = parent.Path + "/" + b.Name
	}
	if m.yes() {
		b.Description, b.Owner = m.text(), m.text()
	}
	if m.yes() {
		b.Lease = m.span(time.Second, 1000*time.Hour)
	}
	if m.yes() {
		b.Match = m.match()
	}
	b.Admit = pick(m, budget.AdmitInherit, budget.AdmitDeny, budget.AdmitWarn, budget.AdmitQueue)
	m.limits(b)
	m.perJob(b)
	m.rules(b)
	if depth > 0 {
		for range m.upTo(3) {
			b.Children = append(b.Children, m.budget(b, depth-1))
		}
	}
	slices.SortFunc(b.Children, func(x, y *budget.Budget) int { return strings.Compare(x.Name, y.Name) })
	return b
}

func (m *model) match() *budget.Match {
	r := &budget.Match{
		Namespaces: append(some(m, []string{"a", "b-*", "*"}), "c"),
		Identities: some(m, []string{"role:x-*", "policy:y", "token:z", "type:management", "user:ada@acme.example", "oidc:group=nlp", "mcp:*", "acl:disabled"}),
		NodePools:  some(m, []string{"large", "h100_*"}),
	}
	if m.yes() {
		r.When = m.condition()
	}
	return r
}

// dimensions are those of GPU time and the given others.
func (m *model) dimensions(others ...budget.Dimension) []budget.Dimension {
	out := append(others, budget.GPUTime(budget.AnyClass))
	for _, class := range m.classes {
		out = append(out, budget.GPUTime(class))
	}
	slices.Sort(out)
	return out
}

func tokenDimensions() []budget.Dimension {
	return []budget.Dimension{budget.Tokens(budget.InputTokens), budget.Tokens(budget.CachedTokens), budget.Tokens(budget.OutputTokens)}
}

func (m *model) limits(b *budget.Budget) {
	for _, class := range some(m, append([]string{budget.AnyClass}, m.classes...)) {
		b.Limits = append(b.Limits, budget.Limit{Window: budget.Concurrent, Dimension: budget.GPUs(class), Ceiling: m.limit()})
	}
	for w := budget.Hour; w <= budget.Total; w++ {
		if m.upTo(3) != 0 {
			continue
		}
		periods, carried, shared := 1+m.upTo(50), m.yes() && w != budget.Total, m.yes()
		share := m.ratio()
		for _, d := range some(m, m.dimensions(append(tokenDimensions(), budget.Cost, budget.Energy)...)) {
			l := budget.Limit{Window: w, Dimension: d, Ceiling: m.limit()}
			switch {
			case carried && shared:
				l.Rollover = &budget.Rollover{Share: share, Periods: periods}
			case carried && m.yes():
				most := m.amount()
				l.Rollover = &budget.Rollover{Most: &most, Periods: periods}
			}
			b.Limits = append(b.Limits, l)
		}
	}
	for _, d := range some(m, m.dimensions(budget.Cost, budget.Energy)) {
		b.Committed = append(b.Committed, budget.Limit{Window: budget.Committed, Dimension: d, Ceiling: m.limit()})
	}
	slices.SortFunc(b.Limits, func(x, y budget.Limit) int {
		return cmp.Or(cmp.Compare(x.Window, y.Window), strings.Compare(string(x.Dimension), string(y.Dimension)))
	})
}

func (m *model) perJob(b *budget.Budget) {
	for _, bound := range some(m, []**budget.JobLimit{&b.PerJob.GPUs, &b.PerJob.GPUTime, &b.PerJob.Cost, &b.PerJob.Energy}) {
		*bound = &budget.JobLimit{Ceiling: m.limit()}
	}
	longest := 1000 * time.Hour
	for _, a := range b.Ancestry()[1:] {
		if a.PerJob.MaxRuntime > 0 {
			longest = min(longest, a.PerJob.MaxRuntime)
		}
	}
	if m.yes() {
		b.PerJob.MaxRuntime = m.span(time.Second, longest)
		longest = b.PerJob.MaxRuntime
	}
	if m.yes() {
		b.PerJob.DefaultRuntime = m.span(time.Second, longest)
	}
	if m.yes() {
		n := m.upTo(1001)
		b.PerJob.Reschedules = &n
	}
}

func (m *model) rules(b *budget.Budget) {
	b.Enforcement = pick(m, budget.LevelInherit, budget.Advisory, budget.SoftMandatory, budget.HardMandatory)
	b.Undeclared = pick(m, budget.UndeclaredInherit, budget.UndeclaredDeny, budget.UndeclaredAllow)
	b.Placement = pick(m, budget.PlacementInherit, budget.PlacementRequire, budget.PlacementPrefer, budget.PlacementOff)
	b.Running = pick(m, budget.RunningInherit, budget.LetFinish, budget.ThrottleRunning, budget.StopRunning)
	if !slices.ContainsFunc(b.Ancestry(), func(a *budget.Budget) bool { return a.Cohort != "" }) {
		b.Cohort = pick(m, "", "pool", "other")
	}
	b.Soft = pick(m, 0, m.ratio())
	if m.yes() {
		n := m.upTo(101)
		b.Priority = &n
	}
	if m.yes() {
		b.MaxIdle = m.span(time.Second, 1000*time.Hour)
	}
	for _, class := range some(m, append([]string{budget.AnyClass}, m.classes...)) {
		if b.Lend == nil {
			b.Lend = map[string]quantity.Limit{}
		}
		b.Lend[class] = m.limit()
	}
	for _, class := range some(m, append([]string{budget.AnyClass}, m.classes...)) {
		if b.Cohort == "" {
			break // there is nobody to borrow from
		}
		if b.Borrow == nil {
			b.Borrow = map[string]quantity.Amount{}
		}
		b.Borrow[class] = pick(m, 0, m.amount())
	}
	if m.yes() {
		b.Reclaim = &budget.Reclaim{AnyPriority: m.yes(), Grace: pick(m, 0, m.span(time.Second, time.Hour)), MinRuntime: pick(m, 0, m.span(time.Second, time.Hour))}
	}
	if m.yes() {
		b.Throttle = &budget.Throttle{MinCount: 1 + m.upTo(10_000), Step: m.ratio(), Every: m.span(time.Second, time.Hour)}
	}
	if m.yes() {
		b.Stop = &budget.Stop{Signal: pick(m, "", "SIGUSR1", "SIGTERM", "SIGHUP"), Grace: pick(m, 0, m.span(time.Second, time.Hour)), Then: "stop"}
	}
	if m.yes() {
		b.Queue = &budget.Queue{Order: pick(m, budget.FIFO, budget.ByPriority, budget.ByFairShare), Timeout: pick(m, 0, m.span(time.Second, 1000*time.Hour))}
	}
	if m.yes() {
		b.FairShare = &budget.FairShare{Weight: int64(1 + m.upTo(1_000_000)), HalfLife: pick(m, 0, m.span(time.Second, 1000*time.Hour))}
	}
	for i := range m.upTo(3) {
		if len(m.notifiers) > 0 {
			b.Alerts = append(b.Alerts, budget.Alert{Name: fmt.Sprintf("w%d", i), When: m.timed(plain("forecast.cost > limit.cost")), Notify: append(some(m, m.notifiers[1:]), m.notifiers[0])})
		}
	}
	for i := range m.upTo(3) {
		b.Overrides = append(b.Overrides, m.override(fmt.Sprintf("o%d", i)))
	}
	if m.yes() {
		run := &budget.PerRun{Caps: map[budget.Dimension]budget.JobLimit{}, Concurrency: 1 + m.upTo(100_000), WallClock: pick(m, 0, m.span(time.Second, 1000*time.Hour))}
		for _, d := range some(m, m.dimensions(append(tokenDimensions(), budget.Cost, budget.Energy, budget.Jobs)...)) {
			run.Caps[d] = budget.JobLimit{Ceiling: quantity.LimitOf(pick(m, 0, m.amount()))}
		}
		b.PerRun = run
	}
}

func (m *model) override(name string) budget.Override {
	o := budget.Override{
		Name: name, Who: append(some(m, []string{"role:oncall", "user:*"}), "token:a"), Expires: m.span(time.Second, 1000*time.Hour),
		ReasonRequired: m.yes(), Approvals: m.upTo(11), Max: map[budget.Dimension]quantity.Amount{budget.Cost: m.amount()},
	}
	o.Notify = some(m, m.notifiers)
	dimensions := append(tokenDimensions(), budget.Energy, budget.GPUs(budget.AnyClass))
	for _, class := range m.classes {
		dimensions = append(dimensions, budget.GPUs(class))
	}
	for _, d := range some(m, m.dimensions(dimensions...)) {
		o.Max[d] = m.amount()
	}
	return o
}
