package budgetspec

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/zclconf/go-cty/cty"
)

// lateRoots are the names that conditions may refer to, in order. What they stand
// for is known only when a job comes.
func lateRoots() []string {
	return []string{"estimate", "forecast", "job", "limit", "now", "request", "schedule", "submitter"}
}

// fact is what one reference in a condition stands for.
type fact struct {
	// typical is a value with the fact's type: of unknown text and numbers, in
	// lists and maps of one element.
	typical cty.Value
	// get is the value for a job, or false when it is not known.
	get func(f *budget.Facts, zone *time.Location) (cty.Value, bool)
	// words are all values of a text that has only a few.
	words []string
}

// textFact is a text that is not known when it is empty.
func textFact(get func(*budget.Facts) string, words ...string) fact {
	return fact{typical: cty.UnknownVal(cty.String), words: words, get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
		text := get(f)
		return cty.StringVal(text), text != ""
	}}
}

func listFact(get func(*budget.Facts) []string) fact {
	return fact{typical: cty.ListVal([]cty.Value{cty.UnknownVal(cty.String)}), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
		return texts(get(f)), true
	}}
}

func texts(list []string) cty.Value {
	if len(list) == 0 {
		return cty.ListValEmpty(cty.String)
	}
	values := make([]cty.Value, len(list))
	for i, text := range list {
		values[i] = cty.StringVal(text)
	}
	return cty.ListVal(values)
}

// orNull is a text, or null for one that is not there.
func orNull(text string) cty.Value {
	if text == "" {
		return cty.NullVal(cty.String)
	}
	return cty.StringVal(text)
}

// jobTypes and requestKinds are all there are.
func jobTypes() []string { return []string{"batch", "service", "sysbatch", "system"} }

func requestKinds() []string {
	return []string{"dispatch", "periodic", "plan", "register", "revert", "scale", "validate"}
}

// jobFacts are the attributes of job.
func jobFacts() map[string]fact {
	return map[string]fact{
		"id":          textFact(func(f *budget.Facts) string { return f.Job.ID }),
		"name":        textFact(func(f *budget.Facts) string { return f.Job.Name }),
		"namespace":   textFact(func(f *budget.Facts) string { return f.Job.Namespace }),
		"region":      textFact(func(f *budget.Facts) string { return f.Job.Region }),
		"type":        textFact(func(f *budget.Facts) string { return f.Job.Type }, jobTypes()...),
		"node_pool":   textFact(func(f *budget.Facts) string { return f.Job.NodePool }),
		"datacenters": listFact(func(f *budget.Facts) []string { return f.Job.Datacenters }),
		"priority": {typical: cty.UnknownVal(cty.Number), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
			return cty.NumberIntVal(int64(f.Job.Priority)), f.Job.Priority != 0
		}},
		"gpus": {typical: cty.UnknownVal(cty.Number), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
			return cty.NumberIntVal(int64(f.Job.GPUs)), true
		}},
		"meta": {typical: cty.MapVal(map[string]cty.Value{"key": cty.UnknownVal(cty.String)}), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
			return textMap(f.Job.Meta), true
		}},
		"devices": {typical: cty.ListVal([]cty.Value{typicalDevice()}), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
			return devices(f.Job.Devices), true
		}},
	}
}

func textMap(m map[string]string) cty.Value {
	if len(m) == 0 {
		return cty.MapValEmpty(cty.String)
	}
	values := make(map[string]cty.Value, len(m))
	for key, text := range m {
		values[key] = cty.StringVal(text)
	}
	return cty.MapVal(values)
}

// metaFact is job.meta.<key>: null for a job without it.
func metaFact(key string) fact {
	return fact{typical: cty.UnknownVal(cty.String), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
		text, ok := f.Job.Meta[key]
		if !ok {
			return cty.NullVal(cty.String), true
		}
		return cty.StringVal(text), true
	}}
}

func typicalDevice() cty.Value {
	unknown := cty.UnknownVal(cty.String)
	return cty.ObjectVal(map[string]cty.Value{
		"group": unknown, "task": unknown, "name": unknown, "vendor": unknown, "type": unknown, "model": unknown, "count": cty.UnknownVal(cty.Number),
	})
}

func devices(list []budget.DeviceFacts) cty.Value {
	if len(list) == 0 {
		return cty.ListValEmpty(typicalDevice().Type())
	}
	values := make([]cty.Value, len(list))
	for i, d := range list {
		values[i] = cty.ObjectVal(map[string]cty.Value{
			"group": orNull(d.Group), "task": orNull(d.Task), "name": orNull(d.Name), "vendor": orNull(d.Vendor), "type": orNull(d.Type),
			"model": orNull(d.Model), "count": cty.NumberIntVal(int64(d.Count)),
		})
	}
	return cty.ListVal(values)
}

func submitterFacts() map[string]fact {
	return map[string]fact{
		"accessor": {typical: cty.UnknownVal(cty.String), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
			return orNull(f.Submitter.Accessor), true
		}},
		"names": listFact(func(f *budget.Facts) []string { return f.Submitter.Names }),
	}
}

func requestFacts() map[string]fact {
	return map[string]fact{
		"kind": textFact(func(f *budget.Facts) string { return f.Request.Kind }, requestKinds()...),
		"policy_override": {typical: cty.UnknownVal(cty.Bool), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
			return cty.BoolVal(f.Request.PolicyOverride), f.Request.Kind != ""
		}},
	}
}

