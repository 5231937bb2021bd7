package admission

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Denial is the text that a person reads when a job is refused. The first line
// says what happened and why in one sentence; then what was asked, the limit that
// binds and where it is set, what is in use, the shortfall, and what to do next.
// It has no trailing newline.
func (d Decision) Denial(p *budget.Policy, ask jobspec.Ask) string {
	return d.DenialOf(p, ask, "registered")
}

// DenialOf is Denial of a request other than to register a job: done says what was
// not done, such as "scaled".
func (d Decision) DenialOf(p *budget.Policy, ask jobspec.Ask, done string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "governor: job %q in namespace %q was not %s: %s (%s)\n", ask.JobID, ask.Namespace, done, d.headline(p), d.Reason)
	d.explain(&b, p)
	return strings.TrimRight(b.String(), "\n")
}

// Waits is the text for a job that is registered and waits for budget, or a gang that
// waits for GPUs.
func (d Decision) Waits(p *budget.Policy, ask jobspec.Ask) string { return d.waits(p, ask, "waits") }

// WouldWait is the text for a job that would wait for budget if it were submitted.
func (d Decision) WouldWait(p *budget.Policy, ask jobspec.Ask) string {
	return d.waits(p, ask, "would wait")
}

func (d Decision) waits(p *budget.Policy, ask jobspec.Ask, verb string) string {
	var b strings.Builder
	what := "budget"
	if d.Reason.ForGPUs() {
		what = "GPUs"
	}
	fmt.Fprintf(&b, "governor: job %q in namespace %q %s for %s: %s (%s)\n", ask.JobID, ask.Namespace, verb, what, d.headline(p), d.Reason)
	d.explain(&b, p)
	return strings.TrimRight(b.String(), "\n")
}

// explain writes everything below the first line.
func (d Decision) explain(b *strings.Builder, p *budget.Policy) {
	if d.Refusal != nil {
		if d.Budget != nil {
			row(b, "budget", describe(d.Budget))
		}
		d.turnRows(b, p)
		row(b, "what to do", d.Refusal.Remedy)
		d.notQueuedRow(b)
		return
	}
	c := d.Failed[0]
	row(b, "asked", d.Asked(p))
	row(b, "limit", c.limitText(p))
	if c.Kind != JobCap {
		row(b, "used", c.usedText(p))
	}
	row(b, "needed", c.neededText(p))
	row(b, "short by", c.short(p))
	d.turnRows(b, p)
	if d.UnblockMS != 0 && d.Turn == nil {
		row(b, "expected", "it may fit from "+time.UnixMilli(d.UnblockMS).In(p.Location).Format(timeLayout)+" on")
	}
	row(b, "what to do", d.remedy(p, c))
	d.notQueuedRow(b)
	if len(d.Alternatives) > 0 {
		row(b, "instead", d.alternativesText(p))
	}
	if others := d.alsoOver(p); len(others) > 0 {
		row(b, "also over", strings.Join(others, "; "))
	}
}

// headline is the cause in one sentence.
func (d Decision) headline(p *budget.Policy) string {
	if d.Refusal != nil {
		return d.Refusal.Fact
	}
	c := d.Failed[0]
	need, limit := format(p, c.Dimension, c.Need), format(p, c.Dimension, c.Limit)
	if c.Own > 0 {
		need += " more"
	}
	name := c.Budget.Path
	switch c.reason() {
	case ExceedsJobCap:
		return fmt.Sprintf("it asks for %s, and budget %s allows %s %s", need, name, limit, c.scope())
	case ExceedsRunCap:
		return fmt.Sprintf("it needs %s, and agent run %s has %s of %s left%s", need, d.Run.ID, format(p, c.Dimension, c.Available()), limit, c.atOnce())
	case Frozen:
		return fmt.Sprintf("budget %s is frozen: it allows %s %s", name, limit, c.scope())
	case ExceedsBudget:
		return fmt.Sprintf("it needs %s, and budget %s never allows more than %s %s", need, name, format(p, c.Dimension, c.Most), c.scope())
	case BudgetExhausted:
		return fmt.Sprintf("budget %s has used up its %s%s", name, limit, c.periodText(p))
	case CommittedTooFar:
		return fmt.Sprintf("it needs %s, and budget %s may promise %s more", need, name, format(p, c.Dimension, c.Available()))
	case WaitingForReclaim:
		return fmt.Sprintf("it needs %s of what budget %s has for itself, and its cohort %q uses all but %s", need, name, c.Budget.Cohort, format(p, c.Dimension, c.Available()))
	default:
		return fmt.Sprintf("it needs %s, and budget %s has %s left%s", need, name, format(p, c.Dimension, c.Available()), c.periodText(p))
	}
}

