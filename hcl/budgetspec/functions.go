package budgetspec

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"

	"github.com/nomad-governor/governor/quotaagent/budget"
)

// burnRate is the one function whose value depends on when it is called. It is
// there in conditions of alerts only.
const burnRate = "burn_rate"

// pureFunction is a function of the language: its value depends on nothing but
// its arguments.
type pureFunction struct {
	function.Function
	// cost is how many steps a call takes beyond looking at all its arguments; nil
	// for none.
	cost func(args []cty.Value) int
	// params and rest are those of the function, which copies them each time.
	params []function.Parameter
	rest   *function.Parameter
}

// param is the i-th parameter; nil for an argument too many.
func (f pureFunction) param(i int) *function.Parameter {
	if i < len(f.params) {
		return &f.params[i]
	}
	return f.rest
}

// tooManySteps is more than any expression has.
const tooManySteps = moduleStepsMax + 1

// steps is what a call costs, before it is made.
func (f pureFunction) steps(args []cty.Value) int {
	total := 0
	for _, arg := range args {
		n, _ := size(arg, tooManySteps)
		total += n
	}
	if f.cost != nil && total < tooManySteps {
		total += f.cost(args)
	}
	return total
}

// Functions are the names of all functions of the language, in order.
func Functions() []string {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(functions())), "can", "try", burnRate)))
}

func functionNamed(name string) (pureFunction, bool) {
	f, ok := functions()[name]
	return f, ok
}

// functions are all but those that the machine knows itself. Nothing in them
// changes, so they can be called at the same time.
var functions = sync.OnceValue(func() map[string]pureFunction {
	all := map[string]pureFunction{}
	for name, f := range plainFunctions() {
		all[name] = pureFunction{Function: f}
	}
	for name, f := range map[string]pureFunction{
		"distinct": {Function: stdlib.DistinctFunc, cost: squared},
		"format":   {Function: stdlib.FormatFunc, cost: formatCost},
		"indent":   {Function: stdlib.IndentFunc, cost: indentCost},
		"join":     {Function: stdlib.JoinFunc, cost: joinCost},
		"regex":    {Function: stdlib.RegexFunc, cost: regexCost},
		"regexall": {Function: stdlib.RegexAllFunc, cost: regexCost},
		"replace":  {Function: stdlib.ReplaceFunc, cost: replaceCost},
		"glob":     {Function: globFunc(), cost: globCost},
	} {
		all[name] = f
	}
	for name, f := range all {
		f.params, f.rest = f.Params(), f.VarParam()
		all[name] = f
	}
	return all
})

// plainFunctions are those whose work is proportional to what goes in and comes
// out: the names are those of Terraform and Nomad.
func plainFunctions() map[string]function.Function {
	return map[string]function.Function{
		"abs": stdlib.AbsoluteFunc, "ceil": stdlib.CeilFunc, "floor": stdlib.FloorFunc, "log": stdlib.LogFunc, "max": stdlib.MaxFunc,
		"min": stdlib.MinFunc, "range": stdlib.RangeFunc, "parseint": stdlib.ParseIntFunc, "pow": stdlib.PowFunc, "signum": stdlib.SignumFunc, "sum": sumFunc(),

		"chomp": stdlib.ChompFunc, "endswith": textTest(strings.HasSuffix), "lower": stdlib.LowerFunc, "split": stdlib.SplitFunc,
		"startswith": textTest(strings.HasPrefix), "strcontains": textTest(strings.Contains), "strrev": stdlib.ReverseFunc,
		"substr": stdlib.SubstrFunc, "title": stdlib.TitleFunc, "trim": stdlib.TrimFunc, "trimprefix": stdlib.TrimPrefixFunc,
		"trimspace": stdlib.TrimSpaceFunc, "trimsuffix": stdlib.TrimSuffixFunc, "upper": stdlib.UpperFunc,

		"alltrue": quantifier(true), "anytrue": quantifier(false), "chunklist": stdlib.ChunklistFunc, "coalesce": stdlib.CoalesceFunc,
		"coalescelist": stdlib.CoalesceListFunc, "compact": stdlib.CompactFunc, "concat": stdlib.ConcatFunc, "contains": stdlib.ContainsFunc,
		"element": stdlib.ElementFunc, "flatten": stdlib.FlattenFunc, "keys": stdlib.KeysFunc, "length": lengthFunc(), "lookup": stdlib.LookupFunc,
		"merge": stdlib.MergeFunc, "one": oneFunc(), "reverse": stdlib.ReverseListFunc, "setintersection": stdlib.SetIntersectionFunc,
		"setsubtract": stdlib.SetSubtractFunc, "setunion": stdlib.SetUnionFunc, "slice": stdlib.SliceFunc, "sort": stdlib.SortFunc,
		"values": stdlib.ValuesFunc, "zipmap": stdlib.ZipmapFunc,

		"tobool": stdlib.MakeToFunc(cty.Bool), "tonumber": stdlib.MakeToFunc(cty.Number), "tostring": stdlib.MakeToFunc(cty.String),
		"tolist": stdlib.MakeToFunc(cty.List(cty.DynamicPseudoType)), "tomap": stdlib.MakeToFunc(cty.Map(cty.DynamicPseudoType)),
		"toset": stdlib.MakeToFunc(cty.Set(cty.DynamicPseudoType)),

		"jsondecode": stdlib.JSONDecodeFunc, "jsonencode": stdlib.JSONEncodeFunc,

		"formatdate": stdlib.FormatDateFunc, "timeadd": stdlib.TimeAddFunc, "timecmp": timecmpFunc(),
	}
}

