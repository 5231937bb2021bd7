package jobspec

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// metaMax bounds what is kept of a job's meta with its hold, keys and values
// together, in bytes: authors put whole configurations there.
const metaMax = 4 << 10

// ownMeta is the prefix of the meta keys that mean something to Governor. They
// are kept whatever the others take.
const ownMeta = "governor_"

// Facts are what conditions of the policy may depend on.
func (a Ask) Facts() budget.JobFacts {
	f := budget.JobFacts{
		ID: a.JobID, Name: cmp.Or(a.Name, a.JobID), Namespace: a.Namespace, Region: a.Region, Type: a.Type, NodePool: cmp.Or(a.NodePool, api.NodePoolDefault),
		Priority: a.Priority, GPUs: a.GPUs(), Datacenters: slices.Clone(a.Datacenters), Meta: boundedMeta(a.Meta),
	}
	for _, g := range a.Groups {
		for _, d := range g.Devices {
			vendor, typ, model := d.identity()
			f.Devices = append(f.Devices, budget.DeviceFacts{Group: g.Name, Task: d.Task, Name: d.Name, Vendor: vendor, Type: typ, Model: model, Count: d.Count})
		}
	}
	return f
}

// boundedMeta is meta without its longest values, as far as it takes more than
// metaMax bytes. Of equal lengths the later key goes first.
func boundedMeta(meta map[string]string) map[string]string {
	size := 0
	for k, v := range meta {
		size += len(k) + len(v)
	}
	if size <= metaMax {
		return maps.Clone(meta)
	}
	kept := maps.Clone(meta)
	keys := slices.SortedFunc(maps.Keys(meta), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(meta[b]), len(meta[a])), strings.Compare(b, a))
	})
	for _, k := range keys {
		if size <= metaMax {
			break
		}
		if !strings.HasPrefix(k, ownMeta) {
			size -= len(k) + len(kept[k])
			delete(kept, k)
		}
	}
	return kept
}

// The targets of constraints that say what a device is.
const (
	targetVendor = "${device.vendor}"
	targetType   = "${device.type}"
	targetModel  = "${device.model}"
)

// identity is what the block says about its devices: by its name, else by a
// constraint that leaves one value.
func (d DeviceAsk) identity() (vendor, typ, model string) {
	parts := strings.SplitN(d.Name, "/", 3)
	switch len(parts) {
	case 1:
		typ = parts[0]
	case 2:
		vendor, typ = parts[0], parts[1]
	default:
		vendor, typ, model = parts[0], parts[1], parts[2]
	}
	for _, c := range d.Constraints {
		target, text := c.LTarget, c.RTarget
		if !isIdentity(target) {
			target, text = c.RTarget, c.LTarget
		}
		if !isEqual(c.Operand) || strings.HasPrefix(text, "${") {
			continue
		}
		switch target {
		case targetVendor:
			vendor = cmp.Or(vendor, text)
		case targetType:
			typ = cmp.Or(typ, text)
		case targetModel:
			model = cmp.Or(model, text)
		}
	}
	return vendor, typ, model
}

// MayServe reports whether devices of vendor/type/model could serve the block.
// What it cannot judge it takes for possible.
func (d DeviceAsk) MayServe(vendor, typ, model string) bool {
	if !gpu.MatchesName(d.Name, vendor, typ, model) {
		return false
	}
	of := map[string]string{targetVendor: vendor, targetType: typ, targetModel: model}
	for _, c := range d.Constraints {
		left, right := c.LTarget, c.RTarget
		if v, ok := of[left]; ok {
			left = v
		}
		if v, ok := of[right]; ok {
			right = v
		}
		if excluded(c.Operand, left, right) {
			return false
		}
	}
	return true
}

// excluded reports that a constraint on two texts cannot hold.
func excluded(operand, left, right string) bool {
	if strings.HasPrefix(left, "${") || strings.HasPrefix(right, "${") {
		return false // about something that is not known here
	}
	switch {
	case isEqual(operand):
		return left != right
	case operand == "!=" || operand == "not":
		return left == right
	case operand == api.ConstraintRegex:
		re, err := regexp.Compile(right)
		return err == nil && !re.MatchString(left)
	case operand == api.ConstraintSetContainsAny:
		return !slices.ContainsFunc(strings.Split(right, ","), func(s string) bool { return strings.TrimSpace(s) == left })
	}
	return false
}

func isEqual(operand string) bool { return operand == "=" || operand == "==" || operand == "is" }

func isIdentity(target string) bool {
	return target == targetVendor || target == targetType || target == targetModel
}

// identityConstraints keeps the constraints that say what a device is.
func identityConstraints(constraints []*api.Constraint) []Constraint {
	var out []Constraint
	for _, c := range constraints {
		if c != nil && (isIdentity(c.LTarget) || isIdentity(c.RTarget)) {
			out = append(out, Constraint{LTarget: c.LTarget, RTarget: c.RTarget, Operand: c.Operand})
		}
	}
	return out
}
