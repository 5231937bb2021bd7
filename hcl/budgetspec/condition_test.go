package budgetspec

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/shoenig/test/must"
	"github.com/zclconf/go-cty/cty"
	"pgregory.net/rapid"
)

// readCondition reads a condition that may refer to everything, or says why not.
func readCondition(text string) (budget.Condition, hcl.Diagnostics) {
	return readConditionWith(text, append(lateRoots(), burnRate)...)
}

func readConditionWith(text string, roots ...string) (budget.Condition, hcl.Diagnostics) {
	src := []byte("when = " + text + "\n")
	file, diags := hclsyntax.ParseConfig(src, "test", hcl.InitialPos)
	if diags.HasErrors() {
		return nil, diags
	}
	d := testDecoder(string(src))
	d.schedules["night"], d.schedules["4pm"] = hcl.Range{}, hcl.Range{}
	d.policy.Location = time.FixedZone("there", 3600)
	attr := file.Body.(*hclsyntax.Body).Attributes["when"]
	c, ok := d.condition(attr, roots...)
	if !ok {
		return nil, d.diags
	}
	return c, nil
}

// someFacts are those of a job with two devices, one of them without a model.
func someFacts() budget.Facts {
	return budget.Facts{
		Now: time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC),
		Job: budget.JobFacts{
			ID: "train", Name: "train", Namespace: "research-nlp", Region: "global", Type: "batch", NodePool: "h100", Priority: 50, GPUs: 3,
			Datacenters: []string{"dc1", "dc2"}, Meta: map[string]string{"tier": "spot", "n": "12"},
			Devices: []budget.DeviceFacts{
				{Group: "g", Task: "t", Name: "nvidia/gpu/NVIDIA H100 80GB HBM3", Vendor: "nvidia", Type: "gpu", Model: "NVIDIA H100 80GB HBM3", Count: 2},
				{Group: "g", Task: "u", Name: "nvidia/gpu", Vendor: "nvidia", Type: "gpu", Count: 1},
			},
		},
		Submitter: budget.SubmitterFacts{Accessor: "a1", Names: []string{"role:nlp-train", "user:kim"}},
		Request:   budget.RequestFacts{Kind: "register", PolicyOverride: true},
		Schedules: map[string]bool{"night": true, "4pm": false},
		Estimate:  budget.Amounts{Cost: 12.5, GPUHours: map[string]float64{"h100": 8, "any": 9}},
		Limit:     budget.Amounts{Cost: 100, Tokens: map[string]float64{"output": 5}},
		Forecast:  budget.Amounts{Cost: 110.25},
		BurnRate: func(over time.Duration) (float64, error) {
			if over > 30*24*time.Hour {
				return 0, errors.New("nothing is known about so long a time")
			}
			return float64(over / time.Minute), nil
		},
	}
}

func TestConditionsOfAJob(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`job.type == "batch"`: true, `job.type != "system"`: true, `job.meta.tier == "spot"`: true, `job.meta["tier"] == "spot"`: true,
		`job.meta.absent == "x"`: false, `job.meta.absent == null`: true, `job.meta.absent != null && tonumber(job.meta.absent) > 3`: false,
		`tonumber(job.meta.n) > 3`: true, `lookup(job.meta, "absent", "x") == "x"`: true, `anytrue([for k, v in job.meta : v == "spot"])`: true,
		`alltrue([for d in job.devices : d.model != null])`: false, `anytrue([for d in job.devices : d.model != null])`: true, `job.devices[1].model == null`: true,
		`contains(job.devices[*].vendor, "nvidia")`: true, `sum(job.devices[*].count) == job.gpus`: true, `length(job.devices) == 2`: true,
		`alltrue([for d in job.devices : startswith(d.model, "NVIDIA") || d.task == "u"])`: true, `job.devices[0].group == "g" && job.devices[0].name != null`: true,
		`glob("research-*", job.namespace)`: true, `job.region == "global" && job.node_pool == "h100" && job.priority >= 50`: true, `contains(job.datacenters, "dc2")`: true,
		`job.id == job.name`: true, `anytrue([for n in submitter.names : glob("role:nlp-*", n)])`: true, `submitter.accessor == "a1"`: true,
		`request.kind == "register" && request.policy_override`: true, `schedule.night`: true, `!schedule.night || schedule["4pm"]`: false,
		`now == "2026-03-10T13:30:00+01:00"`: true, `timecmp(now, "2026-12-24T00:00:00Z") < 0`: true, `formatdate("hh", now) == "13"`: true,
		`forecast.cost > limit.cost`: true, `estimate.cost == 12.5`: true, `estimate.gpu_hours.h100 == 8`: true, `estimate.gpu_hours.l40s == 0`: true,
		`sum(values(estimate.gpu_hours)) == 17`: true, `limit.gpu_hours.h100 == null`: true, `limit.tokens.output == 5`: true, `limit.energy == null`: true, `forecast.tokens.input == 0`: true, `estimate.energy == 0`: true,
		`burn_rate("1h") > 14 && burn_rate("5m") < 14`: true, `burn_rate("${local.n}m") == 7`: true, `burn_rate("1h") == burn_rate("60m")`: true,
		`job.gpus > local.n`: false, `local.text == "nlp" && job.gpus < local.n`: true, `contains(local.list, "a") && contains(local.list, job.type)`: false,
		`(job.type == "batch" ? job.gpus : 0) == 3`: true, `"${job.namespace}/${job.id}" == "research-nlp/train"`: true, `{ a = job.type }.a == "batch"`: true,
		`try(tonumber(job.meta.tier), 0) == 0`: true, `can(tonumber(job.meta.n))`: true, `true`: true, `[for job in [local.n] : job][0] == 7`: true,
		`jsondecode(jsonencode(job.devices[0])).count == 2`: true, "(\n  job.gpus\n  > 2 // comment\n)": true, `!(job.gpus > 2)`: false,
	} {
		c, diags := readCondition(text)
		must.False(t, diags.HasErrors(), must.Sprintf("%s: %v", text, diags))
		got, err := c.Holds(someFacts())
		must.NoError(t, err, must.Sprint(text))
		must.Eq(t, want, got, must.Sprint(text))
		again, diags := readCondition(c.(*condition).text)
		must.False(t, diags.HasErrors(), must.Sprintf("%s from %s: %v", c, text, diags))
		must.Eq(t, c.String(), again.String())
		same, err := again.Holds(someFacts())
		must.NoError(t, err)
		must.Eq(t, want, same)
	}
}

func TestConditionsAboutWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`job.type == "batch"`: "job.type is not known here", `schedule.night`: "schedule.night is not known here", `now != "x"`: "now is not known here",
		`job.priority > 5`: "job.priority is not known", `request.policy_override`: "not known", `request.kind == "plan"`: "not known", `forecast.cost > 5`: "forecast.cost is not known here",
		`limit.gpu_hours.h100 > 5`: "not known", `sum(values(estimate.gpu_hours)) > 5`: "not known", `burn_rate("1h") > 1`: `burn_rate("1h") is not known here`,
	} {
		c, diags := readCondition(text)
		must.False(t, diags.HasErrors(), must.Sprintf("%s: %v", text, diags))
		_, err := c.Holds(budget.Facts{})
		must.ErrorContains(t, err, want, must.Sprint(text))
		must.ErrorContains(t, err, "test:1", must.Sprint(text))
	}
	for _, text := range []string{`job.gpus == 0`, `length(job.devices) == 0`, `length(job.meta) == 0`, `length(job.datacenters) == 0`, `length(submitter.names) == 0`, `submitter.accessor == null`, `job.meta.x == null`} {
		c, _ := readCondition(text)
		holds, err := c.Holds(budget.Facts{})
		must.NoError(t, err, must.Sprint(text))
		must.True(t, holds, must.Sprint(text))
	}
}

func TestMistakesThatShowOnlyWithAJob(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`tonumber(job.meta.tier) > 5`: "cannot be computed", `tonumber(job.meta.absent) > 5`: "is null here", `limit.energy < 5`: "limit.energy is null here", `job.devices[2].count > 1`: "missing element",
		`burn_rate("31d") > 1`: "nothing is known about so long a time", `[for d in job.devices : d.model][7] == ""`: "missing element",
		`tobool(job.meta.tier)`: "cannot be computed", `{ for d in job.devices : d.group => d } == null`: "repeated key", `slice(job.devices, 0, 9) == []`: "cannot be computed",
		`[for a in job.devices : [for b in range(1000) : b + 1]] == []`: "too much work", `jsondecode(job.meta.n)`: "not a condition",
	} {
		c, diags := readCondition(text)
		must.False(t, diags.HasErrors(), must.Sprintf("%s: %v", text, diags))
		_, err := c.Holds(someFacts())
		must.ErrorContains(t, err, want, must.Sprint(text))
	}
}

