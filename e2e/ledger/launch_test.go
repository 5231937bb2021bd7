package ledger_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// children are the launches of a periodic job, oldest first.
func (s *scene) children(parent string) []*api.JobListStub {
	s.t.Helper()
	q := s.query()
	q.Prefix = parent + api.JobPeriodicLaunchSuffix
	jobs, _, err := s.api().Jobs().List(q)
	must.NoError(s.t, err)
	return jobs
}

// Nomad launches a periodic job by itself, past the gate. Each launch gets a hold
// and is paid to the millisecond; one for which there is no room is stopped.
func TestLaunchesOfAPeriodicJobAreHeldPaidAndStopped(t *testing.T) {
	s := play(t, "launches", 2)
	policy := func(gpus string) string {
		return fmt.Sprintf(`
budget "launches" {
  match {
    namespaces = ["launches"]
  }
  limit "year" {
    gpu_hours = 100
  }
  concurrent {
    gpus = %s
  }
  per_job {
    default_runtime = "10m"
  }
}
`, gpus)
	}
	s.apply(policy("1"))
	result := s.submit(job{id: "tick", gpus: 1, script: "sleep 4", extra: `periodic {
    crons            = ["*/10 * * * * * *"]
    prohibit_overlap = true
  }`})
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	must.Nil(t, s.hold("tick"))

	paid := ""
	s.eventually("a launch holds budget", func() error {
		for _, h := range s.status().Holds {
			if h.Namespace == s.name && strings.HasPrefix(h.JobID, "tick/periodic-") {
				paid = h.JobID
				return nil
			}
		}
		return errors.New("none does")
	})
	s.settled(paid)

	// The budget is closed: what Nomad launches from now on is stopped.
	s.apply(policy(`"none"`))
	known := map[string]bool{}
	for _, child := range s.children("tick") {
		known[child.ID] = true
	}
	s.eventually("a launch without room is stopped", func() error {
		for _, child := range s.children("tick") {
			if child.Stop && !known[child.ID] {
				return nil
			}
		}
		return fmt.Errorf("there are %d launches", len(s.children("tick")))
	})
	must.Eq(t, 0, s.nomad("job", "stop", "-detach", "tick").ExitCode)
	s.says(s.governor("audit", "list").Output(), "launch.refused", "which Nomad launched by itself, is stopped")

	ms := int64(0)
	for _, child := range s.children("tick") {
		s.settled(child.ID)
		for _, a := range s.allocations(child.ID) {
			ms += s.ended(a.ID).ModifyTime/1_000_000 - a.CreateTime/1_000_000
		}
	}
	must.Positive(t, ms)
	year := s.limit("launches", budget.Year, budget.GPUTime(budget.AnyClass))
	must.Eq(t, 0, year.Held)
	must.Eq(t, quantity.Amount(ms), year.Posted)
}

// A system job holds for every node on which it would run.
func TestASystemJobHoldsForEveryNode(t *testing.T) {
	s := alone(t, "everynode") // it needs a free GPU on each node
	policy := func(gpus int) string {
		return fmt.Sprintf(`
budget "everynode" {
  match {
    namespaces = ["everynode"]
  }
  concurrent {
    gpus = %d
  }
}
`, gpus)
	}
	wide := job{id: "wide", kind: "system", gpus: 1} // three nodes have H100s
	s.apply(policy(1))
	refused := s.submit(wide)
	must.NotEq(t, 0, refused.ExitCode)
	s.says(refused.Output(), "403", "it needs 3 GPUs")
	s.apply(policy(3))
	result := s.submit(wide)
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	s.running("wide", 3)
	must.Eq(t, 3*quantity.GPU, s.limit("everynode", budget.Concurrent, budget.GPUs(budget.AnyClass)).Held)
}