// atOnce marks a cap on jobs at the same time.
func (c *Check) atOnce() string {
	if c.Window == budget.Concurrent {
		return " at the same time"
	}
	return ""
}

// periodText says which period a check is about: " for the month until
// 2026-12-01 00:00 CET".
func (c *Check) periodText(p *budget.Policy) string {
	if c.Period.End.IsZero() {
		return ""
	}
	return fmt.Sprintf(" for the %s until %s", c.Window, c.Period.End.In(p.Location).Format(timeLayout))
}

// timeLayout is how instants are shown, in the policy's zone.
const timeLayout = "2006-01-02 15:04 MST"

func (c *Check) usedText(p *budget.Policy) string {
	held := format(p, c.Dimension, c.Held) + " held"
	if c.Own > 0 {
		held += fmt.Sprintf(" (%s of it by this job)", format(p, c.Dimension, c.Own))
	}
	switch {
	case c.Kind == RunCap && c.Dimension == budget.Jobs && c.Window != budget.Concurrent:
		return format(p, c.Dimension, c.Posted) + " started"
	case c.Kind == RunCap && c.Window == budget.Concurrent:
		return format(p, c.Dimension, c.Held) + " open"
	case c.Kind == PoolCheck:
		return held + fmt.Sprintf("; the other members of cohort %q leave it %s", c.Budget.Cohort, format(p, c.Dimension, c.Limit))
	case c.Window == budget.Concurrent:
		return held
	case c.Window == budget.Committed:
		return held + ", over all time"
	}
	return fmt.Sprintf("%s posted + %s = %s%s", format(p, c.Dimension, c.Posted), held,
		format(p, c.Dimension, c.Posted.Add(c.Held)), c.periodText(p))
}

// neededText is the need of one period; of a longer job only a part falls there.
func (c *Check) neededText(p *budget.Policy) string {
	text := format(p, c.Dimension, c.Need)
	if c.Own > 0 {
		text += " on top of what it holds"
	}
	if !c.Period.End.IsZero() {
		text += " in one " + c.Window.String()
	}
	return text
}

// alsoOver lists the other limits that are exceeded, each once, with its largest
// shortfall.
func (d Decision) alsoOver(p *budget.Policy) []string {
	type key struct {
		path      string
		window    budget.Window
		dimension budget.Dimension
		kind      CheckKind
	}
	keyOf := func(c Check) key { return key{c.Budget.Path, c.Window, c.Dimension, c.Kind} }
	worst := make(map[key]Check)
	var order []key
	for _, c := range d.Failed {
		have, seen := worst[keyOf(c)]
		if !seen {
			order = append(order, keyOf(c))
		}
		if !seen || c.ShortBy() > have.ShortBy() {
			worst[keyOf(c)] = c
		}
	}
	texts := make([]string, 0, len(order))
	for _, k := range order[1:] {
		c := worst[k]
		text := fmt.Sprintf("%s (short by %s", c.limitText(p), c.short(p))
		switch {
		case c.advisory():
			text += ", advisory"
		case !c.blocks():
			text += ", warns only"
		}
		texts = append(texts, text+")")
	}
	return texts
}

func row(b *strings.Builder, label, text string) { fmt.Fprintf(b, "  %-11s %s\n", label, text) }

