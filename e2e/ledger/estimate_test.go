package ledger_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/scheduler/place"
)

// What is said of a job before it is submitted is what its plan says and what becomes of
// it; and asking leaves nothing behind.
func TestAJobIsEstimatedBeforeItIsSubmitted(t *testing.T) {
	s := play(t, "estimate", 2)
	s.apply(routesPolicy("estimate", 4))
	text := strings.Replace(job{id: "train", gpus: 2, meta: map[string]string{"governor_max_runtime": "30m"}}.hcl(), "count = 2\n", "count = var.gpus\n", 1)
	text = strings.Replace(text, `"30m"`, "var.runtime", 1)
	file := filepath.Join(t.TempDir(), "train.nomad.hcl")
	must.NoError(t, os.WriteFile(file, []byte("variable \"gpus\" {\n  type = number\n}\n\nvariable \"runtime\" {\n  type = string\n}\n\n"+text), 0o644))
	estimate := func(gpus string) agent.Estimate {
		t.Helper()
		result := s.governor("job", "estimate", "-json", "-namespace="+s.name, "-var=gpus="+gpus, "-var=runtime=30m", file)
		must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
		var e agent.Estimate
		must.NoError(t, json.Unmarshal([]byte(result.Stdout), &e))
		return e
	}
	e := estimate("2")
	must.Eq(t, "admit fits estimate", e.Outcome+" "+e.Reason+" "+e.Namespace)
	must.Nil(t, s.hold("train"))
	var why place.Explanation
	must.NoError(t, json.Unmarshal(e.Placement.Nodes, &why))
	must.Len(t, 1, why.Groups)
	must.StrHasPrefix(t, "hopper", why.Groups[0].Choices[0].Node)
	plan := s.nomad("job", "plan", "-var=gpus=2", "-var=runtime=30m", file)
	s.says(plan.Output(), e.Text)

	run := s.nomad("job", "run", "-detach", "-var=gpus=2", "-var=runtime=30m", file)
	must.Eq(t, 0, run.ExitCode, must.Sprint(run.Output()))
	s.says(run.Output(), e.Text)
	s.running("train", 1)
	must.Eq(t, e.Cost, s.hold("train").Estimate)

	// Now the job runs: the same again needs nothing more, and more does not fit.
	for _, l := range estimate("2").Limits {
		if l.Kind == "limit" {
			must.Eq(t, 0, l.Need, must.Sprint(l))
		}
	}
	more := estimate("5")
	must.Eq(t, "deny", more.Outcome)
	s.says(s.nomad("job", "plan", "-var=gpus=5", "-var=runtime=30m", file).Output(), more.Text)
	refused := s.nomad("job", "run", "-detach", "-var=gpus=5", "-var=runtime=30m", file)
	must.Eq(t, 1, refused.ExitCode)
	s.says(refused.Output(), more.Text)

	wrong := s.governor("job", "estimate", "-namespace="+s.name, file)
	must.Eq(t, 1, wrong.ExitCode)
	s.says(wrong.Output(), "Nomad answered", `Unset variable "gpus"`)
	explained := s.governor("job", "explain", "-namespace="+s.name, "-var=gpus=2", "-var=runtime=30m", file)
	must.Eq(t, 0, explained.ExitCode, must.Sprint(explained.Output()))
	s.says(explained.Output(), `Group "g"`, "NV18 pair", "ada no "+h100+" that the job accepts")
}
