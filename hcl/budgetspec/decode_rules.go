package budgetspec

import (
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// rules decodes what a budget says beyond its limits.
func (d *decoder) rules(b *budget.Budget, blocks []*hclsyntax.Block) {
	for _, rule := range []struct {
		kind   string
		decode func(*budget.Budget, *hclsyntax.Block)
	}{
		{"over_budget", d.overBudgetBlock}, {"queue", d.queueBlock}, {"fair_share", d.fairShareBlock},
		{"per_run", d.perRunBlock}, {"max_committed", d.committedBlock}, {"placement", d.placementBlock},
	} {
		if inner := d.only(rule.kind, blocks); inner != nil {
			rule.decode(b, inner)
		}
	}
	overrides, alerts := map[string]hcl.Range{}, map[string]hcl.Range{}
	for _, inner := range blocks {
		switch inner.Type {
		case "override":
			d.overrideBlock(b, inner, overrides)
		case "alert":
			d.alertBlock(b, inner, alerts)
		}
	}
}

// Most of what whole numbers may be.
const (
	priorityMax    = 100
	weightMax      = 1_000_000
	approvalsMax   = 10
	minCountMax    = 10_000
	concurrencyMax = 100_000
)

func (d *decoder) ruleAttributes(b *budget.Budget, attrs map[string]*hclsyntax.Attribute) {
	if attr := attrs["enforcement"]; attr != nil {
		switch word, _ := d.choice(attr, []string{"advisory", "soft-mandatory", "hard-mandatory"}); word {
		case "advisory":
			b.Enforcement = budget.Advisory
		case "soft-mandatory":
			b.Enforcement = budget.SoftMandatory
		case "hard-mandatory":
			b.Enforcement = budget.HardMandatory
		}
		d.places[b].note("enforcement", attr.Range())
	}
	if attr := attrs["priority"]; attr != nil {
		if n, ok := d.count(attr, countRange{most: priorityMax}); ok {
			b.Priority = &n
		}
	}
	if attr := attrs["cohort"]; attr != nil {
		if name, ok := d.text(attr); ok {
			if !validName(name) {
				d.report(badName(attr.Expr.Range(), "cohort", name))
			} else {
				b.Cohort = name
			}
		}
		d.places[b].note("cohort", attr.Range())
	}
	if attr := attrs["soft"]; attr != nil {
		b.Soft = d.percent(attr)
	}
	if attr := attrs["max_idle"]; attr != nil {
		b.MaxIdle = d.duration(attr)
	}
	if attr := attrs["undeclared_gpus"]; attr != nil {
		switch word, _ := d.choice(attr, []string{"deny", "allow"}); word {
		case "deny":
			b.Undeclared = budget.UndeclaredDeny
		case "allow":
			b.Undeclared = budget.UndeclaredAllow
		}
	}
}

func (d *decoder) placementBlock(b *budget.Budget, block *hclsyntax.Block) {
	attr := d.rule(placementSpec(), block, "mode", `mode = "prefer"`).attributes["mode"]
	if attr == nil {
		if !empty(block) {
			d.report(missing(block.DefRange(), "placement", "mode", `mode = "prefer"`))
		}
		return
	}
	switch word, _ := d.choice(attr, []string{"require", "prefer", "off"}); word {
	case "require":
		b.Placement = budget.PlacementRequire
	case "prefer":
		b.Placement = budget.PlacementPrefer
	case "off":
		b.Placement = budget.PlacementOff
	}
}

// note remembers where something was written.
func (p *places) note(name string, at hcl.Range) { p.attributes[name] = at }

// at is where a budget says something, by the name that note was given.
func (d *decoder) at(b *budget.Budget, name string) hcl.Range { return d.places[b].attributes[name] }

func (d *decoder) reclaimBlock(b *budget.Budget, block *hclsyntax.Block) {
	attrs := d.rule(reclaimSpec(), block, "from, grace or min_runtime", `grace = "10m"`).attributes
	rule := (&budget.Budget{}).EffectiveReclaim()
	if attr := attrs["from"]; attr != nil {
		word, _ := d.choice(attr, []string{"lower_priority", "any"})
		rule.AnyPriority = word == "any"
	}
	if attr := attrs["grace"]; attr != nil {
		rule.Grace = d.durationOrNone(attr)
	}
	if attr := attrs["min_runtime"]; attr != nil {
		rule.MinRuntime = d.durationOrNone(attr)
	}
	b.Reclaim = &rule
}

// durationOrNone is duration where "none" is no time at all.
func (d *decoder) durationOrNone(attr *hclsyntax.Attribute) time.Duration {
	if d.isWord(attr.Expr, wordNone) {
		return 0
	}
	return d.duration(attr)
}

func (d *decoder) overBudgetBlock(b *budget.Budget, block *hclsyntax.Block) {
	known := d.rule(overBudgetSpec(), block, "admit or running", `admit = "deny"`)
	if attr := known.attributes["admit"]; attr != nil {
		switch word, _ := d.choice(attr, []string{"deny", "queue", "warn"}); word {
		case "deny":
			b.Admit = budget.AdmitDeny
		case "queue":
			b.Admit = budget.AdmitQueue
		case "warn":
			b.Admit = budget.AdmitWarn
		}
	}
	if attr := known.attributes["running"]; attr != nil {
		switch word, _ := d.choice(attr, []string{"let_finish", "throttle", "stop"}); word {
		case "let_finish":
			b.Running = budget.LetFinish
		case "throttle":
			b.Running = budget.ThrottleRunning
		case "stop":
			b.Running = budget.StopRunning
		}
		d.places[b].note("running", attr.Range())
	}
	if inner := d.only("throttle", known.blocks); inner != nil {
		d.throttleBlock(b, inner)
	}
	if inner := d.only("stop", known.blocks); inner != nil {
		d.stopBlock(b, inner)
	}
}

func (d *decoder) throttleBlock(b *budget.Budget, block *hclsyntax.Block) {
	attrs := d.rule(throttleSpec(), block, "min_count, step or every", `step = "25%"`).attributes
	rule := (&budget.Budget{}).EffectiveThrottle()
	if attr := attrs["min_count"]; attr != nil {
		if n, ok := d.count(attr, countRange{1, minCountMax, "work is throttled, and running = \"stop\" ends it"}); ok {
			rule.MinCount = n
		}
	}
	if attr := attrs["step"]; attr != nil {
		rule.Step = d.percent(attr)
	}
	if attr := attrs["every"]; attr != nil {
		rule.Every = d.duration(attr)
	}
	b.Throttle = &rule
	d.places[b].note("throttle", block.DefRange())
}

// signals are those that a task can be asked with for a checkpoint or its end.
func signals() []string {
	return []string{"SIGCONT", "SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH"}
}

func (d *decoder) stopBlock(b *budget.Budget, block *hclsyntax.Block) {
	attrs := d.rule(stopSpec(), block, "signal, grace or then", `grace = "15m"`).attributes
	rule := (&budget.Budget{}).EffectiveStop()
	if attr := attrs["signal"]; attr != nil {
		switch word, ok := d.choice(attr, append(signals(), wordNone)); {
		case ok && word == wordNone:
			rule.Signal = ""
		case ok:
			rule.Signal = word
		}
	}
	if attr := attrs["grace"]; attr != nil {
		rule.Grace = d.durationOrNone(attr)
	}
	if attr := attrs["then"]; attr != nil {
		d.choice(attr, []string{"stop"})
	}
	b.Stop = &rule
	d.places[b].note("stop", block.DefRange())
}

func (d *decoder) queueBlock(b *budget.Budget, block *hclsyntax.Block) {
	attrs := d.rule(queueSpec(), block, "order or timeout", `order = "fair_share"`).attributes
	b.Queue = &budget.Queue{Source: sourceOf(block.DefRange())}
	if attr := attrs["order"]; attr != nil {
		switch word, _ := d.choice(attr, []string{"fifo", "priority", "fair_share"}); word {
		case "priority":
			b.Queue.Order = budget.ByPriority
		case "fair_share":
			b.Queue.Order = budget.ByFairShare
		}
	}
	if attr := attrs["timeout"]; attr != nil {
		b.Queue.Timeout = d.duration(attr)
	}
	d.places[b].note("queue", block.DefRange())
}

func (d *decoder) fairShareBlock(b *budget.Budget, block *hclsyntax.Block) {
	attrs := d.rule(fairShareSpec(), block, "weight or half_life", "weight = 3").attributes
	b.FairShare = &budget.FairShare{Weight: 1}
	if attr := attrs["weight"]; attr != nil {
		if n, ok := d.count(attr, countRange{least: 1, most: weightMax}); ok {
			b.FairShare.Weight = int64(n)
		}
	}
	if attr := attrs["half_life"]; attr != nil {
		b.FairShare.HalfLife = d.duration(attr)
	}
	d.places[b].note("fair_share", block.DefRange())
}

func (d *decoder) perRunBlock(b *budget.Budget, block *hclsyntax.Block) {
	attrs := d.rule(perRunSpec(), block, "cost, gpu_hours, energy, tokens, jobs, concurrency or wall_clock", "cost = 25").attributes
	run := &budget.PerRun{Caps: map[budget.Dimension]budget.JobLimit{}, Source: sourceOf(block.DefRange())}
	asCap := func(u unit) unit { return u.orNone(`"none" for nothing`) }
	for _, m := range d.all(attrs, []string{"gpu_hours", "cost", "energy", "tokens", "jobs"}, asCap) {
		run.Caps[m.dimension] = budget.JobLimit{Ceiling: m.limit, Source: sourceOf(m.at)}
		if m.dimension == budget.Cost {
			d.useCost(m.limit, m.at)
		}
	}
	if attr := attrs["concurrency"]; attr != nil {
		run.Concurrency, _ = d.count(attr, countRange{1, concurrencyMax, "remove the line for no bound"})
	}
	if attr := attrs["wall_clock"]; attr != nil {
		run.WallClock = d.duration(attr)
	}
	b.PerRun = run
}

func (d *decoder) overrideBlock(b *budget.Budget, block *hclsyntax.Block, names map[string]hcl.Range) {
	attrs := d.open(overrideSpec(), block.Body).attributes
	name, ok := d.name(block, overrideSpec())
	if !ok {
		return
	}
	if first, taken := names[name]; taken {
		d.report(duplicateName(block.DefRange(), "override", name, first))
		return
	}
	names[name] = block.DefRange()
	o := budget.Override{Name: name, ReasonRequired: true, Source: sourceOf(block.DefRange())}
	for _, needed := range [][2]string{{"who", `who = ["role:oncall"]`}, {"max", "max = { cost = 500 }"}, {"expires", `expires = "8h"`}} {
		if attrs[needed[0]] == nil {
			d.report(missing(block.DefRange(), "override", needed[0], needed[1]))
		}
	}
	if attr := attrs["who"]; attr != nil {
		o.Who = d.identities(attr)
	}
	if attr := attrs["max"]; attr != nil {
		measures := d.maxima(attr, []string{"gpus", "gpu_hours", "cost", "energy", "tokens"})
		o.Max = amounts(measures)
	}
	if attr := attrs["expires"]; attr != nil {
		o.Expires = d.duration(attr)
	}
	if attr := attrs["reason"]; attr != nil {
		word, _ := d.choice(attr, []string{"required", "optional"})
		o.ReasonRequired = word != "optional"
	}
	if attr := attrs["approval"]; attr != nil {
		o.Approvals, _ = d.count(attr, countRange{most: approvalsMax})
	}
	if attr := attrs["notify"]; attr != nil {
		o.Notify = d.notifiers(attr)
	}
	b.Overrides = append(b.Overrides, o)
	d.places[b].note("override "+name, block.DefRange())
}

func (d *decoder) alertBlock(b *budget.Budget, block *hclsyntax.Block, names map[string]hcl.Range) {
	attrs := d.open(alertSpec(), block.Body).attributes
	name, ok := d.name(block, alertSpec())
	if !ok {
		return
	}
	if first, taken := names[name]; taken {
		d.report(duplicateName(block.DefRange(), "alert", name, first))
		return
	}
	names[name] = block.DefRange()
	a := budget.Alert{Name: name, Source: sourceOf(block.DefRange())}
	for _, needed := range [][2]string{{"when", "when = forecast.cost > limit.cost"}, {"notify", "notify = [notify.webhook.finops]"}} {
		if attrs[needed[0]] == nil {
			d.report(missing(block.DefRange(), "alert", needed[0], needed[1]))
		}
	}
	if attr := attrs["notify"]; attr != nil {
		a.Notify = d.notifiers(attr)
	}
	if attr := attrs["when"]; attr != nil {
		if a.When, ok = d.condition(attr, "forecast", "limit", "burn_rate", "schedule", "now"); ok {
			b.Alerts = append(b.Alerts, a)
			d.places[b].note("alert "+name, block.DefRange())
		}
	}
}

// borrowing reads borrow and lend of a concurrent block.
func (d *decoder) borrowing(b *budget.Budget, attrs map[string]*hclsyntax.Attribute) {
	if attr := attrs["borrow"]; attr != nil {
		b.Borrow = map[string]quantity.Amount{}
		for _, a := range d.byClass(attr, gpuUnit().orNone(`"none" for nothing`)) {
			b.Borrow[a.class], _ = a.limit.Finite()
			d.places[b].note("borrow "+a.class, a.at)
		}
	}
	if attr := attrs["lend"]; attr != nil {
		b.Lend = map[string]quantity.Limit{}
		for _, a := range d.byClass(attr, gpuUnit()) {
			b.Lend[a.class] = a.limit
			d.places[b].note("lend "+a.class, a.at)
		}
	}
}