func TestMistakesInConditionsAreFoundWithoutAJob(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`job.typ == "batch"`: `Did you mean "type"?`, `job.devices[0].modeel == null`: `Did you mean "model"?`, `alltrue([for d in job.devices : d.modeel != null])`: `Did you mean "model"?`,
		`job.devices[*].vendr == []`: `Did you mean "vendor"?`, `jobs.type == "batch"`: `Did you mean "job"?`, `schedule.nigth`: `Did you mean "night"?`, `submitter.name == "x"`: `Did you mean "names"?`,
		`request.kind == "registr"`: `Did you mean "register"?`, `"bach" != job.type`: `Did you mean "batch"?`, `limit.tokens.outpt > 1`: `Did you mean "output"?`, `estimate.costs > 1`: `Did you mean "cost"?`,
		`local.tex == job.id`: `Did you mean "text"?`, `alltru([job.gpus > 1])`: `Did you mean "alltrue"?`,
		`job`: "Incomplete reference", `schedule`: "Incomplete reference", `job.type`: "Not a condition", `job.gpus`: "Not a condition", `"true"`: "Not a condition", `null`: "Not a condition",
		`job.type > 5`: "Convert it", `job.meta.n > 5`: "Convert it", `job.meta.n == 5`: "Never equal", `job.gpus == "8"`: "Never equal", `schedule.night == "true"`: "Never equal", `schedule.night && job.meta.n`: "Compare it",
		`!job.meta.flag`: "Compare it", `job.gpus && true`: "Use another value", `now.hour == 5`: "no attributes", `job.id.x == 5`: "no attributes", `[for d in job.gpus : d] == []`: "Not a list",
		`burn_rate(job.id) > 1`: "not known yet", `burn_rate(5) > 1`: "burn_rate takes", `burn_rate() > 1`: "burn_rate takes", `burn_rate("soon") > 1`: "burn_rate takes", `upper(5, 6) == "x"`: "Wrong number",
		`tonumber("x") > job.gpus`: "Cannot be computed", `env("HOME") == job.id`: "there are no functions of files", `timestamp() == now`: "there are no functions of files", `[for a in range(1000) : [for b in range(1000) : b]] == job.devices`: "Too much work",
		`length(` + strings.Repeat(`[for x in job.devices : `, 60) + `1` + strings.Repeat("]", 60) + `) == ` + strings.Repeat("1 + ", 450) + `1`: "Condition too large",
	} {
		_, diags := readCondition(text)
		must.True(t, diags.HasErrors(), must.Sprint(text))
		must.StrContains(t, diags[0].Summary+" "+diags[0].Detail, want, must.Sprint(text))
		must.Eq(t, "test", diags[0].Subject.Filename)
	}
	_, diags := readConditionWith(`forecast.cost > 5 || burn_rate("1h") > 2 || job.typ == ""`, "job")
	must.Len(t, 3, diags)
	must.StrContains(t, diags[0].Detail, "This condition may refer to job, and to var and local.")
}

// A comparison with a word is looked at before anything is evaluated.
func TestNoConditionTakesLongToRead(t *testing.T) {
	t.Parallel()
	nested := "1"
	for range 30 {
		nested = "[for x in [1, 2, 3, 4, 5, 6, 7, 8, 9] : " + nested + "]"
	}
	start := time.Now()
	_, diags := readCondition(`job.type == ` + nested)
	must.True(t, diags.HasErrors())
	must.Eq(t, "Too much work", diags[0].Summary)
	must.Less(t, 20*time.Second, time.Since(start))
}

func TestConditionsSayWhatTheyUse(t *testing.T) {
	t.Parallel()
	c, diags := readCondition(`job.gpus > 2 && schedule.night || burn_rate("1h") > local.n && [for submitter in local.list : submitter] != []`)
	must.False(t, diags.HasErrors())
	for root, want := range map[string]bool{"job": true, "schedule": true, burnRate: true, "submitter": false, "forecast": false, "local": false, "now": false} {
		must.Eq(t, want, c.Uses(root), must.Sprint(root))
	}
}

func TestAConditionIsWrittenOnOneLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"job.gpus>2&&   !schedule.night": "job.gpus > 2 && !schedule.night", "(\n job.gpus # how many\n > 2 /* two */\n)": "(job.gpus > 2)",
		"{\n a = 1\n\n b = 2,\n # c\n c = 3\n}": "{ a = 1, b = 2, c = 3 }", "[\n  1,\n  2,\n]": "[1, 2, ]", "{ for k, v in x :\n k => v\n}": "{ for k, v in x : k => v }",
		`"a  ${ x }  b"`: `"a  ${x}  b"`, "f(\n a,\n b)": "f(a, b)",
	} {
		must.Eq(t, want, canonical([]byte(text)), must.Sprint(text))
		must.Eq(t, want, canonical([]byte(want)), must.Sprint(text))
	}
}

func TestAConditionShowsTheConstantsInIt(t *testing.T) {
	t.Parallel()
	c, diags := readCondition(`job.gpus>local.n && contains(local.list, local . text)&& local.n > 5`)
	must.False(t, diags.HasErrors())
	must.Eq(t, `job.gpus > local.n && contains(local.list, local.text) && local.n > 5 (local.list = ["a", "b"], local.n = 7, local.text = "nlp")`, c.String())
	_, diags = readCondition(`notify.webhook.finops == job.id`)
	must.True(t, diags.HasErrors())
}

