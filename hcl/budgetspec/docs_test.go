package budgetspec

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// specs are the shapes of all blocks, by kind, found from the file down.
func specs() map[string]blockSpec {
	of := map[string]blockSpec{
		"governor": governorSpec(), "meter": meterSpec(), "gpu_class": classSpec(), "rate_card": rateCardSpec(), "gpu": priceSpec(), "energy": energySpec(),
		"tokens": tokensSpec(), "modifier": modifierSpec(), "schedule": scheduleSpec(), "notify": notifySpec(), "budget": budgetSpec(), "match": matchSpec(), "placement": placementSpec(),
		"concurrent": concurrentSpec(), "reclaim": reclaimSpec(), "limit": limitSpec(), "rollover": rolloverSpec(), "max_committed": committedSpec(),
		"per_job": perJobSpec(), "per_run": perRunSpec(), "over_budget": overBudgetSpec(), "throttle": throttleSpec(), "stop": stopSpec(), "queue": queueSpec(),
		"fair_share": fairShareSpec(), "override": overrideSpec(), "alert": alertSpec(), "assert": assertSpec(), "moved": movedSpec(),
		"variable": variableSpec(), "validation": validationSpec(), "locals": {kind: "locals"},
	}
	found := map[string]blockSpec{}
	var visit func(kinds []string)
	visit = func(kinds []string) {
		for _, kind := range kinds {
			if _, seen := found[kind]; !seen {
				found[kind] = of[kind]
				visit(of[kind].blocks)
			}
		}
	}
	visit(moduleSpec().blocks)
	return found
}

const referencePath = "../../docs/budgets.md"

func referencePage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(referencePath)
	must.NoError(t, err)
	return string(page)
}

var (
	blockHeading = regexp.MustCompile("(?m)^### `([a-z_]+)`$")
	firstCell    = regexp.MustCompile("(?m)^\\| (`[^|]+`) \\|")
	code         = regexp.MustCompile("`([^`]+)`")
	fence        = regexp.MustCompile("(?s)```hcl\n(.*?)```")
)

// sections are the parts of the page about blocks, by kind.
func sections(page string) map[string]string {
	out := map[string]string{}
	at := blockHeading.FindAllStringSubmatchIndex(page, -1)
	for i, m := range at {
		end := len(page)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		body := page[m[1]:end]
		if next := strings.Index(body, "\n## "); next >= 0 {
			body = body[:next]
		}
		out[page[m[2]:m[3]]] = body
	}
	return out
}

// The reference has a section for every block with a row for every attribute and
// block in it, and nothing that the language does not have.
func TestTheReferenceIsComplete(t *testing.T) {
	t.Parallel()
	documented := sections(referencePage(t))
	known := specs()
	must.Eq(t, slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(documented)))
	for kind, spec := range known {
		must.Eq(t, kind, spec.kind)
		var want, got []string
		for _, name := range slices.Concat(spec.attributes, spec.blocks) {
			// A description is there in all of them, and sensitive is always refused.
			if name != "description" && name != "sensitive" {
				want = append(want, name)
			}
		}
		for _, row := range firstCell.FindAllStringSubmatch(documented[kind], -1) {
			got = append(got, strings.Trim(row[1], "`"))
		}
		slices.Sort(want)
		slices.Sort(got)
		must.Eq(t, want, got, must.Sprintf("the rows of %s", kind))
		described := slices.Contains(spec.attributes, "description")
		must.Eq(t, kind != "locals" && kind != "validation", described, must.Sprintf("the description of %s", kind))
	}
}

// Every shape that schema.go has belongs to the language.
func TestNoBlockIsLeftOut(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("schema.go")
	must.NoError(t, err)
	functions := regexp.MustCompile(`(?m)^func (\w+Spec)\(\)`).FindAllStringSubmatch(string(source), -1)
	must.Eq(t, len(functions), len(specs())) // without the file, with locals
	must.StrNotContains(t, string(source), "planned")
}

// The page lists every function and every fact.
func TestTheReferenceListsFunctionsAndFacts(t *testing.T) {
	t.Parallel()
	page := referencePage(t)
	begin := strings.Index(page, "| sort | functions |")
	end := strings.Index(page, "`glob(pattern, text)`")
	must.True(t, 0 < begin && begin < end)
	var got []string
	for _, m := range code.FindAllStringSubmatch(page[begin:end], -1) {
		name, _, _ := strings.Cut(m[1], "(")
		got = append(got, name)
	}
	slices.Sort(got)
	must.Eq(t, Functions(), got)

	conditions := page[strings.Index(page, "### Conditions"):]
	for _, root := range lateRoots() {
		must.StrContains(t, conditions, "`"+root)
	}
	for root, facts := range map[string]map[string]fact{"job": jobFacts(), "submitter": submitterFacts(), "request": requestFacts(), "estimate": amountFacts("estimate")} {
		for name := range facts {
			must.StrContains(t, conditions, "`"+root+"."+name)
		}
	}
}

// The examples on the page together are one policy without a warning, formatted.
func TestTheExamplesOfTheReferenceAreAPolicy(t *testing.T) {
	t.Parallel()
	var module strings.Builder
	for _, m := range fence.FindAllStringSubmatch(referencePage(t), -1) {
		formatted, diags := Format("example.hcl", []byte(m[1]))
		must.False(t, diags.HasErrors())
		must.Eq(t, m[1], string(formatted))
		module.WriteString(m[1] + "\n")
	}
	policy, diags := Parse([]File{{Name: filepath.Base(referencePath), Content: []byte(module.String())}})
	for _, d := range diags {
		t.Error(d)
	}
	must.NotNil(t, policy)
}

// The warnings on the page are those that there are.
func TestTheReferenceListsTheWarnings(t *testing.T) {
	t.Parallel()
	page := referencePage(t)
	made := map[string]bool{}
	paths, err := filepath.Glob("diagnostics*.go")
	must.NoError(t, err)
	for _, path := range paths {
		source, err := os.ReadFile(path)
		must.NoError(t, err)
		for _, m := range regexp.MustCompile(`warning\(at, "([^"]+)"|Summary: "(No GPU class)"`).FindAllStringSubmatch(string(source), -1) {
			made[m[1]+m[2]] = true
		}
	}
	begin, end := strings.Index(page, "| warning | what to look at |"), strings.Index(page, "A `default_runtime` above")
	must.True(t, 0 < begin && begin < end)
	listed := map[string]bool{}
	for _, row := range strings.Split(page[begin:end], "\n")[2:] {
		cells := strings.Split(row, "|")
		if len(cells) < 3 {
			continue
		}
		for name := range strings.SplitSeq(cells[1], ";") {
			listed[strings.TrimSpace(name)] = true
		}
	}
	must.Eq(t, slices.Sorted(maps.Keys(made)), slices.Sorted(maps.Keys(listed)))
}
