package budgetspec_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func single(text string) []budgetspec.File {
	return []budgetspec.File{{Name: "test.hcl", Content: []byte(text)}}
}

func TestTheOrderOfFilesMakesNoDifference(t *testing.T) {
	t.Parallel()
	all := modules(t, "testdata/bad")
	for name, files := range modules(t, "testdata/good") {
		all[name] = files
	}
	for name, files := range all {
		backwards := slices.Clone(files)
		slices.Reverse(backwards)
		policy, diags := budgetspec.Parse(files)
		other, otherDiags := budgetspec.Parse(backwards)
		must.Eq(t, render(t, files, diags), render(t, files, otherDiags), must.Sprint(name))
		if policy != nil {
			must.Eq(t, policy.Revision, other.Revision)
			must.Eq(t, dump(policy), dump(other))
		}
	}
}

func TestRevisionDependsOnNamesAndContents(t *testing.T) {
	t.Parallel()
	a, b := budgetspec.File{Name: "a", Content: []byte("x")}, budgetspec.File{Name: "b", Content: []byte("y")}
	seen := map[string]string{}
	for name, files := range map[string][]budgetspec.File{
		"none": nil, "a": {a}, "b": {b}, "both": {a, b}, "renamed": {{Name: "ax"}}, "changed": {{Name: "a", Content: []byte("X")}},
		"swapped": {{Name: "a", Content: []byte("y")}, {Name: "b", Content: []byte("x")}},
	} {
		r := budgetspec.Revision(files)
		must.Eq(t, 64, len(r))
		must.Eq(t, "", seen[r], must.Sprintf("%s has the revision of %s", name, seen[r]))
		seen[r] = name
	}
	must.Eq(t, budgetspec.Revision([]budgetspec.File{a, b}), budgetspec.Revision([]budgetspec.File{b, a}))
}

func TestParseDoesNotReorderTheCallersFiles(t *testing.T) {
	t.Parallel()
	files := []budgetspec.File{{Name: "b"}, {Name: "a"}}
	_, diags := budgetspec.Parse(files)
	must.True(t, diags.HasErrors())
	must.Eq(t, "b", files[0].Name)
}

func TestNoFilesAreNoPolicy(t *testing.T) {
	t.Parallel()
	policy, diags := budgetspec.Parse(nil)
	must.Nil(t, policy)
	must.StrContains(t, render(t, nil, diags), "No budget")
}

func TestFilesWithoutBoundsAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"a huge file":             {strings.Repeat("# comment\n", 60_000), "File too large"},
		"a long line":             {"# " + strings.Repeat("x", 5000), "Line too long"},
		"deep lists":              {"a = " + strings.Repeat("[\n", 5000), "Too deeply nested"},
		"deep blocks":             {strings.Repeat("budget \"a\" {\n", 5000), "Too deeply nested"},
		"deep templates":          {"a = " + strings.Repeat("\"${\n", 5000), "Too deeply nested"},
		"deep after closing ones": {strings.Repeat("]\n", 5000) + "a = " + strings.Repeat("(\n", 5000), "Too deeply nested"},
		"many operators":          {"a = (1\n" + strings.Repeat("+ 1\n", 5000) + ")", "Too deeply nested"},
		"many signs":              {"a = (\n" + strings.Repeat("!\n", 5000) + ")", "Too deeply nested"},
		"many template controls":  {"a = <<E\n" + strings.Repeat("%{ if x }\n", 5000) + "E\n", "Too deeply nested"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			policy, diags := budgetspec.Parse(single(tc.text))
			must.Nil(t, policy)
			must.Eq(t, tc.want, diags[0].Summary)
			_, diags = budgetspec.Format("test.hcl", []byte(tc.text))
			must.Eq(t, tc.want, diags[0].Summary)
			must.StrContains(t, render(t, single(tc.text), diags), tc.want)
		})
	}
}

func TestTwoFilesOfOneNameAreRefused(t *testing.T) {
	t.Parallel()
	files := append(single("# one"), single("# two")...)
	_, diags := budgetspec.Parse(files)
	must.StrContains(t, render(t, files, diags), "Duplicate file")
}

func TestAFloodOfDiagnosticsIsCutShort(t *testing.T) {
	t.Parallel()
	_, diags := budgetspec.Parse(single(strings.Repeat("wrong {\n}\n", 150)))
	must.Eq(t, 101, len(diags))
	must.Eq(t, "More diagnostics", diags[100].Summary)
	must.StrContains(t, diags[100].Detail, "50 more")
	must.True(t, diags.HasErrors())
}

