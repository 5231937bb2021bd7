package budgetspec

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/shoenig/test/must"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// testLocals are what the expressions of these tests refer to.
func testLocals() map[string]cty.Value {
	return map[string]cty.Value{
		"n": cty.NumberIntVal(7), "text": cty.StringVal("nlp"), "yes": cty.True,
		"list":  cty.ListVal([]cty.Value{cty.StringVal("a"), cty.StringVal("b")}),
		"empty": cty.ListValEmpty(cty.String),
		"mixed": cty.TupleVal([]cty.Value{cty.NumberIntVal(1), cty.StringVal("x"), cty.NullVal(cty.Bool)}),
		"map":   cty.MapVal(map[string]cty.Value{"k": cty.NumberIntVal(3), "l": cty.NumberIntVal(4)}),
		"set":   cty.SetVal([]cty.Value{cty.NumberIntVal(2), cty.NumberIntVal(5)}),
		"objects": cty.ListVal([]cty.Value{
			cty.ObjectVal(map[string]cty.Value{"id": cty.StringVal("one"), "sizes": cty.ListVal([]cty.Value{cty.NumberIntVal(1)})}),
			cty.ObjectVal(map[string]cty.Value{"id": cty.NullVal(cty.String), "sizes": cty.ListValEmpty(cty.Number)}),
		}),
		"nothing": cty.NullVal(cty.DynamicPseudoType),
	}
}

// testDecoder has these locals and the source of one expression.
func testDecoder(text string) *decoder {
	d := newDecoder("")
	d.source["test"] = []byte(text)
	for name, v := range testLocals() {
		d.locals[name] = &local{state: localDone, value: v}
	}
	return d
}

// parseExpression reads a text that may be an expression.
func parseExpression(text string) (hclsyntax.Expression, bool) {
	if oversized(File{Name: "test", Content: []byte(text)}) != nil {
		return nil, false
	}
	expr, diags := hclsyntax.ParseExpression([]byte(text), "test", hcl.InitialPos)
	return expr, !diags.HasErrors()
}

// evaluateBoth evaluates an expression here and as HCL does.
func evaluateBoth(text string) (got, want cty.Value, problem *hcl.Diagnostic, diags hcl.Diagnostics) {
	expr, ok := parseExpression(text)
	if !ok {
		return cty.NilVal, cty.NilVal, nil, nil
	}
	d := testDecoder(text)
	got, problem = d.evaluate(expr, &staticNames{d})
	if problem != nil {
		return cty.NilVal, cty.NilVal, problem, nil // HCL goes on after a mistake, and may not stop
	}
	native := map[string]function.Function{}
	for name, f := range functions() {
		native[name] = f.Function
	}
	want, diags = expr.Value(&hcl.EvalContext{Variables: map[string]cty.Value{"local": cty.ObjectVal(testLocals())}, Functions: native})
	return got, want, problem, diags
}

// expressions are right in HCL and must have the same value here.
func expressions() []string {
	return []string{
		`1 + 2 * 3 - 4 / 8 % 3`, `-local.n`, `!local.yes`, `(1 + 2) * 3`, `"5" + 1`, `0.1 + 0.2`, `1 / 7`,
		`local.yes && local.n > 3 || false`, `local.n >= 7`, `local.n <= 7`, `local.n < 7`, `local.n != 7`, `local.list == ["a", "b"]`,
		`local.text == "nlp"`, `local.nothing == null`, `local.mixed[2] == null`,
		`local.yes ? 1 : "x"`, `local.n > 3 ? local.list : []`, `local.yes ? null : 1`, `false ? 1 / 0 : 2`,
		`"a ${local.text} b ${local.n}"`, `"${local.list}"`, `"%{ for x in local.list }${x},%{ endfor }"`, `"%{ if local.yes }y%{ else }n%{ endif }"`, "<<E\n a ${local.n}\nE\n", `"$${x}"`,
		`[1, "a", [true]]`, `{ a = 1, "b c" = 2, (local.text) = 3 }`, `{ a : 1 }`, `{}`, `[]`, `{ "${local.text}x" = 1 }`,
		`[for x in local.list : upper(x)]`, `[for i, x in local.list : i]`, `{ for k, v in local.map : k => v * 2 }`, `[for x in local.set : x if x > 2]`,
		`{ for o in local.objects : coalesce(o.id, "none") => o.sizes... }`, `[for x in [] : x]`, `{ for i, x in local.mixed : i => x }`,
		`[for o in local.objects : [for s in o.sizes : s + local.n]]`, `{ for x in [1, 1] : "a" => x... }`,
		`local.objects[*].id`, `local.objects.*.id`, `local.empty[*]`, `local.text[*]`, `local.nothing[*]`, `local.mixed[*]`, `local.set[*]`,
		`local.map.k`, `local.map["k"]`, `local.list[1]`, `local.objects[0].id`, `local.mixed[local.n - 6]`, `{ a = { b = 1 } }.a.b`, `[[1]][0][0]`,
		`max(1, 3, 2)`, `max([1, 3]...)`, `length(local.list)`, `length("abc")`, `join("-", local.list)`, `alltrue([for x in local.list : x != null])`,
		`anytrue([])`, `sum([1, 2, 3])`, `one([])`, `one(["a"])`, `lookup(local.map, "z", 0)`, `merge(local.map, { m = 5 })`, `contains(local.list, "a")`, `glob("n*", local.text)`,
		`startswith(local.text, "n")`, `replace("aXb", "X", "-")`, `regex("[a-z]+", "12ab")`, `format("%s-%02d", "a", 7)`, `timecmp("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00")`,
		`tonumber("5")`, `tolist([1, 2])`, `toset(["a", "a"])`, `distinct([1, 1])`, `range(3)`, `setunion([1], [2])`, `zipmap(["a"], [1])`, `flatten([[1], [2, [3]]])`,
		`jsondecode("{\"a\":[1]}").a[0]`, `jsonencode({ a = 1 })`, `formatdate("EEE", "2026-03-10T12:00:00Z")`, `timeadd("2026-03-10T12:00:00Z", "1h")`, `indent(2, "a\nb")`,
	}
}