func describe(b *budget.Budget) string {
	if at := b.Source.String(); at != "" {
		return fmt.Sprintf("%s (%s)", b.Path, at)
	}
	return b.Path
}

// Asked is the worst case in words: "2 x v100 for up to 1h0m35s (1h, and 35s to
// start and stop) = 2.0194 GPU-hours, 1.82 USD".
func (d Decision) Asked(p *budget.Policy) string {
	if d.opens {
		return capsText(p, *d.Run)
	}
	if d.Request != nil {
		return d.tokensText(p)
	}
	var parts []string
	for _, line := range d.Lines {
		for _, n := range line.Needs {
			gpus := n.GPUs * int64(line.Count)
			parts = append(parts, fmt.Sprintf("%d x %s %s", gpus, strings.Join(n.Classes, " or "), timeText(line)))
		}
	}
	if len(parts) == 0 {
		return "no GPUs"
	}
	return fmt.Sprintf("%s = %s, %s", strings.Join(parts, " + "),
		format(p, budget.GPUTime(budget.AnyClass), d.Estimate.GPUTime[budget.AnyClass]), format(p, budget.Cost, d.Estimate.Cost))
}

// timeText says how long a line's GPUs are held: the run time, how often it may
// start, and what that makes with the time that starting and stopping take.
func timeText(line ledger.Line) string {
	switch {
	case line.Lease:
		return "held " + duration(line.RuntimeMS) + " ahead"
	case line.OnceMS <= 0:
		return "for up to " + duration(line.RuntimeMS)
	case line.Starts > 1:
		around := duration(line.RuntimeMS/int64(line.Starts) - line.OnceMS)
		return fmt.Sprintf("for up to %s (%d starts of %s, each with %s to start and stop)", duration(line.RuntimeMS), line.Starts, duration(line.OnceMS), around)
	}
	return fmt.Sprintf("for up to %s (%s, and %s to start and stop)", duration(line.RuntimeMS), duration(line.OnceMS), duration(line.RuntimeMS-line.OnceMS))
}

