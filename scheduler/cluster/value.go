package cluster

import (
	"cmp"
	"strconv"
	"strings"
)

// Value is a device attribute or the right side of a device constraint: a
// number with an optional unit, a boolean or a text.
type Value struct {
	kind   valueKind
	text   string
	truth  bool
	number float64
	unit   string
}

type valueKind uint8

const (
	kindText valueKind = iota
	kindNumber
	kindBool
)

// TextValue is a text, even when it looks like a number.
func TextValue(text string) Value { return Value{kind: kindText, text: text} }

// NumberValue is a number in the given unit; an empty unit is a plain number.
func NumberValue(number float64, unit string) Value {
	return Value{kind: kindNumber, number: number, unit: unit}
}

// BoolValue is a boolean.
func BoolValue(truth bool) Value { return Value{kind: kindBool, truth: truth} }

// units are the suffixes that Nomad knows (plugins/shared/structs/units.go),
// each with what it measures and how many base units it is.
var units = map[string]struct {
	base string
	size float64
}{
	"KiB": {"B", 1 << 10}, "MiB": {"B", 1 << 20}, "GiB": {"B", 1 << 30},
	"TiB": {"B", 1 << 40}, "PiB": {"B", 1 << 50}, "EiB": {"B", 1 << 60},
	"kB": {"B", 1e3}, "KB": {"B", 1e3}, "MB": {"B", 1e6}, "GB": {"B", 1e9},
	"TB": {"B", 1e12}, "PB": {"B", 1e15}, "EB": {"B", 1e18},
	"KiB/s": {"B/s", 1 << 10}, "MiB/s": {"B/s", 1 << 20}, "GiB/s": {"B/s", 1 << 30},
	"TiB/s": {"B/s", 1 << 40}, "PiB/s": {"B/s", 1 << 50}, "EiB/s": {"B/s", 1 << 60},
	"kB/s": {"B/s", 1e3}, "KB/s": {"B/s", 1e3}, "MB/s": {"B/s", 1e6}, "GB/s": {"B/s", 1e9},
	"TB/s": {"B/s", 1e12}, "PB/s": {"B/s", 1e15}, "EB/s": {"B/s", 1e18},
	"MHz": {"Hz", 1e6}, "GHz": {"Hz", 1e9},
	"mW": {"W", 1e-3}, "W": {"W", 1}, "kW": {"W", 1e3}, "MW": {"W", 1e6}, "GW": {"W", 1e9},
}

// ParseValue reads a literal as Nomad does: a number with an optional unit,
// then a boolean, else a text.
func ParseValue(text string) Value {
	numeric, unit := text, ""
	for name := range units {
		if strings.HasSuffix(text, name) && len(name) > len(unit) {
			unit = name
		}
	}
	if unit != "" {
		numeric = strings.TrimSpace(strings.TrimSuffix(text, unit))
	}
	if number, err := strconv.ParseFloat(numeric, 64); err == nil {
		return NumberValue(number, unit)
	}
	if truth, err := strconv.ParseBool(text); err == nil {
		return BoolValue(truth)
	}
	return TextValue(text)
}

// compare orders two values; ok is false for different kinds, for a
// unit against none, and for units of different things.
func (v Value) compare(o Value) (order int, ok bool) {
	if v.kind != o.kind {
		return 0, false
	}
	switch v.kind {
	case kindText:
		return cmp.Compare(v.text, o.text), true
	case kindBool:
		if v.truth == o.truth {
			return 0, true
		}
		return 1, true
	case kindNumber:
		left, right := units[v.unit], units[o.unit]
		if left.base != right.base {
			return 0, false
		}
		if v.unit == o.unit {
			return cmp.Compare(v.number, o.number), true
		}
		return cmp.Compare(v.number*left.size, o.number*right.size), true
	}
	panic("cluster: unknown kind of value")
}

// IsText reports whether the value is neither a number nor a boolean.
func (v Value) IsText() bool { return v.kind == kindText }

// String is the value as a person would write it.
func (v Value) String() string {
	switch v.kind {
	case kindNumber:
		return strconv.FormatFloat(v.number, 'f', -1, 64) + v.unit
	case kindBool:
		return strconv.FormatBool(v.truth)
	case kindText:
	}
	return v.text
}