func TestExpressionsHaveTheValueThatHCLGivesThem(t *testing.T) {
	t.Parallel()
	for _, text := range expressions() {
		got, want, problem, diags := evaluateBoth(text)
		must.False(t, diags.HasErrors(), must.Sprintf("%s: %v", text, diags))
		must.Nil(t, problem, must.Sprintf("%s: %v", text, problem))
		must.True(t, want.RawEquals(got), must.Sprintf("%s is %#v and not %#v", text, want, got))
	}
}

func TestMistakesInExpressionsAreFound(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`local.m`: "Undeclared name", `local`: "Incomplete reference", `var.x`: "Undeclared name", `jobs.x`: "Unknown reference", `job.type`: "Value is not known yet",
		`local.nothing.a`: "Nothing there", `local.objects[0].name`: "Unknown attribute", `local.map.z`: "Missing key", `local.n.a`: "Unknown attribute",
		`local.list[9]`: "Missing element", `local.n[0]`: "Missing element", `local.nothing + 1`: "Nothing there", `"x" + 1`: "Wrong type of value", `!"x"`: "Wrong type of value",
		`1 / 0`: "Number out of bounds", `0 / 0`: "Cannot be computed", `1e9999`: "Number out of bounds", `abs("1e9999")`: "Number out of bounds", `"1e9999" % 3`: "Number out of bounds",
		`nope(1)`: "Unknown function", `file("x")`: "Unknown function", `max()`: "Cannot be computed", `upper()`: "Wrong number of arguments", `upper("a", "b")`: "Wrong number of arguments",
		`upper([])`: "Wrong type of value", `max(1...)`: "Not a list", `tonumber("x")`: "Cannot be computed", `burn_rate("1h")`: "Value is not known here",
		`[for x in 5 : x]`: "Not a list", `[for x in null : x]`: "Not a list", `[for x in [1] : x if "maybe"]`: "Wrong type of value", `[for x in [1] : x if null]`: "Wrong type of value",
		`{ for x in [1, 2] : "a" => x }`: "Repeated key", `{ for x in [1] : null => x }`: "Wrong type of value", `{ local.text = 1 }`: "Ambiguous key",
		`null ? 1 : 2`: "Not a condition", `"yes" ? 1 : 2`: "Not a condition", `true ? [] : {}`: "Inconsistent conditional result types", `"a${null}"`: "Nothing there",
		`can()`: "Wrong number of arguments", `can(1, 2)`: "Wrong number of arguments", `try(local.m)`: "Undeclared name", `{ (null) = 1 }`: "Null value as key",
		`format("%9999s", "a")`: "Too much work", `format("%*s", 5, "a")`: "Too much work", `sum([1, null])`: "Cannot be computed", `one([1, 2])`: "Cannot be computed", `length(5)`: "Cannot be computed",
	} {
		_, _, problem, _ := evaluateBoth(text)
		must.NotNil(t, problem, must.Sprint(text))
		must.Eq(t, want, problem.Summary, must.Sprint(text))
		must.Eq(t, "test", problem.Subject.Filename, must.Sprint(text))
	}
}

