package cluster

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Targets that placement writes and recognises.
const (
	TargetDeviceIDs = "${device.ids}"
	TargetNodeID    = "${node.unique.id}"
)

// Constraint is Nomad's constraint object.
type Constraint struct {
	LTarget string
	Operand string
	RTarget string
}

// Verdict is whether a constraint holds.
type Verdict uint8

// The verdicts. Unknown is for what placement cannot evaluate: version
// operators, attributes that were not read, operators of a newer Nomad. It is
// treated as Holds, because Nomad itself has the last word.
const (
	Fails Verdict = iota
	Unknown
	Holds
)

func verdict(holds bool) Verdict {
	if holds {
		return Holds
	}
	return Fails
}

// OnNode evaluates the constraint on a node, with the rules of Nomad's
// checkConstraint (scheduler/feasible/feasible.go): values are texts, and
// ordering is numeric when both sides are numbers.
func (c Constraint) OnNode(n *Node) Verdict {
	left, leftFound, leftKnown := n.resolve(c.LTarget)
	right, rightFound, rightKnown := n.resolve(c.RTarget)
	if !leftKnown || !rightKnown {
		return Unknown
	}
	both := leftFound && rightFound
	switch c.Operand {
	case "=", "==", "is":
		return verdict(both && left == right)
	case "!=", "not":
		return verdict(left != right)
	case "<", "<=", ">", ">=":
		return verdict(both && ordered(c.Operand, compareTexts(left, right)))
	}
	return c.textual(left, right, leftFound, both)
}

// OnGroup evaluates the constraint of a device block on a device group.
func (c Constraint) OnGroup(g *Group) Verdict {
	left, leftFound := g.resolve(c.LTarget)
	right, rightFound := g.resolve(c.RTarget)
	both := leftFound && rightFound
	switch c.Operand {
	case "=", "==", "is", "<", "<=", ">", ">=":
		order, ok := left.compare(right)
		return verdict(both && ok && ordered(c.Operand, order))
	case "!=", "not":
		if leftFound != rightFound {
			return Holds
		}
		order, ok := left.compare(right)
		return verdict(both && ok && order != 0)
	case "regexp", "set_contains", "set_contains_all", "set_contains_any":
		if left.kind != kindText || right.kind != kindText {
			return Fails
		}
	}
	return c.textual(left.text, right.text, leftFound, both)
}

// textual evaluates the operators that work on texts only.
func (c Constraint) textual(left, right string, leftFound, both bool) Verdict {
	switch c.Operand {
	case "distinct_hosts", "distinct_property":
		return Holds // about other allocations, not about this node
	case "is_set":
		return verdict(leftFound)
	case "is_not_set":
		return verdict(!leftFound)
	case "regexp":
		re, err := regexp.Compile(right)
		return verdict(both && err == nil && re.MatchString(left))
	case "set_contains", "set_contains_all":
		return verdict(both && containsAll(left, right))
	case "set_contains_any":
		return verdict(both && containsAny(left, right))
	}
	return Unknown
}

func ordered(operand string, order int) bool {
	switch operand {
	case "=", "==", "is":
		return order == 0
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	case ">=":
		return order >= 0
	}
	return false
}

func compareTexts(left, right string) int {
	l, errLeft := strconv.ParseFloat(left, 64)
	r, errRight := strconv.ParseFloat(right, 64)
	if errLeft == nil && errRight == nil {
		return cmp.Compare(l, r)
	}
	return cmp.Compare(left, right)
}

func splitSet(text string) []string {
	parts := strings.Split(text, ",")
	for i, part := range parts {
		parts[i] = strings.TrimSpace(part)
	}
	return parts
}

func containsAll(set, wanted string) bool {
	have := splitSet(set)
	for _, w := range splitSet(wanted) {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

func containsAny(set, wanted string) bool {
	have := splitSet(set)
	return slices.ContainsFunc(splitSet(wanted), func(w string) bool { return slices.Contains(have, w) })
}

// inner returns what stands between prefix and the closing brace.
func inner(target, prefix string) (string, bool) {
	if !strings.HasPrefix(target, prefix) {
		return "", false
	}
	return strings.TrimSuffix(strings.TrimPrefix(target, prefix), "}"), true
}

// resolve gives the text of a target on the node; found is false when the node
// has no such attribute, known is false when its attributes were not read.
func (n *Node) resolve(target string) (text string, found, known bool) {
	if !strings.HasPrefix(target, "${") {
		return target, true, true
	}
	switch target {
	case TargetNodeID:
		return n.ID, true, true
	case "${node.unique.name}":
		return n.Name, true, true
	case "${node.datacenter}":
		return n.Datacenter, true, true
	case "${node.class}":
		return n.Class, true, true
	case "${node.pool}":
		return n.Pool, true, true
	}
	if name, ok := inner(target, "${attr."); ok {
		text, found = n.Attributes[name]
		return text, found, n.Attributes != nil
	}
	if name, ok := inner(target, "${meta."); ok {
		text, found = n.Meta[name]
		return text, found, n.Meta != nil
	}
	return "", false, false
}

// Text is what an interpolation such as "${meta.rack}" is on the node; "" where the
// node has no such attribute, or it was not read.
func (n *Node) Text(target string) string {
	text, found, known := n.resolve(target)
	if !found || !known {
		return ""
	}
	return text
}

func (g *Group) resolve(target string) (Value, bool) {
	if !strings.HasPrefix(target, "${") {
		return ParseValue(target), true
	}
	switch target {
	case TargetDeviceIDs:
		return TextValue(g.joinedIDs()), true
	case "${device.model}":
		return TextValue(g.Model), true
	case "${device.vendor}":
		return TextValue(g.Vendor), true
	case "${device.type}":
		return TextValue(g.Type), true
	}
	if name, ok := inner(target, "${device.attr."); ok {
		v, found := g.Attributes[name]
		return v, found
	}
	return Value{}, false
}
