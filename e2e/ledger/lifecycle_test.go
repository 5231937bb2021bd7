package ledger_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// A job holds its worst case while it runs, and gives back what it did not use.
func TestHeldAndGivenBack(t *testing.T) {
	s := play(t, "givenback", 2)
	s.apply(`
budget "givenback" {
  match {
    namespaces = ["givenback"]
  }
  limit "day" {
    gpu_hours = 10
  }
  concurrent {
    gpus = 2
  }
}
`)
	s.run(job{id: "short", gpus: 2, meta: map[string]string{"governor_max_runtime": "1h"}, script: "sleep 20"})
	refused := s.submit(job{id: "second", gpus: 1, meta: map[string]string{"governor_max_runtime": "1h"}})
	must.NotEq(t, 0, refused.ExitCode)
	s.says(refused.Output(), "403", "2 GPUs held")
	s.settled("short")
	day := s.limit("givenback", budget.Day, budget.GPUTime(budget.AnyClass))
	must.Eq(t, 0, day.Held)
	must.Between(t, quantity.Amount(2*20_000), day.Posted, quantity.Amount(2*120_000))
}