func nowFact() fact {
	return fact{typical: cty.UnknownVal(cty.String), get: func(f *budget.Facts, zone *time.Location) (cty.Value, bool) {
		return cty.StringVal(f.Now.In(cmp.Or(zone, time.UTC)).Format(time.RFC3339)), !f.Now.IsZero()
	}}
}

func scheduleFact(name string) fact {
	return fact{typical: cty.UnknownVal(cty.Bool), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
		on, known := f.Schedules[name]
		return cty.BoolVal(on), known
	}}
}

// amountsOf are the amounts that a root stands for; false when they are not known.
func amountsOf(root string) func(f *budget.Facts) (budget.Amounts, bool) {
	return func(f *budget.Facts) (budget.Amounts, bool) {
		a := map[string]budget.Amounts{"estimate": f.Estimate, "limit": f.Limit, "forecast": f.Forecast}[root]
		return a, a.Cost != 0 || a.Energy != 0 || a.GPUHours != nil || a.Tokens != nil
	}
}

// amountFacts are the attributes of estimate, limit and forecast.
func amountFacts(root string) map[string]fact {
	amounts := amountsOf(root)
	single := func(get func(budget.Amounts) float64) fact {
		return fact{typical: cty.UnknownVal(cty.Number), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
			a, known := amounts(f)
			return amount(get(a), root), known
		}}
	}
	byName := func(get func(budget.Amounts) map[string]float64) fact {
		return fact{typical: cty.MapVal(map[string]cty.Value{"any": cty.UnknownVal(cty.Number)}), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
			a, known := amounts(f)
			values := map[string]cty.Value{}
			for name, n := range get(a) {
				values[name] = amount(n, root)
			}
			if len(values) == 0 {
				return cty.MapValEmpty(cty.Number), known
			}
			return cty.MapVal(values), known
		}}
	}
	return map[string]fact{
		"cost":      single(func(a budget.Amounts) float64 { return a.Cost }),
		"energy":    single(func(a budget.Amounts) float64 { return a.Energy }),
		"gpu_hours": byName(func(a budget.Amounts) map[string]float64 { return a.GPUHours }),
		"tokens":    byName(func(a budget.Amounts) map[string]float64 { return a.Tokens }),
	}
}

// amount is a number; null for a limit that is not set.
func amount(n float64, root string) cty.Value {
	if math.IsNaN(n) || math.IsInf(n, 0) || root == "limit" && n == 0 {
		return cty.NullVal(cty.Number)
	}
	return cty.NumberFloatVal(n)
}

// amountFact is estimate.gpu_hours.<class> and the like: what is not there is
// zero, and null for a limit.
func amountFact(root, attribute, name string) fact {
	amounts := amountsOf(root)
	return fact{typical: cty.UnknownVal(cty.Number), get: func(f *budget.Facts, _ *time.Location) (cty.Value, bool) {
		a, known := amounts(f)
		if attribute == "tokens" {
			return amount(a.Tokens[name], root), known
		}
		return amount(a.GPUHours[name], root), known
	}}
}

// stepName is the name that a step of a reference takes: .name or ["name"].
func stepName(step hcl.Traverser) (string, bool) {
	switch step := step.(type) {
	case hcl.TraverseAttr:
		return step.Name, true
	case hcl.TraverseIndex:
		if step.Key.Type() == cty.String {
			return asText(step.Key)
		}
	}
	return "", false
}

// lateFact finds what a reference with a late root stands for, and the steps that
// remain.
func (d *decoder) lateFact(t hcl.Traversal) (fact, hcl.Traversal, *hcl.Diagnostic) {
	root := t.RootName()
	if root == "now" {
		return nowFact(), t[1:], nil
	}
	facts := d.factsOf(root)
	names := slices.Sorted(maps.Keys(facts))
	if len(t) == 1 {
		return fact{}, nil, incompleteReference(t.SourceRange(), root, names)
	}
	name, ok := stepName(t[1])
	found, known := facts[name]
	if !ok || !known {
		if root == "schedule" && d.broken {
			return scheduleFact(name), nil, nil // it may be in the file that is broken
		}
		return fact{}, nil, unknownFact(t[1].SourceRange(), root, name, names)
	}
	if len(t) == 2 {
		return found, nil, nil
	}
	inner, ok := stepName(t[2])
	if !ok {
		return found, t[2:], nil
	}
	switch name {
	case "meta":
		return metaFact(inner), t[3:], nil
	case "gpu_hours":
		d.useClass(inner, t[2].SourceRange())
		return amountFact(root, name, inner), t[3:], nil
	case "tokens":
		var kinds []string
		for _, k := range budget.TokenKinds() {
			kinds = append(kinds, string(k))
		}
		if !slices.Contains(kinds, inner) {
			return fact{}, nil, unknownFact(t[2].SourceRange(), root+".tokens", inner, kinds)
		}
		return amountFact(root, name, inner), t[3:], nil
	}
	return found, t[2:], nil
}

// factsOf are the attributes of a late root.
func (d *decoder) factsOf(root string) map[string]fact {
	switch root {
	case "job":
		return jobFacts()
	case "submitter":
		return submitterFacts()
	case "request":
		return requestFacts()
	case "schedule":
		facts := map[string]fact{}
		for name := range d.schedules {
			facts[name] = scheduleFact(name)
		}
		return facts
	}
	return amountFacts(root)
}
