package ledger_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// line is what `governor queue list` prints for the scene's budget.
func (s *scene) line() string {
	s.t.Helper()
	result := s.governor("queue", "list", "-budget="+s.name)
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
	return result.Output()
}

// leaves waits until a job is not in the queue any more.
func (s *scene) leaves(jobID string) {
	s.t.Helper()
	s.eventually("job "+jobID+" leaves the queue", func() error {
		if now := s.line(); strings.Contains(now, s.name+"/"+jobID) {
			return fmt.Errorf("%s", now)
		}
		return nil
	})
}

// A job that does not fit is registered and waits where everybody can see it, and
// runs on the GPUs that placement picks when what ran before it has ended.
func TestTrap10AJobWaitsInSightAndIsReleased(t *testing.T) {
	s := play(t, "inline", 4)
	s.apply(`
budget "inline" {
  match {
    namespaces = ["inline"]
  }
  concurrent {
    gpus = 2
  }
  over_budget {
    admit = "queue"
  }
}
`)
	hour := map[string]string{"governor_max_runtime": "1h"}
	s.run(job{id: "first", gpus: 2, meta: hour})
	s.eventually("the agent knows until when the first job runs", func() error {
		if h := s.hold("first"); h == nil || len(h.Allocations) == 0 {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
	second := job{id: "second", gpus: 2, meta: hour}
	queued := s.submit(second)
	must.Eq(t, 0, queued.ExitCode, must.Sprint(queued.Output()))
	s.says(queued.Output(), `job "second" in namespace "inline" waits for budget`, "(concurrency_limit)", "position 1 of 1 in the queue of budget inline",
		"expected about", "Evaluation ID:")
	s.eventually("Nomad says why the job waits", func() error {
		flat := strings.Join(strings.Fields(s.nomad("job", "status", "second").Output()), " ")
		for _, part := range []string{"Status = pending", `Constraint "${meta.governor_gate} = held by governor: waits for budget inline"`} {
			if !strings.Contains(flat, part) {
				return fmt.Errorf("%q is missing in: %s", part, flat)
			}
		}
		return nil
	})
	s.says(s.line(), "1/1 inline/second inline", "2 GPUs", "(concurrency_limit)")
	s.says(s.governor("job", "why", "-namespace=inline", "second").Output(), "waits for budget: it needs 2 GPUs", "limit 2 GPUs at the same time in budget inline")
	s.says(s.governor("decision", "show", "inline/second").Output(), "Outcome queue Reason concurrency_limit Budget inline Set at inline.hcl:", "What concurrency_limit means",
		`job "second" in namespace "inline" waits for budget: it needs 2 GPUs`)
	must.Nil(t, s.hold("second"), must.Sprint("who waits holds nothing"))

	// The same job once more is no new version, and its plan is empty of changes.
	must.Eq(t, 0, s.submit(second).ExitCode)
	waiting, _, err := s.api().Jobs().Info("second", s.query())
	must.NoError(t, err)
	must.Eq(t, uint64(0), *waiting.Version)

	stopped := s.submit(job{id: "third", gpus: 1, meta: hour})
	must.Eq(t, 0, stopped.ExitCode)
	s.says(s.line(), "2/2 inline/third inline")
	must.Eq(t, 0, s.nomad("job", "stop", "-detach", "third").ExitCode)
	s.leaves("third")

	must.Eq(t, 0, s.nomad("job", "stop", "-detach", "first").ExitCode)
	s.running("second", 1)
	s.says(s.line(), "No job waits for budget.")
	must.NotNil(t, s.hold("second"))
	s.eventually("the placement of the released job is checked", func() error {
		if h := s.hold("second"); h == nil || len(h.Placement) != 1 || h.Placement[0].Difference != "" {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
}

// A job that has waited as long as its queue allows is stopped, and Nomad shows
// why; one whose author does not want to wait is refused at once.
func TestAJobThatWaitedTooLongIsGivenUp(t *testing.T) {
	s := play(t, "hasty", 1)
	s.apply(`
budget "hasty" {
  match {
    namespaces = ["hasty"]
  }
  concurrent {
    gpus = 1
  }
  over_budget {
    admit = "queue"
  }
  queue {
    timeout = "5s"
  }
}
`)
	hour := map[string]string{"governor_max_runtime": "1h"}
	s.run(job{id: "first", gpus: 1, meta: hour})
	refused := s.submit(job{id: "impatient", gpus: 1, meta: map[string]string{"governor_max_runtime": "1h", "governor_queue": "no"}})
	must.NotEq(t, 0, refused.ExitCode)
	s.says(refused.Output(), "403", `not queued meta governor_queue = "no" says so`)
	must.Eq(t, 0, s.submit(job{id: "late", gpus: 1, meta: hour}).ExitCode)
	s.leaves("late")
	late, _, err := s.api().Jobs().Info("late", s.query())
	must.NoError(t, err)
	must.True(t, *late.Stop)
	must.StrContains(t, late.TaskGroups[0].Constraints[len(late.TaskGroups[0].Constraints)-1].RTarget, "gave up after waiting 5s for budget hasty (queue_timeout)")
	must.SliceEmpty(t, s.allocations("late"))
}