func TestTryAndCan(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]cty.Value{
		`try(local.map.z, 5)`: cty.NumberIntVal(5), `try(local.map.k, 5)`: cty.NumberIntVal(3), `can(local.map.z)`: cty.False, `can(local.map.k)`: cty.True,
		`try(tonumber("x"), null) == null`: cty.True, `false && local.nothing > 1`: cty.False, `true || local.nothing > 1`: cty.True,
		`startswith(null, "a")`: cty.False, `glob("*", null)`: cty.False, `alltrue([true, null])`: cty.False, `anytrue([false, null])`: cty.False,
	} {
		got, _, problem, _ := evaluateBoth(text)
		must.Nil(t, problem, must.Sprintf("%s: %v", text, problem))
		must.True(t, want.RawEquals(got), must.Sprint(text))
	}
}

// hostile are expressions that would take hours or gigabytes.
func hostile() []string {
	nested := "1"
	for range 8 {
		nested = "[for x in range(1000) : " + nested + "]"
	}
	doubled := `"0123456789abcdef0123456789abcdef"`
	for range 40 {
		doubled = `replace(` + doubled + `, "", "0123456789abcdef")`
	}
	return []string{
		nested, doubled, "length(" + nested + ")", `try(` + nested + `, 1)`, `can(` + nested + `)`, `false ? ` + nested + ` : 1`,
		`indent(1000000000000, "a")`, `format("%1000000000d", 1)`, `join(join(",", range(1000)), [for x in range(1000) : ""])`,
		`regexall("(a{30}){30}b{900}c{900}", join("", [for x in range(1000) : "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]))`,
		`distinct(flatten([for x in range(30) : [for y in range(1000) : x * 1000 + y]]))`,
		`[for x in range(1000) : jsonencode(range(1000))]`, `local.list[*][[for x in range(1000) : [for y in range(1000) : y]][0][0]]`,
		`[for a in range(1000) : [for b in range(1000) : a == b]]`, `replace(join(",", range(1000)), "", join(",", range(1000)))`,
		`[for x in range(1000) : [for y in range(100) : range(1000) == range(1000)]]`,
		`glob(join("", [for x in range(1000) : "*a*a*a*a*a*a*a*a"]), join("", [for x in range(1000) : "aaaaaaaaaaaaaaaa"]))`,
	}
}

func TestNoExpressionTakesLong(t *testing.T) {
	t.Parallel()
	for _, text := range hostile() {
		start := time.Now()
		_, _, problem, _ := evaluateBoth(text)
		must.NotNil(t, problem, must.Sprint(text))
		must.Eq(t, "Too much work", problem.Summary, must.Sprint(text))
		must.Less(t, 20*time.Second, time.Since(start), must.Sprint(text))
		t.Log(time.Since(start), abridge(text))
	}
}

func TestNoTypeTakesLong(t *testing.T) {
	t.Parallel()
	nested := "1"
	for range 30 {
		nested = "[for x in [1, 2, 3, 4, 5, 6, 7, 8, 9] : " + nested + "]"
	}
	for text, want := range map[string]string{
		"object({ a = optional(any, " + nested + ") })":                                                    "Unknown type",
		"object({ a = optional(string, 1e600000000) })":                                                    "Unknown type",
		"object({ a = optional(string, \"${5 * 5}x\") })":                                                  "Unknown type",
		"list(object({\n" + attributesOf(2000) + "}))\n default = [" + strings.Repeat("{},\n", 2000) + "]": "Value too large",
	} {
		start := time.Now()
		_, diags := Parse([]File{{Name: "a.hcl", Content: []byte("variable \"x\" {\n type = " + text + "\n}\n")}})
		must.True(t, slices.ContainsFunc(diags, func(d *hcl.Diagnostic) bool { return d.Summary == want }), must.Sprint(abridge(text)))
		must.Less(t, 20*time.Second, time.Since(start))
	}
}

// attributesOf are the attributes of an object with many that may be missing.
func attributesOf(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, " a%d = optional(number, 1)\n", i)
	}
	return text.String()
}

func TestAllExpressionsTogetherAreBounded(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("locals {\n")
	for i := range 900 {
		text.WriteString("  a" + strings.Repeat("a", i) + " = [for x in range(1000) : [for y in range(90) : y]] == 1\n")
	}
	start := time.Now()
	_, diags := Parse([]File{{Name: "a.hcl", Content: []byte(text.String() + "}\n")}})
	must.True(t, diags.HasErrors())
	must.Less(t, time.Minute, time.Since(start))
}

// FuzzExpressions compares every value with that of HCL, and finds expressions
// that never end.
func FuzzExpressions(f *testing.F) {
	for _, text := range append(expressions(), hostile()...) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		start := time.Now()
		got, want, problem, diags := evaluateBoth(text)
		must.Less(t, 30*time.Second, time.Since(start))
		if got == cty.NilVal || want == cty.NilVal || problem != nil || diags.HasErrors() {
			return // mistakes are found here at other places, and bounds only here
		}
		must.True(t, want.RawEquals(got), must.Sprintf("%#v and not %#v", want, got))
	})
}