// Conditions of different jobs are evaluated at the same time.
func TestConditionsAreEvaluatedAtTheSameTime(t *testing.T) {
	t.Parallel()
	c, diags := readCondition(`alltrue([for d in job.devices : d.count > 0]) && job.devices[*].vendor != [] && burn_rate("1h") > 0 && { (job.id) = "n${job.gpus}" }[job.id] == "n${job.gpus}"`)
	must.False(t, diags.HasErrors())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			f := someFacts()
			f.Job.GPUs = i
			for range 50 {
				holds, err := c.Holds(f)
				must.NoError(t, err)
				must.True(t, holds)
			}
		})
	}
	wg.Wait()
}

func TestConditionsHaveNoMemory(t *testing.T) {
	t.Parallel()
	c, diags := readCondition(`anytrue([for k, v in job.meta : v == "x" && k != "y"]) || job.gpus > 5 || contains(submitter.names, job.name)`)
	must.False(t, diags.HasErrors())
	words := rapid.SampledFrom([]string{"", "x", "y", "z"})
	rapid.Check(t, func(t *rapid.T) {
		f := budget.Facts{
			Job:       budget.JobFacts{Name: "n" + words.Draw(t, "name"), GPUs: rapid.IntRange(0, 9).Draw(t, "gpus"), Meta: rapid.MapOf(words, words).Draw(t, "meta")},
			Submitter: budget.SubmitterFacts{Names: rapid.SliceOf(rapid.Map(words, func(s string) string { return "n" + s })).Draw(t, "names")},
		}
		want := f.Job.GPUs > 5
		for k, v := range f.Job.Meta {
			want = want || v == "x" && k != "y"
		}
		for _, name := range f.Submitter.Names {
			want = want || name == f.Job.Name
		}
		got, err := c.Holds(f)
		must.NoError(t, err)
		must.Eq(t, want, got)
	})
}

func TestEveryRootHasFacts(t *testing.T) {
	t.Parallel()
	d := testDecoder("")
	f := someFacts()
	for _, root := range []string{"job", "submitter", "request", "estimate", "limit", "forecast"} {
		for name, fact := range d.factsOf(root) {
			v, known := fact.get(&f, nil)
			must.True(t, known, must.Sprintf("%s.%s", root, name))
			must.True(t, v.Type().Equals(fact.typical.Type()), must.Sprintf("%s.%s is %#v", root, name, v))
			for _, word := range fact.words {
				must.NotEq(t, "", word)
			}
		}
	}
	v, known := nowFact().get(&f, nil)
	must.True(t, known)
	must.Eq(t, cty.StringVal("2026-03-10T12:30:00Z"), v)
}

// FuzzCondition finds conditions that panic, never end, or mean something else
// when they are written on one line.
func FuzzCondition(f *testing.F) {
	for _, text := range append(expressions(), hostile()...) {
		f.Add(text+" == null", "x")
	}
	for _, text := range []string{`job.type == "batch"`, `alltrue([for d in job.devices : d.model != null])`, `job.meta.tier == "spot"`, `burn_rate("1h") > 14`, "{\n a = job.gpus\n}.a > 5"} {
		f.Add(text, "spot")
	}
	f.Fuzz(func(t *testing.T, text, meta string) {
		if oversized(File{Content: []byte(text)}) != nil {
			return
		}
		start := time.Now()
		c, diags := readCondition(text)
		if diags.HasErrors() || c == nil {
			return
		}
		facts := someFacts()
		facts.Job.Meta["tier"], facts.Job.Meta[meta] = meta, meta
		holds, err := c.Holds(facts)
		again, diags := readCondition(c.(*condition).text)
		must.False(t, diags.HasErrors(), must.Sprintf("%s\n%v", c, diags))
		must.Eq(t, c.String(), again.String())
		same, sameErr := again.Holds(facts)
		must.Eq(t, holds, same)
		must.Eq(t, err == nil, sameErr == nil)
		_, _ = c.Holds(budget.Facts{})
		must.Less(t, 30*time.Second, time.Since(start))
	})
}

func BenchmarkCondition(b *testing.B) {
	for name, text := range map[string]string{
		"type": `job.type != "system"`, "meta": `job.meta.tier == "spot"`, "schedule": `schedule.night`, "devices": `alltrue([for d in job.devices : d.model != null])`,
		"alert": `burn_rate("1h") > 14 && burn_rate("5m") > 14`, "names": `anytrue([for n in submitter.names : glob("role:nlp-*", n)])`, "forecast": `forecast.cost > limit.cost`,
	} {
		b.Run(name, func(b *testing.B) {
			c, diags := readCondition(text)
			if diags.HasErrors() {
				b.Fatal(diags)
			}
			f := someFacts()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Holds(f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
