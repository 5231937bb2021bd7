package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/shoenig/test/must"
)

// exampleLine is an example in a help text, with the lines that it goes on in.
var exampleLine = regexp.MustCompile(`(?m)^      \$ ((?:.*\\\n)*.*)$`)

// examplesOf are the examples of a command's help.
func examplesOf(t *testing.T, name string) []string {
	t.Helper()
	env, _, _ := silent("")
	made, err := commands(env)[name]()
	must.NoError(t, err)
	var out []string
	for _, m := range exampleLine.FindAllStringSubmatch(made.Help(), -1) {
		out = append(out, m[1])
	}
	return out
}

// notRun are the examples that are not run here, with the reason.
func notRun() map[string]string {
	return map[string]string{
		"governor agent -config=/etc/governor/agent.hcl":                                   "it serves until it is stopped, with a Nomad and a Consul: the end-to-end tests start it so",
		"governor agent -dev -data-dir=/tmp/governor -nomad=http://127.0.0.1:4646":         "it serves until it is stopped, with a Nomad: the end-to-end tests start it so",
		"governor operator step-down":                                                      "it takes a second agent on one Consul: TestTheLeadIsHandedOver in e2e/jobs does so",
		"governor operator debug -output=/tmp/governor.tar.gz -agent=http://10.0.0.6:4640": "it takes a second agent: TestTheLeadIsHandedOver in e2e/jobs does so",
	}
}

// act is a command whose examples are run, each after some lines of a script.
type act struct {
	command string
	before  []string
}

// play is a fixture, and the commands whose examples are run there, in order.
type play struct {
	agent string
	acts  []act
	// stands says what stands for something that only the play makes: a name in an example,
	// and what it is there.
	stands map[string]string
}

// plays are where all other examples are run. Everywhere the budgets of hcl/examples/acme
// apply, and whoever asks may manage.
func plays() map[string]play {
	do := func(names ...string) (out []act) {
		for _, name := range names {
			out = append(out, act{command: name})
		}
		return out
	}
	const model = "meta-llama/Llama-3.1-70B-Instruct"
	request := []string{"exec governor tokens authorize -model=" + model + " -input=1200 -max-output=400 -t={{.id}} acme/research", "keep ID"}
	earlier := []string{"exec governor budget apply -auto-approve cheaper", "exec governor budget apply -auto-approve budgets"}
	return map[string]play{
		"budgets": {acts: append(do("budget validate", "budget fmt", "budget plan"),
			act{"budget apply", []string{"ttyin -stdin yes.txt"}}, act{"budget rollback", earlier}, act{command: "budget show"}, act{command: "budget history"},
			act{command: "version"}), stands: map[string]string{"rollback 12": "rollback 2"}},
		"alerts": {agent: "-notify", acts: do("alert list", "alert test")},
		"usage": {agent: "-usage", acts: do("budget status", "budget statement", "usage report", "usage verify", "usage correct", "usage efficiency", "usage export", "job receipt"),
			stands: map[string]string{"job receipt -all": "job receipt -namespace=research -all"}},
		"audit": {acts: []act{{"audit export", nil}, {"audit list", nil}, {"audit verify", []string{
			"exec governor audit export", "cp stdout audit.jsonl", "exec governor audit verify", "end"}}},
			stands: map[string]string{"/var/lib/governor/audit.jsonl": "audit.jsonl", "128:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef": "$END"}},
		"decisions": {agent: "-decisions", acts: []act{{"decision list", nil},
			{"decision show", []string{"env NOMAD_NAMESPACE=research", "exec governor decision list -t='{{(index .decisions 4).id}}'", "keep ID"}}},
			stands: map[string]string{"d-3f9c1a0b-812": "$ID", "-at=2026-03-09": "-at=2026-03-10"}},
		"trace":   {agent: "-capacity", acts: do("usage trace")},
		"waiting": {agent: "-queue", acts: do("queue list", "job why")},
		"held":    {agent: "-jobs", acts: do("job status"), stands: map[string]string{"research-nlp": "research"}},
		"doctor":  {agent: "-closed", acts: do("doctor"), stands: map[string]string{"<a management token>": "root"}},
		"cluster": {agent: "-gpus", acts: append(do("topology", "job estimate", "job explain", "state register", "state list"),
			act{"state forget", []string{"exec governor state register -node=v2 -size=140GiB model/llama-70b"}}, act{command: "simulate"}, act{command: "capacity"}),
			stands: map[string]string{"gpu-node-1": "v1", "gpu-7": "v2", "gpu-8": "l40s"}},
		"overrides": {acts: []act{{"override request", []string{"env NOMAD_TOKEN=oncall"}}, {"override approve", []string{"env NOMAD_TOKEN=oncall2"}}, {"override revoke", nil}, {"override list", nil}},
			stands: map[string]string{"o-3f9c1a0b2d4e5f60": "o-0000000000000002"}},
		"runs": {acts: do("run open", "run show", "run close", "run list"), stands: map[string]string{"r-9f1c2b3a4d5e6f70": "r-0000000000000002"}},
		"tokens": {acts: append(do("tokens authorize", "tokens report"), act{"tokens settle", request}, act{"tokens void", request}),
			stands: map[string]string{"llama-3.1-8b": model, "t-0d5e...": "$ID"}},
		"operator": {acts: do("operator agents", "operator debug")},
	}
}