func TestTooManyBudgetsAndTooLongListsAreRefused(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 2001 {
		fmt.Fprintf(&text, "budget \"b%d\" {\n match { namespaces = [\"n%d\"] }\n}\n", i, i)
	}
	_, diags := budgetspec.Parse(single(text.String()))
	must.StrContains(t, render(t, nil, diags), "Too many budgets")

	var variables, locals strings.Builder
	for i := range 1001 {
		fmt.Fprintf(&variables, "variable \"v%d\" {\n default = 1\n}\n", i)
		fmt.Fprintf(&locals, "locals {\n v%d = 1\n}\n", i)
	}
	for what, text := range map[string]string{"variables": variables.String(), "locals": locals.String()} {
		_, diags = budgetspec.Parse(single(text))
		must.StrContains(t, render(t, nil, diags), "Too many "+what)
	}

	long := "budget \"a\" {\n match {\n namespaces = [\n" + strings.Repeat("\"a\",\n", 257) + "]\n}\n}\n"
	_, diags = budgetspec.Parse(single(long))
	must.StrContains(t, render(t, nil, diags), "List too long")

	text.Reset()
	for i := range 1001 {
		fmt.Fprintf(&text, "variable \"v%d\" {\n default = 1\n}\nlocals {\n l%d = 1\n}\n", i, i)
	}
	_, diags = budgetspec.Parse(single(text.String()))
	must.StrContains(t, render(t, nil, diags), "more than 1000 variables")
	must.StrContains(t, render(t, nil, diags), "more than 1000 locals")
}

func TestDescribeIsStableJSON(t *testing.T) {
	t.Parallel()
	files := single("budget \"a\" {\n  match { namespaces = [\"*\"] }\n  limit \"day\" { gpu_hours = -1 } # why\n}\n")
	_, diags := budgetspec.Parse(files)
	var out bytes.Buffer
	must.NoError(t, budgetspec.WriteJSON(&out, files, diags))
	var got any
	must.NoError(t, json.Unmarshal(out.Bytes(), &got))
	must.Eq(t, any(map[string]any{
		"valid": false, "errors": 1.0, "warnings": 0.0,
		"diagnostics": []any{map[string]any{
			"severity": "error", "summary": "Negative number",
			"detail": "You wrote -1 for gpu_hours. It must be a positive number of GPU-hours, or a word. Write \"none\" for nothing or \"unlimited\" for no limit.",
			"file":   "test.hcl", "line": 3.0, "column": 29.0, "snippet": "limit \"day\" { gpu_hours = -1 } # why",
		}},
	}), got)
}

func TestReportOfAGoodPolicyIsAnEmptyList(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	must.NoError(t, budgetspec.WriteJSON(&out, nil, nil))
	must.Eq(t, "{\n  \"valid\": true,\n  \"errors\": 0,\n  \"warnings\": 0,\n  \"diagnostics\": []\n}\n", out.String())
	warnings := hcl.Diagnostics{{Severity: hcl.DiagWarning, Summary: "s", Subject: &hcl.Range{Filename: "gone.hcl", Start: hcl.Pos{Line: 7}}}}
	must.Eq(t, budgetspec.Report{Valid: true, Warnings: 1, Diagnostics: []budgetspec.Diagnostic{{Severity: "warning", Summary: "s", File: "gone.hcl", Line: 7}}}, budgetspec.NewReport(nil, warnings))
}

func TestRenderCanUseColour(t *testing.T) {
	t.Parallel()
	files := single("budget {\n}\n")
	_, diags := budgetspec.Parse(files)
	var out bytes.Buffer
	must.NoError(t, budgetspec.Render(&out, files, diags, true))
	must.StrContains(t, out.String(), "\x1b[")
	must.StrNotContains(t, render(t, files, diags), "\x1b[")
}

func TestFormatAlignsAndKeepsComments(t *testing.T) {
	t.Parallel()
	got, diags := budgetspec.Format("x.hcl", []byte("budget \"a\" {\nowner=\"x\" # who\n    description   =   \"y\"\n}\n"))
	must.SliceEmpty(t, diags)
	must.Eq(t, "budget \"a\" {\n  owner       = \"x\" # who\n  description = \"y\"\n}\n", string(got))
	got, diags = budgetspec.Format("x.hcl", []byte("budget {"))
	must.Nil(t, got)
	must.Eq(t, "x.hcl", diags[0].Subject.Filename)
}

