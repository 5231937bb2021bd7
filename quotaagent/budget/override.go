package budget

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/internal/quantity"
)

// Allows reports whether somebody with these names may use the override.
func (o Override) Allows(names []string) bool { return matchesAny(o.Who, names...) }

// FindOverride returns the budget's own override rule with this name.
func (b *Budget) FindOverride(name string) (Override, bool) {
	for _, o := range b.Overrides {
		if o.Name == name {
			return o, true
		}
	}
	return Override{}, false
}

// IsAgent reports whether the names are those of software that acts by itself,
// which may ask for things but approves nothing.
func IsAgent(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return name == "workload" || strings.HasPrefix(name, "mcp:") || strings.HasPrefix(name, "agent:")
	})
}

// ParseAmounts reads amounts as people write them, in the units of the language:
// "cost" = "500", "gpu_hours" or "gpu_hours.h100", "gpus.h100", "energy" in kWh,
// "tokens.output", "jobs".
func ParseAmounts(texts map[string]string) (map[Dimension]quantity.Amount, error) {
	amounts := make(map[Dimension]quantity.Amount, len(texts))
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		d, unit, err := parseDimension(name)
		if err != nil {
			return nil, err
		}
		amount, err := quantity.ParseDecimal(texts[name], unit)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, twice := amounts[d]; twice {
			return nil, fmt.Errorf("%s is given twice", name)
		}
		amounts[d] = amount
	}
	return amounts, nil
}

// parseDimension reads the name of an amount and the unit it is counted in.
func parseDimension(name string) (Dimension, quantity.Amount, error) {
	head, class, dotted := strings.Cut(name, ".")
	if !dotted {
		class = AnyClass
	}
	switch {
	case class == "":
	case name == "cost":
		return Cost, quantity.CurrencyUnit, nil
	case name == "energy":
		return Energy, quantity.KWh, nil
	case name == "jobs":
		return Jobs, 1, nil
	case head == "gpu_hours":
		return GPUTime(class), quantity.GPUHour, nil
	case head == "gpus":
		return GPUs(class), quantity.GPU, nil
	case head == "tokens" && slices.Contains(TokenKinds(), TokenKind(class)):
		return Tokens(TokenKind(class)), 1, nil
	}
	return "", 0, fmt.Errorf("%.40q is not an amount; there are cost, energy (kWh), gpu_hours, gpus, jobs, each GPU class by itself as "+
		"gpu_hours.<class> and gpus.<class>, and tokens.input, tokens.cached and tokens.output", name)
}

// Key is how the language writes a dimension: "cost", "gpu_hours.h100".
func (d Dimension) Key() string {
	var head string
	class := d.Class()
	switch {
	case d == Energy:
		return "energy"
	case d.IsGPUTime():
		head = "gpu_hours"
	case d.IsGPUs():
		head = "gpus"
	case d.IsTokens():
		return "tokens." + class
	default:
		return string(d)
	}
	if class == AnyClass {
		return head
	}
	return head + "." + class
}

// MayOpenRun reports whether somebody with these names may open agent runs of the
// budget: those whom its match rule names. A rule that names no identities says
// nothing about who somebody is before there is a job.
func (b *Budget) MayOpenRun(names []string) bool {
	return b.Match != nil && matchesAny(b.Match.Identities, names...)
}
