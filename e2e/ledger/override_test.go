package ledger_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/agent"
)

// `nomad job run -policy-override` lifts a limit for those whom the budget names,
// for a time, with a reason, and all of it is in the audit log.
func TestPolicyOverride(t *testing.T) {
	s := play(t, "override", 0)
	s.apply(`
budget "override" {
  match {
    namespaces = ["override"]
  }
  concurrent {
    gpus = 1
  }
  override "glass" {
    who     = ["acl:disabled"]
    max     = { gpus = 1 }
    expires = "45s"
    reason  = "required"
  }
}
`)
	hour := func(reason string) map[string]string {
		meta := map[string]string{"governor_max_runtime": "1h"}
		if reason != "" {
			meta["governor_reason"] = reason
		}
		return meta
	}
	s.run(job{id: "first", gpus: 1, device: l40s, meta: hour("")})
	refused := s.submit(job{id: "urgent", gpus: 1, device: l40s, meta: hour("")})
	must.NotEq(t, 0, refused.ExitCode)
	s.says(refused.Output(), "403", "concurrency_limit", "short by 1 GPU")
	refused = s.submit(job{id: "urgent", gpus: 1, device: l40s, meta: hour(""), flags: []string{"-policy-override"}})
	must.NotEq(t, 0, refused.ExitCode)
	s.says(refused.Output(), `override "glass" of budget override`, "needs a reason")

	accepted := s.submit(job{id: "urgent", gpus: 1, device: l40s, meta: hour("the demo is today"), flags: []string{"-policy-override"}})
	must.Eq(t, 0, accepted.ExitCode, must.Sprint(accepted.Output()))
	s.says(accepted.Output(), "admitted by override o-", "of budget override, which counts until")
	s.running("urgent", 1)
	s.says(s.governor("override", "list").Output(), "glass", "active", "1 GPU", "the demo is today")
	s.says(s.governor("audit", "list").Output(), "override.requested", `job "urgent" in namespace "override" was admitted by override o-`, "the demo is today")
	verified := s.governor("audit", "verify")
	must.Eq(t, 0, verified.ExitCode, must.Sprint(verified.Output()))
	s.says(verified.Output(), "verified, from number 1 to the end of the chain")

	s.eventually("the override is over", func() error {
		return missing(s.governor("override", "list", "-all").Output(), "ended")
	})
	refused = s.submit(job{id: "late", gpus: 1, device: l40s, meta: hour("")})
	must.NotEq(t, 0, refused.ExitCode)
	s.running("urgent", 1) // what runs goes on
	s.eventually("the end is in the audit log", func() error {
		return missing(s.governor("audit", "list").Output(), "override.ended")
	})
}

type missingError struct{ text, part string }

func (e *missingError) Error() string { return e.part + " is missing in:\n" + e.text }

func missing(text, part string) error {
	if strings.Contains(text, part) {
		return nil
	}
	return &missingError{text, part}
}

// An agent run holds its whole caps, its jobs draw from it, and what is left comes
// back when it is closed.
func TestAgentRun(t *testing.T) {
	s := play(t, "agentrun", 0)
	s.apply(`
budget "agentrun" {
  match {
    namespaces = ["agentrun"]
  }
  limit "day" {
    gpu_hours = 10
  }
  per_run {
    gpu_hours   = 6
    concurrency = 1
    wall_clock  = "1h"
  }
}
`)
	meta := func(run string) map[string]string {
		m := map[string]string{"governor_max_runtime": "2h"}
		if run != "" {
			m["governor_run"] = run
		}
		return m
	}
	refused := s.submit(job{id: "step", gpus: 1, device: l40s, meta: meta("")})
	must.NotEq(t, 0, refused.ExitCode)
	s.says(refused.Output(), "run_required", "names no open run")

	opened := s.governor("run", "open", "-json", "-note=e2e", "agentrun")
	must.Eq(t, 0, opened.ExitCode, must.Sprint(opened.Output()))
	var run agent.RunStatus
	must.NoError(t, json.Unmarshal([]byte(opened.Stdout), &run))
	must.RegexMatch(t, regexp.MustCompile(`^r-[0-9a-f]{16}$`), run.ID)
	full := s.governor("run", "open", "agentrun")
	must.Eq(t, 1, full.ExitCode)
	s.says(full.Output(), "it needs 6 GPU-hours, and budget agentrun has 4 GPU-hours left")

	s.run(job{id: "step", gpus: 1, device: l40s, meta: meta(run.ID)})
	s.says(s.governor("run", "show", run.ID).Output(), "agentrun/step", "1 now, 1 in all; at most 1 at once")
	refused = s.submit(job{id: "another", gpus: 1, device: l40s, meta: meta(run.ID)})
	must.NotEq(t, 0, refused.ExitCode)
	s.says(refused.Output(), "exceeds_run_cap", "at the same time")

	closed := s.governor("run", "close", run.ID)
	must.Eq(t, 0, closed.ExitCode, must.Sprint(closed.Output()))
	must.Eq(t, 0, s.nomad("job", "stop", "-detach", "step").ExitCode)
	s.settled("step")
	begin := time.Now()
	s.eventually("the run gives back what is left", func() error {
		return missing(s.governor("run", "list", "-all").Output(), "closed")
	})
	must.Less(t, time.Minute, time.Since(begin))
	again := s.governor("run", "open", "agentrun")
	must.Eq(t, 0, again.ExitCode, must.Sprint(again.Output()))
}
