package budgetspec

import (
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/zclconf/go-cty/cty"
)

// notifierType is the type of references to notify blocks, so that text is not
// taken for one.
var notifierType = cty.Capsule("notifier", reflect.TypeFor[string]())

// notifierReference finds notify.<kind>.<name>.
func (d *decoder) notifierReference(t hcl.Traversal) (cty.Value, *hcl.Diagnostic) {
	declared := slices.Sorted(maps.Keys(d.notify))
	if len(t) != 3 {
		return cty.DynamicVal, incompleteReference(t.SourceRange(), "notify", declared)
	}
	kind, _ := stepName(t[1])
	last, _ := stepName(t[2])
	name := kind + "." + last
	if _, ok := d.notify[name]; !ok {
		if d.broken {
			return cty.DynamicVal, nil
		}
		return cty.DynamicVal, unknownNotifier(t.SourceRange(), name, declared)
	}
	return cty.CapsuleVal(notifierType, &name), nil
}

// notifiers reads a list of references to notify blocks, such as
// [notify.webhook.finops]: their names, "webhook.finops".
func (d *decoder) notifiers(attr *hclsyntax.Attribute) []string {
	var names []string
	for _, e := range d.elements(attr, "a list, such as [notify.webhook.finops]") {
		if e.value.Type() != notifierType {
			d.report(badNotifier(e.at, d.writtenAt(e.at)))
			continue
		}
		name := *e.value.EncapsulatedValue().(*string)
		if slices.Contains(names, name) {
			d.report(repeatedElement(e.at, attr.Name, "notify."+name))
			continue
		}
		names = append(names, name)
	}
	return names
}