// A number of GPU-hours in the file is the same number in the policy, for every
// class and window.
func TestLimitsArriveUnchanged(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		hours := rapid.Int64Range(1, 1_000_000_000).Draw(t, "hours")
		window := rapid.SampledFrom([]budget.Window{budget.Hour, budget.Day, budget.Week, budget.Month, budget.Quarter, budget.Year, budget.Total}).Draw(t, "window")
		text := fmt.Sprintf("gpu_class \"c\" {\n devices = [\"nvidia/gpu/x\"]\n}\nbudget \"a\" {\n match { namespaces = [\"*\"] }\n limit %q {\n gpu_hours = { c = %d }\n}\n}\n", window, hours)
		policy, diags := budgetspec.Parse(single(text))
		must.SliceEmpty(t, diags)
		must.Len(t, 1, policy.Roots[0].Limits)
		l := policy.Roots[0].Limits[0]
		amount, finite := l.Ceiling.Finite()
		must.True(t, finite)
		must.Eq(t, hours*3_600_000, int64(amount))
		must.Eq(t, budget.Limit{Window: window, Dimension: budget.GPUTime("c"), Ceiling: l.Ceiling, Source: budget.Source{File: "test.hcl", Line: 7}}, l)
	})
}

// checkInvariants is what every accepted policy promises its users.
func checkInvariants(t testing.TB, p *budget.Policy) {
	t.Helper()
	must.NotNil(t, p.Location)
	must.SliceNotEmpty(t, p.Roots)
	classes := map[string]bool{budget.AnyClass: true}
	for _, c := range p.Classes {
		must.False(t, classes[c.Name])
		classes[c.Name] = true
		for _, device := range c.Devices {
			owner, ok := p.ClassOf(device)
			must.True(t, ok)
			must.Eq(t, c.Name, owner)
		}
	}
	for i, r := range p.RateCards {
		must.True(t, i == 0 || p.RateCards[i-1].EffectiveFrom.Before(r.EffectiveFrom))
		for class, price := range r.PerGPUHour {
			must.True(t, classes[class])
			must.GreaterEq(t, 0, price)
		}
	}
	paths := map[string]bool{}
	p.Walk(func(b *budget.Budget) {
		must.False(t, paths[b.Path])
		paths[b.Path] = true
		must.NotEq(t, "", b.Source.String())
		must.Positive(t, b.EffectiveLease())
		must.GreaterEq(t, 0, b.EffectiveDefaultRuntime())
		for _, l := range b.Limits {
			amount, finite := l.Ceiling.Finite()
			must.True(t, !finite || amount >= 0)
			must.Eq(t, l.Dimension.IsGPUs() || l.Dimension.IsGPUTime(), classes[l.Dimension.Class()])
			must.True(t, l.Rollover == nil || l.Window != budget.Total && l.Rollover.Periods > 0 && (l.Rollover.Most == nil) != (l.Rollover.Share == 0))
			must.Eq(t, l.Window == budget.Concurrent, l.Dimension.IsGPUs())
			must.NotEq(t, "", l.Source.String())
		}
	})
}

// FuzzParse checks that reading never panics, that what is accepted keeps the
// promises of a policy, and that formatting changes nothing: the formatted file
// gives the same policy, line for line, and formatting it again the same file.
func FuzzParse(f *testing.F) {
	for _, dir := range []string{"testdata/good", "testdata/warn", "testdata/bad", "../examples"} {
		for _, files := range modules(f, dir) {
			for _, file := range files {
				f.Add(file.Content)
			}
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		files := []budgetspec.File{{Name: "fuzz.hcl", Content: content}}
		policy, diags := budgetspec.Parse(files)
		must.Eq(t, diags.HasErrors(), policy == nil)
		must.Eq(t, len(diags), len(budgetspec.Describe(files, diags)))
		if policy == nil {
			must.NotEq(t, "", render(t, files, diags))
			return
		}
		checkInvariants(t, policy)
		formatted, formatDiags := budgetspec.Format("fuzz.hcl", content)
		must.False(t, formatDiags.HasErrors())
		again, formatDiags := budgetspec.Format("fuzz.hcl", formatted)
		must.False(t, formatDiags.HasErrors())
		must.Eq(t, string(formatted), string(again))
		same, diags := budgetspec.Parse([]budgetspec.File{{Name: "fuzz.hcl", Content: formatted}})
		must.False(t, diags.HasErrors())
		must.Eq(t, dump(policy), dump(same))
	})
}
