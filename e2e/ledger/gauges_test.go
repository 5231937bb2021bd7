package ledger_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// What the device plugin counts is what a job is charged: the energy that its GPU
// drew while it had it. And a job that does not use its GPUs is stopped.
func TestEnergyIsMeteredAndIdleWorkEnded(t *testing.T) {
	s := alone(t, "gauges")
	s.meterEvery("5s")
	s.apply(`
budget "gauges" {
  match {
    namespaces = ["gauges"]
  }
  limit "day" {
    gpu_hours = 10
  }
  max_idle = "12s"
  over_budget {
    stop {
      signal = "SIGUSR1"
      grace  = "2s"
    }
  }
}
`)
	ada := s.Client("ada")
	all := func(set func(gpu int) error) {
		for gpu := range 4 {
			must.NoError(t, set(gpu))
		}
	}
	counter := int64(1_000_000)
	draw := func(joules int64) {
		counter += 1000 * joules
		all(func(gpu int) error { return ada.Control.Energy(gpu, counter) })
	}
	all(func(gpu int) error { return ada.Control.Utilisation(gpu, 80, 10) })
	t.Cleanup(func() { all(func(gpu int) error { return ada.Control.Utilisation(gpu, 0, 0) }) })
	s.run(job{id: "train", gpus: 1, device: l40s, meta: map[string]string{"governor_max_runtime": "1h"}})
	posted := func(what string, enough func(u ledger.Usage) bool) ledger.Usage {
		var last ledger.Usage
		s.eventually(what, func() error {
			h := s.hold("train")
			if h == nil || !enough(h.Posted) {
				return fmt.Errorf("%+v", h)
			}
			last = h.Posted
			return nil
		})
		return last
	}
	// From the second reading on all that the counter shows is the job's.
	read := posted("energy is posted", func(u ledger.Usage) bool {
		draw(10)
		return u.Energy > 0
	})
	still := posted("all of it is posted", func(u ledger.Usage) bool { return u.Total() > read.Total()+15_000 })
	draw(500)
	posted("as much as the counter shows", func(u ledger.Usage) bool { return u.Energy == still.Energy+500 })
	must.Nil(t, s.hold("train").Ending, must.Sprint("it has used its GPU all the time"))

	all(func(gpu int) error { return ada.Control.Utilisation(gpu, 0, 0) })
	s.eventually("the idle allocation is shown", func() error {
		return missing(s.governor("budget", "status").Output(), "idle")
	})
	s.settled("train")
	var receipts []report.Receipt
	s.eventually("there is a receipt", func() error {
		result := s.governor("job", "receipt", "-json", "-namespace=gauges", "train")
		return json.Unmarshal([]byte(result.Stdout), &receipts)
	})
	must.Eq(t, "max_idle", receipts[0].Stopped)
	i := slices.IndexFunc(receipts[0].Items, func(item report.Item) bool { return item.Name == "energy_j" })
	must.Eq(t, still.Energy+500, receipts[0].Items[i].Posted)
	s.says(s.governor("audit", "list").Output(), "max_idle", "train")
}