// script is a play as a script: the examples are run by sh, each from a file of its own.
func (p play) script(t *testing.T, run map[string]bool) string {
	t.Helper()
	var b, files strings.Builder
	fmt.Fprintf(&b, "agent %s\nenv NOMAD_TOKEN=root\n", p.agent)
	if p.agent != "-capacity" { // which brings a policy of its own
		fmt.Fprintln(&b, "exec governor budget apply -auto-approve budgets")
	}
	n := 0
	for _, a := range p.acts {
		for _, example := range examplesOf(t, a.command) {
			if run[example] || notRun()[example] != "" {
				continue
			}
			run[example] = true
			if _, err := exec.LookPath("jq"); err != nil && strings.Contains(example, "| jq ") {
				t.Logf("not run, for there is no jq here: %s", example)
				continue
			}
			n++
			text := example
			for _, name := range sortedNames(p.stands) {
				text = strings.ReplaceAll(text, name, p.stands[name])
			}
			fmt.Fprintf(&b, "# %s\n%s\nexec sh -e ex%d.sh\n", strings.ReplaceAll(example, "\n", " "), strings.Join(a.before, "\n"), n)
			fmt.Fprintf(&files, "-- ex%d.sh --\n%s\n", n, text)
		}
	}
	return b.String() + files.String()
}

// TestTheExamplesOfTheHelpWork runs every example of every command as it is written, but
// for names that only a fixture makes.
func TestTheExamplesOfTheHelpWork(t *testing.T) {
	t.Parallel()
	dir, run := t.TempDir(), map[string]bool{}
	acme, err := os.ReadFile("../../hcl/examples/acme/acme.hcl")
	must.NoError(t, err)
	acme = regexp.MustCompile(`timezone( *)= ".*"`).ReplaceAll(acme, []byte(`timezone$1= "UTC"`))           // that of the usage of the fixture
	acme = bytes.Replace(acme, []byte("2026-07-01T00:00:00+02:00"), []byte("2026-01-01T00:00:00+02:00"), 1) // the fixture's clock is in March
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	t.Cleanup(receiver.Close)
	acme = bytes.Replace(acme, []byte("https://hooks.acme.example/gpu"), []byte(receiver.URL), 1)
	capacity, err := txtar.ParseFile("testdata/script/capacity.txtar")
	must.NoError(t, err)
	own := slices.IndexFunc(capacity.Files, func(f txtar.File) bool { return f.Name == "acme.hcl" })
	files := fmt.Sprintf("-- budgets/acme.hcl --\n%s-- cheaper/acme.hcl --\n%s-- acme.hcl --\n%s-- yes.txt --\nyes\n-- train.nomad.hcl --\njob \"train\" {\n}\n-- jobs.csv --\n%s",
		acme, strings.Replace(string(acme), "cost   = 250000", "cost   = 240000", 1), capacity.Files[own].Data, "submit_time,duration,gpus,budget\n120,7200,1,acme/research\n150,600,1,acme/serving\n")
	for name, p := range plays() {
		must.NoError(t, os.WriteFile(filepath.Join(dir, name+".txtar"), []byte(p.script(t, run)+files), 0o600))
	}
	env, _, _ := silent("")
	var missing []string
	for name := range commands(env) {
		for _, example := range examplesOf(t, name) {
			if !run[example] && notRun()[example] == "" {
				missing = append(missing, example)
			}
		}
	}
	slices.Sort(missing)
	must.SliceEmpty(t, missing, must.Sprint("these examples are neither run nor listed as not run"))
	params := scripts(t)
	params.Dir, params.UpdateScripts = dir, false
	t.Run("run", func(t *testing.T) { testscript.Run(t, params) })
}
