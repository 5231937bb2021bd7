package ledger_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// checkpointing is a task that works until it is asked for a checkpoint, writes
// one, and works on until it is stopped.
const checkpointing = `
trap 'echo "checkpoint at $(date +%s)" > /local/checkpoint; echo checkpoint written' USR1
echo working
while true; do sleep 0.2; done
`

// checkpoint is when a task of an allocation wrote its checkpoint.
func (s *scene) checkpoint(a *api.Allocation) time.Time {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Dir, a.NodeName, "alloc", a.ID, "t", "local", "checkpoint"))
	must.NoError(s.t, err)
	at, err := strconv.ParseInt(strings.TrimSpace(strings.TrimPrefix(string(text), "checkpoint at ")), 10, 64)
	must.NoError(s.t, err)
	return time.Unix(at, 0)
}

// A batch job whose time is up is asked for a checkpoint, and stopped when the
// grace is over. This Nomad does not know max_run_duration: the agent does it.
func TestMaxRuntimeEndsAJobAfterItsCheckpoint(t *testing.T) {
	s := play(t, "maxruntime", 2)
	s.apply(`
budget "maxruntime" {
  match {
    namespaces = ["maxruntime"]
  }
  limit "day" {
    gpu_hours = 10
  }
  over_budget {
    stop {
      signal = "SIGUSR1"
      grace  = "8s"
    }
  }
}
`)
	a := s.run(job{id: "train", gpus: 2, meta: map[string]string{"governor_max_runtime": "45s"}, script: checkpointing})[0]
	s.printed(a, "checkpoint written")
	var shown cluster.Result
	s.eventually("the signal is on record", func() error {
		shown = s.governor("job", "status", "-namespace=maxruntime", "train")
		if !strings.Contains(shown.Output(), "SIGUSR1 sent at") {
			return errors.New(shown.Output())
		}
		return nil
	})
	s.says(shown.Output(), "max_runtime", "SIGUSR1 sent at", "stop at", "it has run as long as it was admitted for")
	a = s.ended(a.ID)
	created, ended := time.Unix(0, a.CreateTime), time.Unix(0, a.ModifyTime)
	must.Between(t, 36*time.Second, s.checkpoint(a).Sub(created), 44*time.Second)
	must.Between(t, 45*time.Second, ended.Sub(created), 55*time.Second)
	s.says(s.nomad("job", "status", "train").Output(), "dead (stopped)")

	s.settled("train")
	day := s.limit("maxruntime", budget.Day, budget.GPUTime(budget.AnyClass))
	must.Eq(t, 0, day.Held)
	must.Eq(t, quantity.Amount(2*(a.ModifyTime/1e6-a.CreateTime/1e6)), day.Posted)
}

// What was lent comes back: the borrower gets its signal and its grace, and the
// lender's job runs on its own GPUs.
func TestLentGPUsAreReclaimed(t *testing.T) {
	s := play(t, "reclaim", 6)
	for _, namespace := range []string{"reclaim-low", "reclaim-high"} {
		_, err := s.api().Namespaces().Register(&api.Namespace{Name: namespace}, nil)
		must.NoError(t, err)
	}
	low, high := s.in("reclaim-low"), s.in("reclaim-high")
	s.apply(`
budget "reclaim" {
  over_budget {
    admit = "queue"
    stop {
      signal = "SIGUSR1"
      grace  = "5s"
    }
  }
  budget "low" {
    match {
      namespaces = ["reclaim-low"]
    }
    priority = 10
    cohort   = "reclaim"
    concurrent {
      gpus   = { any = 2 }
      borrow = { any = 2 }
    }
  }
  budget "high" {
    match {
      namespaces = ["reclaim-high"]
    }
    priority = 90
    cohort   = "reclaim"
    concurrent {
      gpus = { any = 2 }
      lend = { any = 2 }
      reclaim {
        grace       = "5s"
        min_runtime = "none"
      }
    }
  }
}
`)
	long := map[string]string{"governor_max_runtime": "1h"}
	own := low.run(job{id: "own", gpus: 2, meta: long, script: checkpointing})[0]
	borrower := low.run(job{id: "borrower", gpus: 2, meta: long, script: checkpointing})[0]
	waits := high.submit(job{id: "lender", gpus: 2, meta: long})
	must.Eq(t, 0, waits.ExitCode, must.Sprint(waits.Output()))
	low.printed(borrower, "checkpoint written")
	borrower = low.ended(borrower.ID)
	must.Greater(t, 4*time.Second, time.Unix(0, borrower.ModifyTime).Sub(low.checkpoint(borrower)))
	high.running("lender", 1)
	must.Eq(t, api.AllocClientStatusRunning, low.allocations("own")[0].ClientStatus)
	must.StrNotContains(t, low.output(own), "checkpoint")
	low.settled("borrower")
	must.NotNil(t, high.hold("lender"))
	must.Nil(t, high.hold("lender").Ending)
}

// A service of an overdrawn budget gets smaller in steps, never below its
// minimum, and grows again when there is room.
func TestThrottledServiceShrinksAndGrows(t *testing.T) {
	s := play(t, "throttle", 4)
	policy := func(gpus int) string {
		return fmt.Sprintf(`
budget "throttle" {
  match {
    namespaces = ["throttle"]
  }
  concurrent {
    gpus = { any = %d }
  }
  over_budget {
    running = "throttle"
    throttle {
      min_count = 1
      step      = "50%%"
      every     = "3s"
    }
  }
}
`, gpus)
	}
	s.apply(policy(4))
	s.run(job{id: "web", kind: "service", count: 4, gpus: 1})
	s.apply(policy(1))
	s.running("web", 1)
	s.eventually("the hold follows", func() error {
		if l := s.limit("throttle", budget.Concurrent, budget.GPUs(budget.AnyClass)); l.Held != quantity.GPU {
			return fmt.Errorf("%d GPUs are held", l.Held/quantity.GPU)
		}
		return nil
	})
	h := s.hold("web")
	must.NotNil(t, h.Ending)
	must.Eq(t, 4, h.Ending.Throttled["g"].Was)
	must.Eq(t, 1, h.Ending.Throttled["g"].Is)
	s.says(s.governor("job", "status", "-namespace=throttle", "web").Output(), "Throttled over_budget: group g scaled from 4 to 1")
	scaled, _, err := s.api().Jobs().ScaleStatus("web", s.query())
	must.NoError(t, err)
	s.says(scaled.TaskGroups["g"].Events[0].Message, "governor: budget throttle is over its limit")

	// Nothing below the minimum, however little is allowed; then back up.
	s.apply(policy(3))
	s.running("web", 3)
	must.Eq(t, quantity.GPU.Mul(3), s.limit("throttle", budget.Concurrent, budget.GPUs(budget.AnyClass)).Held)
	s.apply(policy(4))
	s.running("web", 4)
	s.eventually("nothing is enforced any more", func() error {
		if h := s.hold("web"); h == nil || h.Ending != nil {
			text, err := json.Marshal(h)
			return fmt.Errorf("%s %w", text, err)
		}
		return nil
	})
}