// weekdays are the days as they are written, by time.Weekday.
func weekdays() []string { return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

func (d *decoder) scheduleBlock(block *hclsyntax.Block) {
	attrs := d.open(scheduleSpec(), block.Body).attributes
	name, ok := d.name(block, scheduleSpec())
	if !ok {
		return
	}
	if first := d.schedules[name]; first != block.DefRange() {
		d.report(duplicateName(block.DefRange(), "schedule", name, first))
		return
	}
	s := budget.Schedule{Name: name, Source: sourceOf(block.DefRange())}
	if attr := attrs["days"]; attr != nil {
		for _, e := range d.list(attr) {
			i := slices.Index(weekdays(), e.text)
			if i < 0 {
				d.report(unknownDay(e.at, e.text, weekdays()))
				continue
			}
			s.Days[i] = true
		}
	} else {
		d.report(missing(block.DefRange(), "schedule", "days", `days = ["mon", "tue", "wed", "thu", "fri"]`))
	}
	s.Start = d.timeOfDay(block, attrs["start"], "start", `start = "20:00"`)
	s.End = d.timeOfDay(block, attrs["end"], "end", `end = "06:00"`)
	d.policy.Schedules = append(d.policy.Schedules, s)
}

// timeOfDay reads "20:00" as minutes since midnight.
func (d *decoder) timeOfDay(block *hclsyntax.Block, attr *hclsyntax.Attribute, what, example string) int {
	if attr == nil {
		d.report(missing(block.DefRange(), "schedule", what, example))
		return 0
	}
	text, ok := d.text(attr)
	if !ok {
		return 0
	}
	t, err := time.Parse("15:04", text)
	if err != nil || len(text) != len("15:04") {
		d.report(badTimeOfDay(attr.Expr.Range(), what, text))
		return 0
	}
	return t.Hour()*60 + t.Minute()
}

// notifierKinds and notifierFormats are all there are.
func notifierKinds() []string { return []string{"webhook"} }

func notifierFormats() []string { return []string{"cloudevents"} }

// environmentName is the name of an environment variable.
var environmentName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (d *decoder) notifyBlock(block *hclsyntax.Block) {
	attrs := d.open(notifySpec(), block.Body).attributes
	if len(block.Labels) != 2 {
		d.report(wrongNotifyLabels(block.DefRange(), len(block.Labels)))
		return
	}
	n := budget.Notifier{Kind: block.Labels[0], Name: block.Labels[1], Format: notifierFormats()[0], Source: sourceOf(block.DefRange())}
	if !slices.Contains(notifierKinds(), n.Kind) {
		d.report(unknownNotifierKind(block.LabelRanges[0], n.Kind, notifierKinds()))
		return
	}
	if !validName(n.Name) {
		d.report(badName(block.LabelRanges[1], "notify", n.Name))
		return
	}
	if first := d.notify[n.Kind+"."+n.Name]; first != block.DefRange() {
		d.report(duplicateName(block.DefRange(), "notify", n.Kind+"."+n.Name, first))
		return
	}
	if attr := attrs["url"]; attr == nil {
		d.report(missing(block.DefRange(), "notify", "url", `url = "https://hooks.example.com/gpu"`))
	} else if text, ok := d.text(attr); ok {
		n.URL = text
		if !validWebhook(text) {
			d.report(badURL(attr.Expr.Range(), text))
		}
	}
	if attr := attrs["format"]; attr != nil {
		n.Format, _ = d.choice(attr, notifierFormats())
	}
	if attr := attrs["secret_env"]; attr != nil {
		if text, ok := d.text(attr); ok {
			n.SecretEnv = text
			if !environmentName.MatchString(text) {
				d.report(badEnvironmentName(attr.Expr.Range(), text))
			}
		}
	}
	if attr := attrs["events"]; attr != nil {
		for _, e := range d.list(attr) {
			if !budget.EventPattern(e.text) {
				d.report(badEventKind(e.at, e.text, budget.EventKinds()))
			}
			n.Events = append(n.Events, e.text)
		}
	}
	if attr := attrs["budgets"]; attr != nil {
		for _, e := range d.list(attr) {
			n.Budgets = append(n.Budgets, e.text)
			d.watched = append(d.watched, watchedBudget{e.text, e.at})
		}
	}
	d.policy.Notifiers = append(d.policy.Notifiers, n)
}

// watchedBudget is a budget that a notifier names.
type watchedBudget struct {
	path string
	at   hcl.Range
}

// checkWatched finds notifiers for budgets that there are not.
func (d *decoder) checkWatched() {
	var known []string
	d.policy.Walk(func(b *budget.Budget) { known = append(known, b.Path) })
	for _, w := range d.watched {
		if !d.broken && !slices.Contains(known, w.path) {
			d.report(unknownWatched(w.at, w.path, known))
		}
	}
}

// validWebhook reports whether a text is the address of an HTTP server, without a
// password: a policy is kept where many can read it.
func validWebhook(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.User == nil && u.Fragment == ""
}

func (d *decoder) assertBlock(block *hclsyntax.Block) {
	attrs := d.open(assertSpec(), block.Body).attributes
	name, ok := d.name(block, assertSpec())
	if !ok {
		return
	}
	if first, taken := d.asserts[name]; taken {
		d.report(duplicateName(block.DefRange(), "assert", name, first))
		return
	}
	d.asserts[name] = block.DefRange()
	a := budget.Assert{Name: name, Source: sourceOf(block.DefRange())}
	if attr := attrs["condition"]; attr == nil {
		d.report(missing(block.DefRange(), "assert", "condition", `condition = job.type != "system"`))
	} else if a.Condition, ok = d.condition(attr, "job", "submitter", "request", "now", "schedule", "estimate"); !ok {
		a.Condition = nil
	}
	if attr := attrs["error_message"]; attr == nil {
		d.report(missing(block.DefRange(), "assert", "error_message", `error_message = "System jobs are not for GPUs."`))
	} else {
		a.Message, _ = d.text(attr)
	}
	d.policy.Asserts = append(d.policy.Asserts, a)
}

func (d *decoder) movedBlock(block *hclsyntax.Block) {
	d.noLabel(block)
	attrs := d.open(movedSpec(), block.Body).attributes
	m := budget.Move{Source: sourceOf(block.DefRange())}
	complete := true
	for _, end := range []struct {
		name string
		path *string
	}{{"from", &m.From}, {"to", &m.To}} {
		attr := attrs[end.name]
		if attr == nil {
			d.report(missing(block.DefRange(), "moved", "both from and to", `from = "acme/ml"`))
			return
		}
		text, ok := d.text(attr)
		complete = complete && ok
		if ok && !validPath(text) {
			d.report(badPath(attr.Expr.Range(), end.name, text))
			complete = false
		}
		*end.path = text
	}
	if complete {
		d.policy.Moves = append(d.policy.Moves, m)
		d.moves = append(d.moves, block.DefRange())
	}
}

func validPath(path string) bool {
	names := strings.Split(path, "/")
	return len(names) <= depthMax && !slices.ContainsFunc(names, func(name string) bool { return !validName(name) })
}

// checkMoves finds moves without an effect.
func (d *decoder) checkMoves() {
	paths := map[string]*budget.Budget{}
	d.policy.Walk(func(b *budget.Budget) { paths[b.Path] = b })
	from := map[string]int{}
	for i, m := range d.policy.Moves {
		if first, taken := from[m.From]; taken {
			d.report(movedTwice(d.moves[i], m.From, d.moves[first]))
			continue
		}
		from[m.From] = i
	}
	for i, m := range d.policy.Moves {
		if b := paths[m.From]; b != nil {
			d.report(movedButThere(d.moves[i], m.From, b.Source))
			continue
		}
		end := m.To
		for range d.policy.Moves { // follow the chain, which may be a circle
			next, ok := from[end]
			if paths[end] != nil || !ok {
				break
			}
			end = d.policy.Moves[next].To
		}
		if paths[end] == nil && !d.diags.HasErrors() {
			d.report(movedNowhere(d.moves[i], m.From, m.To, slices.Sorted(maps.Keys(paths))))
		}
	}
}