// hermetic says of a function of other languages why it is not here.
func hermetic(name string) bool {
	return slices.Contains(strings.Fields("abspath basename env file filebase64 fileexists fileset filemd5 filesha256 pathexpand plantimestamp "+
		"templatefile timestamp uuid uuidv4 uuidv5 vault"), name)
}

// ofText is the text of an argument; "" when it is not known or null.
func ofText(v cty.Value) string {
	if v.Type() != cty.String || v.IsNull() || !v.IsKnown() {
		return ""
	}
	return v.AsString()
}

// count is how many elements a value has.
func elements(v cty.Value) int {
	if v.IsNull() || !v.IsKnown() || !v.CanIterateElements() {
		return 0
	}
	return v.LengthInt()
}

// product multiplies sizes; one that is too large for any expression, also in
// parts, stays so.
func product(a, b int) int {
	const huge = tooManySteps << 10
	if a > 0 && b > huge/a {
		return huge
	}
	return a * b
}

func squared(args []cty.Value) int { return product(elements(args[0]), elements(args[0])) / 4 }

func joinCost(args []cty.Value) int {
	n := 0
	for _, list := range args[1:] {
		n += elements(list)
	}
	return product(len(ofText(args[0])), n) / textStep
}

func replaceCost(args []cty.Value) int {
	matches := len(ofText(args[0]))/max(1, len(ofText(args[1]))) + 1
	return product(matches, len(ofText(args[2]))) / textStep
}

func indentCost(args []cty.Value) int {
	if args[0].IsNull() || !args[0].IsKnown() {
		return 0
	}
	spaces, _ := args[0].AsBigFloat().Int64()
	if spaces < 0 || spaces > tooManySteps {
		return tooManySteps
	}
	return product(int(spaces), strings.Count(ofText(args[1]), "\n")+1) / textStep
}

// wideFormat finds a width or precision of a thousand and more.
var wideFormat = regexp.MustCompile(`[0-9]{4}|\*`)

func formatCost(args []cty.Value) int {
	if wideFormat.MatchString(ofText(args[0])) {
		return tooManySteps
	}
	return strings.Count(ofText(args[0]), "%") * 1000 / textStep
}

// regexCost is what matching takes at most: each instruction at each byte.
func regexCost(args []cty.Value) int {
	parsed, err := syntax.Parse(ofText(args[0]), syntax.Perl)
	if err != nil {
		return 0 // the call will say so
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0
	}
	return product(len(program.Inst), len(ofText(args[1]))+textStep) / 16
}

func globCost(args []cty.Value) int {
	return product(len(ofText(args[0])), len(ofText(args[1]))) / textStep
}

// textTest is a function of two texts that is true or false. Like glob it is
// false of null: what a job does not say has no prefix.
func textTest(test func(text, part string) bool) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "text", Type: cty.String, AllowNull: true}, {Name: "part", Type: cty.String}},
		Type:   function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.BoolVal(!args[0].IsNull() && test(args[0].AsString(), args[1].AsString())), nil
		},
	})
}

