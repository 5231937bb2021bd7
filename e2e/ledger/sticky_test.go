package ledger_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// What Governor writes into a job is the same whenever the same job comes, and changes
// nothing that runs: only what Nomad itself restarts for is restarted.
func TestTheRestartMatrix(t *testing.T) {
	s := play(t, "sticky", 4)
	s.apply(routesPolicy("sticky", 4))
	base := job{id: "train", gpus: 2}
	submitted := s.submit(base)
	must.Eq(t, 0, submitted.ExitCode, must.Sprint(submitted.Output()))
	alloc := s.running(base.id, 1)[0]
	pins := func() []string {
		j, _, err := s.api().Jobs().Info("train", s.query())
		must.NoError(t, err)
		var out []string
		for _, c := range j.TaskGroups[0].Tasks[0].Resources.Devices[0].Constraints {
			out = append(out, c.LTarget+" "+c.Operand+" "+c.RTarget)
		}
		return out
	}
	first := pins()
	must.Len(t, 1, first, must.Sprint("the job is pinned: ", submitted.Output()))
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "train.nomad.hcl")
		must.NoError(t, os.WriteFile(name, []byte(text), 0o644))
		return name
	}
	with := func(after, addition string) string { return strings.Replace(base.hcl(), after, after+addition, 1) }
	// Each row is submitted on top of the ones before.
	constraint := with("count = 1\n", "    constraint {\n      attribute = \"${attr.kernel.name}\"\n      value     = \"linux\"\n    }\n")
	affinity := strings.Replace(constraint, "count = 1\n", "count = 1\n    affinity {\n      attribute = \"${node.class}\"\n      value     = \"fast\"\n    }\n", 1)
	meta := strings.Replace(affinity, "meta {\n", "meta {\n    note = \"changed\"\n", 1)
	device := strings.Replace(meta, "count = 2\n", "count = 2\n          constraint {\n            attribute = \"${device.attr.memory}\"\n            operator  = \">=\"\n            value     = \"40 GiB\"\n          }\n", 1)
	for _, row := range []struct {
		name, job          string
		version, restarted bool
	}{
		{"the same job", base.hcl(), false, false},
		{"a group constraint", constraint, true, false},
		{"the same again", constraint, false, false},
		{"a group affinity", affinity, true, false},
		{"job meta", meta, true, true},
		{"a device constraint", device, true, true},
		{"the same again, with new pins", device, false, false},
	} {
		before := s.version("train")
		source := file(row.job)
		plan := s.nomad("job", "plan", source)
		must.Eq(t, row.version, strings.Contains(plan.Output(), "+/- Job"), must.Sprint(row.name, ": ", plan.Output()))
		must.Eq(t, row.restarted, plan.ExitCode == 1, must.Sprint(row.name, ": the plan says what is replaced: ", plan.Output()))
		result := s.nomad("job", "run", "-detach", source)
		must.Eq(t, 0, result.ExitCode, must.Sprint(row.name, ": ", result.Output()))
		must.Eq(t, row.version, s.version("train") > before, must.Sprint(row.name))
		running := s.settledOn("train", row.restarted, alloc.ID)
		must.Eq(t, row.restarted, running.ID != alloc.ID, must.Sprint(row.name))
		alloc = running
		if row.name != "a device constraint" && row.name != "the same again, with new pins" {
			must.Eq(t, first, pins(), must.Sprint(row.name, ": the pins are those of the first placement"))
		}
		again := s.nomad("job", "plan", source)
		must.StrNotContains(t, again.Output(), "+/- Job", must.Sprint(row.name, ": a plan of what is registered shows no change: ", again.Output()))
	}
}

// Nomad runs a batch job that has ended again when its specification has changed, and the
// pins are a part of that: one that is submitted again as it was keeps them, and does not
// run again.
func TestAJobThatHasEndedIsNotRunAgainUnasked(t *testing.T) {
	s := play(t, "ended", 2)
	s.apply(routesPolicy("ended", 4))
	once := job{id: "once", gpus: 2, script: "true"}
	result := s.submit(once)
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	s.eventually("job once has run", func() error {
		if len(s.allocations("once")) == 0 {
			return errPending
		}
		return nil
	})
	s.ended(s.allocations("once")[0].ID)
	s.settled("once")
	before := s.version("once")
	result = s.submit(once)
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	s.settled("once")
	must.Eq(t, before, s.version("once"))
	must.StrContains(t, result.Output(), "unchanged for g: what was registered before stays")
	must.Len(t, 1, s.allocations("once"))

	once.script = "true; true"
	result = s.submit(once)
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	s.eventually("the changed job has run", func() error {
		if len(s.allocations("once")) < 2 {
			return errPending
		}
		return nil
	})
}

var errPending = errors.New("an evaluation is pending, or the old allocation still runs")

// settledOn waits until one allocation of the job runs and no evaluation is pending;
// another one than before if it was replaced.
func (s *scene) settledOn(jobID string, replaced bool, before string) *api.Allocation {
	s.t.Helper()
	var found *api.Allocation
	s.eventually("job "+jobID+" has settled", func() error {
		evals, _, err := s.api().Jobs().Evaluations(jobID, s.query())
		must.NoError(s.t, err)
		for _, e := range evals {
			if e.Status == "pending" {
				return errPending
			}
		}
		running := s.running(jobID, 1)
		if replaced && running[0].ID == before {
			return errPending
		}
		found = running[0]
		return nil
	})
	return found
}

// The author says how a job is placed; changing it places it anew.
func TestTheModeOfPlacement(t *testing.T) {
	s := play(t, "mode", 4)
	s.apply(routesPolicy("mode", 4))
	pins := func() []*api.Constraint {
		j, _, err := s.api().Jobs().Info("train", s.query())
		must.NoError(t, err)
		return j.TaskGroups[0].Tasks[0].Resources.Devices[0].Constraints
	}
	train := func(mode string) job {
		return job{id: "train", gpus: 2, meta: map[string]string{"governor_placement": mode}}
	}
	wrong := s.submit(train("best"))
	must.NotEq(t, 0, wrong.ExitCode)
	s.says(wrong.Output(), "403", `job meta governor_placement is "best", which is no mode of placement`, "(placement_unknown)")

	first := s.run(train("off"))[0]
	must.SliceEmpty(t, pins())
	again := s.submit(train("off"))
	must.Eq(t, 0, again.ExitCode, must.Sprint(again.Output()))
	must.Eq(t, 0, s.version("train"))

	pinned := s.submit(train("require"))
	must.Eq(t, 0, pinned.ExitCode, must.Sprint(pinned.Output()))
	second := s.settledOn("train", true, first.ID)
	must.NotEq(t, first.ID, second.ID)
	must.SliceLen(t, 1, pins())

	// The budget says it for those who do not; what is pinned already stays so.
	s.apply(strings.Replace(routesPolicy("mode", 4), "  match {", "  placement {\n    mode = \"off\"\n  }\n  match {", 1))
	same := s.submit(train("require"))
	must.Eq(t, 0, same.ExitCode, must.Sprint(same.Output()))
	must.SliceLen(t, 1, pins())
	must.Eq(t, 1, s.version("train"))
	must.Eq(t, 0, s.nomad("job", "stop", "-detach", "train").ExitCode)
	s.settled("train")
	quiet := s.submit(job{id: "train", gpus: 2})
	must.Eq(t, 0, quiet.ExitCode, must.Sprint(quiet.Output()))
	s.says(quiet.Output(), `GPUs not pinned: the mode of placement is "off" by budget mode`)
	must.SliceEmpty(t, pins())
}