// duration prints milliseconds as "72h", "10m", "1h0m35s".
func duration(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	text := d.Round(time.Second).String()
	if text != "0s" && strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// format prints an amount of a dimension with its unit.
func format(p *budget.Policy, d budget.Dimension, a quantity.Amount) string {
	switch {
	case d == runtimeDimension:
		return duration(int64(a))
	case d == budget.Cost && a > 0:
		return MoneyText(p, a)
	}
	return d.Format(a, p.Currency) + ofClass(d)
}

// short prints a shortfall, also one that rounds to nothing in format.
func (c *Check) short(p *budget.Policy) string {
	a := c.ShortBy()
	switch {
	case c.Dimension.IsGPUTime() && a < quantity.GPUHour/1000:
		return fmt.Sprintf("%d GPU-milliseconds%s", a, ofClass(c.Dimension))
	case c.Dimension == runtimeDimension && a < 1000:
		return fmt.Sprintf("%dms", a)
	}
	return format(p, c.Dimension, a)
}

func ofClass(d budget.Dimension) string {
	if class := d.Class(); class != budget.AnyClass && class != "" && !d.IsTokens() {
		return " of " + class
	}
	return ""
}

func (c *Check) limitText(p *budget.Policy) string {
	text := fmt.Sprintf("%s %s in budget %s", format(p, c.Dimension, c.Limit), c.scope(), c.Budget.Path)
	if c.Kind == PoolCheck {
		text = fmt.Sprintf("%s at the same time for budget %s in cohort %q", format(p, c.Dimension, c.Limit), c.Budget.Path, c.Budget.Cohort)
	}
	if added := c.addedText(p); added != "" {
		text += " (" + added + ")"
	}
	if at := c.Source.String(); at != "" {
		text += ", set at " + at
	}
	return text
}

// addedText says what was added to the limit as written.
func (c *Check) addedText(p *budget.Policy) string {
	var parts []string
	for _, part := range []struct {
		amount quantity.Amount
		text   string
	}{{c.Carry, "carried over"}, {c.Granted, "granted for a time"}, {c.Borrow, "borrowed at most"}} {
		if part.amount > 0 {
			parts = append(parts, format(p, c.Dimension, part.amount)+" of it "+part.text)
		}
	}
	return strings.Join(parts, ", ")
}

// scope says over what a limit counts.
func (c *Check) scope() string {
	switch {
	case c.Kind == JobCap && c.Dimension == runtimeDimension:
		return "for one run"
	case c.Kind == JobCap:
		return "for one job"
	case c.Kind == RunCap && c.Window == budget.Concurrent:
		return "at the same time for one agent run"
	case c.Kind == RunCap:
		return "for one agent run"
	case c.Window == budget.Concurrent:
		return "at the same time"
	case c.Window == budget.Committed:
		return "promised and not used"
	case c.Window == budget.Total:
		return "in total"
	}
	return "in each " + c.Window.String()
}

// remedy says what would make the binding check pass, the cheapest way first.
func (d Decision) remedy(p *budget.Policy, c Check) string {
	ask := d.askForLess(c)
	owner := "ask the owner of budget " + c.Budget.Path + " to raise the limit"
	if c.Budget.Owner != "" {
		owner = "ask " + c.Budget.Owner + " to raise the limit"
	}
	switch c.reason() {
	case ExceedsRunCap:
		return "ask for less, wait until other " + d.others() + " of this run end, or open another run"
	case Frozen:
		return "use another budget, or " + owner
	case ExceedsJobCap, ExceedsBudget:
		return ask + ", or " + owner
	case CommittedTooFar:
		return "wait until other " + d.others() + " of this budget have run, " + ask + ", or " + owner
	case WaitingForReclaim:
		return "wait until the cohort gives them back, or " + ask
	case ConcurrencyLimit:
		return "wait until other jobs of this budget end, " + ask + ", or " + owner
	}
	wait := ""
	switch from, ok := d.fitsFrom(c); {
	case ok && (d.Request == nil || !c.heldByOthers()):
		wait = fmt.Sprintf("wait for the %s that begins %s, ", c.Window, from.In(p.Location).Format(timeLayout))
	case c.Held > c.Own:
		wait = "wait until other " + d.others() + " of this budget end and give back what they hold, "
	}
	return wait + ask + ", or " + owner
}

// askForLess is what the author can change so that the check needs less.
func (d Decision) askForLess(c Check) string {
	shorter := fmt.Sprintf("a shorter run (meta %s)", RuntimeMeta)
	switch {
	case d.opens:
		return "open it with smaller caps"
	case d.Request != nil:
		return "ask for fewer tokens"
	case c.Dimension == runtimeDimension:
		return "ask for " + shorter
	case c.Dimension.IsGPUs() || d.leaseOnly():
		return "ask for fewer GPUs"
	}
	return "ask for fewer GPUs or " + shorter
}

// fitsFrom is the beginning of the period from which on the job fits, or false
// when it would not fit even a period in which nothing is used yet.
func (d Decision) fitsFrom(c Check) (time.Time, bool) {
	from, ok := time.Time{}, false
	for _, other := range d.Checks {
		if other.Budget != c.Budget || other.Window != c.Window || other.Dimension != c.Dimension || other.Kind != c.Kind {
			continue
		}
		switch fits := other.Need <= 0 || other.ShortBy() <= 0; {
		case !fits:
			ok = false
		case !ok:
			from, ok = other.Period.Start, !other.Period.Start.IsZero()
		}
	}
	return from, ok
}

func (d Decision) leaseOnly() bool {
	return !slices.ContainsFunc(d.Lines, func(l ledger.Line) bool { return !l.Lease })
}

// Notice is what the author of an admitted job is told: the estimate and what
// is left of the tightest limit, or the limits that only warn.
func (d Decision) Notice(p *budget.Policy) string {
	text := d.notice(p)
	for _, g := range d.Overrides {
		text += fmt.Sprintf("; admitted by override %s of budget %s, which counts until %s", g.ID, g.Budget, time.UnixMilli(g.UntilMS).In(p.Location).Format(timeLayout))
	}
	return text
}

func (d Decision) notice(p *budget.Policy) string {
	if d.Shadow {
		text := fmt.Sprintf("governor: shadow mode lets this %s in; enforced, it would be refused: %s (%s)", d.what(), d.headline(p), d.Reason)
		if p.Enforcement != budget.Shadow {
			text = fmt.Sprintf("governor: budget %s is advisory and lets this %s in; enforced, it would be refused: %s (%s)",
				d.Failed[0].Budget.Path, d.what(), d.headline(p), d.Reason)
		}
		if d.Refusal != nil {
			return text + "; what to do: " + d.Refusal.Remedy
		}
		return text + "; limit: " + d.Failed[0].limitText(p) + "; asked: " + d.Asked(p)
	}
	if d.Smaller {
		return fmt.Sprintf("governor: the job becomes smaller, which is not refused; anything else would be: %s (%s)", d.headline(p), d.Reason)
	}
	if d.Budget == nil {
		return "governor: no budget claims this job; the policy lets it run ungoverned"
	}
	text := fmt.Sprintf("governor: at most %s, from budget %s", d.Asked(p), d.Budget.Path)
	if d.leases() {
		text = fmt.Sprintf("governor: %s, renewed while it runs, from budget %s", d.Asked(p), d.Budget.Path)
	}
	if d.Soft != nil && len(d.Failed) == 0 {
		return text + d.softText(p)
	}
	if d.Outcome == Warn {
		c := d.Failed[0]
		return fmt.Sprintf("%s; over a limit that only warns: %s, short by %s", text, c.limitText(p), c.short(p))
	}
	if c, ok := d.tightest(); ok {
		text += fmt.Sprintf("; after this %s left of %s", format(p, c.Dimension, c.Available().Sub(c.Need)), c.limitText(p))
	}
	return text
}

// softText says which soft mark is passed.
func (d Decision) softText(p *budget.Policy) string {
	c := *d.Soft
	mark := c.Budget.EffectiveSoft()
	return fmt.Sprintf("; past the soft mark of %s: after this %s used and held of %s", mark,
		format(p, c.Dimension, c.Posted.Add(c.Held).Add(c.Need)), c.limitText(p))
}

// leases reports whether some of the work has no end.
func (d Decision) leases() bool {
	return slices.ContainsFunc(d.Lines, func(l ledger.Line) bool { return l.Lease })
}

// tightest is the window check that leaves the smallest share of its limit.
func (d Decision) tightest() (Check, bool) {
	best, found := Check{}, false
	left := func(c Check) quantity.Amount { return c.Available().Sub(c.Need) }
	for _, c := range d.Checks {
		if c.Kind == JobCap || c.Limit <= 0 || c.Need <= 0 {
			continue
		}
		if !found || ppm(left(c), c.Limit) < ppm(left(best), best.Limit) {
			best, found = c, true
		}
	}
	return best, found
}

// ppm is a/b in parts per million for positive b, near enough for display.
func ppm(a, b quantity.Amount) quantity.Amount {
	if b >= 1_000_000 {
		return a / (b / 1_000_000)
	}
	return a.Mul(1_000_000) / b
}

// Receipt is one line about a job that ended: what was estimated, what it used.
func Receipt(p *budget.Policy, h ledger.Hold) string {
	return fmt.Sprintf("estimate %s, %s; used %s, %s",
		format(p, budget.GPUTime(budget.AnyClass), h.Estimate.GPUTime[budget.AnyClass]), format(p, budget.Cost, h.Estimate.Cost),
		format(p, budget.GPUTime(budget.AnyClass), h.Posted.Total()), format(p, budget.Cost, h.Posted.Cost))
}