// globFunc is glob(pattern, text), with the patterns of match blocks.
func globFunc() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "pattern", Type: cty.String}, {Name: "text", Type: cty.String, AllowNull: true}},
		Type:   function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.BoolVal(!args[1].IsNull() && budget.MatchesGlob(args[0].AsString(), args[1].AsString())), nil
		},
	})
}

// quantifier is alltrue or anytrue: whether every, or some, element of a list is
// true. Null is not.
func quantifier(all bool) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "list", Type: cty.List(cty.Bool), AllowUnknown: true}},
		Type:   function.StaticReturnType(cty.Bool),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if !args[0].IsKnown() {
				return cty.UnknownVal(cty.Bool), nil
			}
			unknown := false
			for it := args[0].ElementIterator(); it.Next(); {
				_, v := it.Element()
				switch {
				case !v.IsKnown():
					unknown = true
				case !v.IsNull() && v.True() != all:
					return cty.BoolVal(!all), nil
				case v.IsNull() && all:
					return cty.False, nil
				}
			}
			if unknown {
				return cty.UnknownVal(cty.Bool), nil
			}
			return cty.BoolVal(all), nil
		},
	})
}

// sumFunc is the sum of a list of numbers, 0 for none.
func sumFunc() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "list", Type: cty.List(cty.Number)}},
		Type:   function.StaticReturnType(cty.Number),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			total := cty.Zero
			for it := args[0].ElementIterator(); it.Next(); {
				_, v := it.Element()
				switch {
				case v.IsNull():
					return cty.NilVal, errors.New("an element is null")
				case !v.IsKnown():
					return cty.UnknownVal(cty.Number), nil
				}
				total = total.Add(v)
			}
			return total, nil
		},
	})
}

// lengthFunc is how many elements a list or map has, or characters a text.
func lengthFunc() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType, AllowUnknown: true, AllowDynamicType: true}},
		Type: func(args []cty.Value) (cty.Type, error) {
			t := args[0].Type()
			if t != cty.String && t != cty.DynamicPseudoType && !t.IsCollectionType() && !t.IsTupleType() && !t.IsObjectType() {
				return cty.Number, errors.New("only a list, a map or text has a length")
			}
			return cty.Number, nil
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			v := args[0]
			switch {
			case !v.IsKnown():
				return cty.UnknownVal(cty.Number), nil
			case v.Type() == cty.String:
				return stdlib.Strlen(v)
			}
			return cty.NumberIntVal(int64(v.LengthInt())), nil
		},
	})
}

// oneFunc is the only element of a list, or null of an empty one.
func oneFunc() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "list", Type: cty.DynamicPseudoType}},
		Type: func(args []cty.Value) (cty.Type, error) {
			t := args[0].Type()
			switch {
			case t.IsListType() || t.IsSetType():
				return t.ElementType(), nil
			case t.IsTupleType() && t.Length() == 0:
				return cty.DynamicPseudoType, nil
			case t.IsTupleType() && t.Length() == 1:
				return t.TupleElementType(0), nil
			case t.IsTupleType():
				return cty.DynamicPseudoType, errors.New("the list has more than one element")
			}
			return cty.DynamicPseudoType, errors.New("it must be a list")
		},
		Impl: func(args []cty.Value, t cty.Type) (cty.Value, error) {
			switch args[0].LengthInt() {
			case 0:
				return cty.NullVal(t), nil
			case 1:
				return args[0].AsValueSlice()[0], nil
			}
			return cty.NilVal, errors.New("the list has more than one element")
		},
	})
}

// timecmpFunc compares two times: -1, 0 or 1.
func timecmpFunc() function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "a", Type: cty.String}, {Name: "b", Type: cty.String}},
		Type:   function.StaticReturnType(cty.Number),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			var times [2]time.Time
			for i, arg := range args {
				t, err := time.Parse(time.RFC3339, arg.AsString())
				if err != nil {
					return cty.NilVal, fmt.Errorf("%.40q is not a time in the form of RFC 3339", arg.AsString())
				}
				times[i] = t
			}
			return cty.NumberIntVal(int64(times[0].Compare(times[1]))), nil
		},
	})
}

// asText is a value as text, for messages.
func asText(v cty.Value) (string, bool) {
	text, err := convert.Convert(v, cty.String)
	if err != nil || text.IsNull() || !text.IsKnown() {
		return "", false
	}
	return text.AsString(), true
}
