package budget

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// EffectiveSetting is one setting that applies to a budget, and where it comes
// from.
type EffectiveSetting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// From is the path of the budget that sets it, or "default".
	From string `json:"from"`
	// Source is the file and line, "" for a default.
	Source string `json:"source,omitempty"`
}

// fromDefault marks what no budget sets.
const fromDefault = "default"

// EffectiveSettings are all settings that apply to a budget: its own, the bounds
// of its ancestors, which all apply, what it inherits, and the defaults.
func (b *Budget) EffectiveSettings(currency string) []EffectiveSetting {
	out := []EffectiveSetting{}
	set := map[string]bool{}
	for _, node := range b.Ancestry() {
		nearer := set
		set = make(map[string]bool, len(nearer))
		for name := range nearer {
			set[name] = true
		}
		for _, s := range node.Settings(currency) {
			rule, inherits := inheritable(s.Name)
			switch {
			case s.Name == "":
				continue
			case node != b && !inherits && !bounds(s.Name):
				continue
			case inherits && nearer[rule]:
				continue
			}
			set[rule] = true
			out = append(out, EffectiveSetting{Name: s.Name, Value: s.Value, From: node.Path, Source: s.Source.String()})
		}
	}
	for _, d := range b.defaults() {
		if !set[d.Name] {
			out = append(out, d)
		}
	}
	return out
}

// inheritable is the rule that a setting belongs to, if rules of its kind are
// inherited from the nearest budget that sets them.
func inheritable(name string) (rule string, ok bool) {
	if strings.HasPrefix(name, "per_run ") {
		return "per_run", true
	}
	return name, slices.Contains([]string{"lease", "per_job default_runtime", "per_job reschedules", "enforcement", "priority", "soft",
		"over_budget admit", "over_budget running", "over_budget throttle", "over_budget stop", "queue", "reclaim", "max_idle", "undeclared_gpus",
		"placement mode"}, name)
}

// bounds reports whether a setting of an ancestor applies as well.
func bounds(name string) bool {
	head, rest, _ := strings.Cut(name, " ")
	switch head {
	case "limit", "max_committed", "per_job":
		return true
	case "concurrent":
		return !strings.HasPrefix(rest, "borrow ") && !strings.HasPrefix(rest, "lend ")
	}
	return false
}

// defaults are the rules where no budget sets any. The effective values are the
// defaults exactly then.
func (b *Budget) defaults() []EffectiveSetting {
	list := []EffectiveSetting{
		{Name: "lease", Value: FormatDuration(b.EffectiveLease())},
		{Name: "enforcement", Value: b.EffectiveLevel().word()},
		{Name: "priority", Value: strconv.Itoa(b.EffectivePriority())},
		{Name: "over_budget admit", Value: b.EffectiveAdmit().word()},
		{Name: "over_budget running", Value: b.EffectiveRunning().word()},
	}
	switch b.EffectiveRunning() {
	case ThrottleRunning:
		list = append(list, EffectiveSetting{Name: "over_budget throttle", Value: b.EffectiveThrottle().String()})
	case StopRunning:
		list = append(list, EffectiveSetting{Name: "over_budget stop", Value: b.EffectiveStop().String()})
	case LetFinish, RunningInherit:
	}
	if b.EffectiveAdmit() == AdmitQueue {
		list = append(list, EffectiveSetting{Name: "queue", Value: b.EffectiveQueue().text()})
	}
	undeclared := UndeclaredDeny.word()
	list = append(list, EffectiveSetting{Name: "undeclared_gpus", Value: undeclared})
	for i := range list {
		list[i].From = fromDefault
	}
	slices.SortStableFunc(list, func(x, y EffectiveSetting) int { return cmp.Compare(x.Name, y.Name) })
	return list
}

func (p Placement) word() string { return [...]string{"", "require", "prefer", "off"}[p] }

func (u Undeclared) word() string { return [...]string{"", "deny", "allow"}[u] }
