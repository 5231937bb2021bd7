package budgetspec_test

import (
	"testing"
	"unicode/utf8"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/shoenig/test/must"
	"github.com/zclconf/go-cty/cty"
	"pgregory.net/rapid"
)

// variablesModule uses each of its variables where it can be seen.
const variablesModule = `variable "owner" {
  type    = string
  default = "nobody"
}

variable "hours" {
  type    = number
  default = 1

  validation {
    condition     = var.hours < 1000
    error_message = "That is too much."
  }
}

variable "spaces" {
  type    = list(string)
  default = ["*"]
}

variable "free" {
  default = "x"
}

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "acme" {
  description = var.free
  owner       = var.owner

  match { namespaces = var.spaces }
  limit "day" { gpu_hours = var.hours }
}
`

func module(vars ...budgetspec.File) []budgetspec.File {
	return append([]budgetspec.File{{Name: "budgets.hcl", Content: []byte(variablesModule)}}, vars...)
}

func TestSetVars(t *testing.T) {
	t.Parallel()
	prod := budgetspec.File{Name: "prod.vars.hcl", Content: []byte("# Production.\nhours = 5 # each day\nowner = \"ops\"\n")}
	files := module(prod)
	vars := map[string]string{"hours": "1 / 8", "owner": "team nlp", "spaces": `["a", "b"]`, "free": `"say \"hi\""`}
	out, diags := budgetspec.SetVars(files, vars)
	must.SliceEmpty(t, diags)
	must.Eq(t, string(prod.Content), string(files[1].Content), must.Sprint("the caller's files are changed"))
	must.Len(t, 3, out)
	must.Eq(t, "# Production.\nhours = 1 / 8 # each day\nowner = \"team nlp\"\n", string(out[1].Content))
	must.Eq(t, budgetspec.VarsFile, out[2].Name)
	must.Eq(t, "free   = \"say \\\"hi\\\"\"\nspaces = [\"a\", \"b\"]\n", string(out[2].Content))

	policy, diags := budgetspec.Parse(out)
	must.SliceEmpty(t, diags)
	same, diags := budgetspec.ParseWith(files, budgetspec.Options{Vars: vars})
	must.SliceEmpty(t, diags)
	must.Eq(t, dump(policy), dump(same))
	must.Eq(t, policy.Revision, same.Revision)
	must.Eq(t, "team nlp", policy.Roots[0].Owner)
	must.Eq(t, `say "hi"`, policy.Roots[0].Description)
	must.Eq(t, []string{"a", "b"}, policy.Roots[0].Match.Namespaces)
	amount, _ := policy.Roots[0].Limits[0].Ceiling.Finite()
	must.Eq(t, 3_600_000/8, int64(amount))

	again, diags := budgetspec.SetVars(out, map[string]string{"spaces": `["c"]`})
	must.SliceEmpty(t, diags)
	must.Eq(t, "free   = \"say \\\"hi\\\"\"\nspaces = [\"c\"]\n", string(again[2].Content))
	must.Eq(t, "free   = \"say \\\"hi\\\"\"\nspaces = [\"a\", \"b\"]\n", string(out[2].Content))
}

func TestSetVarsOfTypeString(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain": "plain", `"quoted"`: "quoted", "5": "5", "2026-03-10": "2026-03-10", "${var.x}": "${var.x}", "a\nb": "a\nb", `"a" + `: "",
		"local.x": "local.x", "[1]": "[1]", "# x": "# x", `"${upper("x")}"`: "X",
	} {
		policy, diags := budgetspec.ParseWith(module(), budgetspec.Options{Vars: map[string]string{"owner": text}})
		if want == "" {
			must.StrContains(t, render(t, nil, diags), "Not a value", must.Sprint(text))
			continue
		}
		must.SliceEmpty(t, diags, must.Sprint(text))
		must.Eq(t, want, policy.Roots[0].Owner)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[^"\s].{0,20}`).Draw(t, "text")
		policy, diags := budgetspec.ParseWith(module(), budgetspec.Options{Vars: map[string]string{"owner": text}})
		must.SliceEmpty(t, diags)
		must.Eq(t, cty.NormalizeString(text), policy.Roots[0].Owner)
	})
}

func TestSetVarsThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ variable, value, want string }{
		"an unknown variable":     {"hour", "5", `Did you mean "hours"?`},
		"not an expression":       {"hours", "five hours", "You set hours to five hours. The value must be an expression"},
		"a word":                  {"free", "word", "stands in quotes"},
		"a reference":             {"hours", "var.owner", "must be an expression"},
		"two lines":               {"hours", "5\nowner = 6", "on one line"},
		"a block":                 {"hours", "5\nbudget \"x\" {}", "on one line"},
		"nothing":                 {"hours", "", "must be an expression"},
		"too deep":                {"hours", "((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((5))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))", "must be an expression"},
		"the wrong type":          {"hours", `"five"`, "Its type is number"},
		"what validation refuses": {"hours", "1000", "That is too much."},
	} {
		_, diags := budgetspec.ParseWith(module(), budgetspec.Options{Vars: map[string]string{tc.variable: tc.value}})
		must.True(t, diags.HasErrors(), must.Sprint(name))
		must.StrContains(t, diags[0].Detail, tc.want, must.Sprint(name))
	}
	_, diags := budgetspec.SetVars(single("budget {"), map[string]string{"x": "1"})
	must.True(t, diags.HasErrors())
	files, diags := budgetspec.SetVars(single("budget {"), nil)
	must.SliceEmpty(t, diags)
	must.Len(t, 1, files)
}

// FuzzSetVars finds values that mean something else than the value of their
// variable.
func FuzzSetVars(f *testing.F) {
	for _, text := range []string{"5", "[1, 2]", `"x"`, "plain", "5 # x", "<<E\nx\nE\n", "{ a = 1 }", `"${"`, "(\n5\n)", "5 }", "5\r"} {
		f.Add(text, "owner")
		f.Add(text, "free")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		files := module(budgetspec.File{Name: "a.vars.hcl", Content: []byte("free = 1 # one\n")})
		out, diags := budgetspec.SetVars(files, map[string]string{name: text})
		if diags.HasErrors() || !utf8.ValidString(text) {
			return
		}
		policy, diags := budgetspec.Parse(out)
		if diags.HasErrors() {
			return // of another type
		}
		if name != "owner" {
			must.Eq(t, "nobody", policy.Roots[0].Owner)
		} else if len(text) > 0 && text[0] != '"' && text[0] != ' ' && text[0] != '\t' && text[0] != '\n' && text[0] != '\r' {
			must.Eq(t, cty.NormalizeString(text), policy.Roots[0].Owner)
		}
		must.Len(t, 1, policy.Roots)
	})
}
