package ledger_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// deployed waits until the latest deployment of a job has a status, and returns it.
func (s *scene) deployed(jobID, status string, version uint64) *api.Deployment {
	s.t.Helper()
	var latest *api.Deployment
	s.eventually(fmt.Sprintf("the deployment of version %d is %s", version, status), func() error {
		var err error
		latest, _, err = s.api().Jobs().LatestDeployment(jobID, s.query())
		must.NoError(s.t, err)
		if latest == nil || latest.JobVersion != version || latest.Status != status {
			return fmt.Errorf("%+v", latest)
		}
		return nil
	})
	return latest
}

// atOnce is the most allocations of a job that existed at a time, by Nomad's own times.
func (s *scene) atOnce(jobID string, end func(a *api.Allocation) int64) int {
	s.t.Helper()
	changes := map[int64]int{}
	for _, a := range s.allocations(jobID) {
		changes[a.CreateTime]++
		if a.ClientTerminalStatus() {
			changes[end(a)]--
		}
	}
	most, now := 0, 0
	for _, at := range slices.Sorted(maps.Keys(changes)) {
		now += changes[at]
		most = max(most, now)
	}
	return most
}

// What a promotion starts was held when the update was submitted: the canaries beside
// what runs. The promotion itself is Nomad's business, and an update for whose canaries
// there is no room is refused before any begins. It plays alone: deployments have
// deadlines.
func TestAPromotionStartsNothingThatIsNotHeld(t *testing.T) {
	s := alone(t, "canary")
	s.apply(routesPolicy("canary", 4))
	ends := s.endings()
	serve := func(greeting string) job {
		return job{id: "serve", kind: "service", gpus: 1, count: 2, script: "echo " + greeting + "; while true; do sleep 1; done", extra: `update {
    canary            = 1
    min_healthy_time  = "1s"
    healthy_deadline  = "2m"
    progress_deadline = "3m"
  }`}
	}
	s.run(serve("one"))
	s.deployed("serve", api.DeploymentStatusSuccessful, 0)
	s.holding("serve", 2)

	update := s.submit(serve("two"))
	must.Eq(t, 0, update.ExitCode, must.Sprint(update.Output()))
	s.running("serve", 3)
	s.holding("serve", 4) // the canary, and one more while an old one still ends after the promotion
	s.eventually("the canary is healthy", func() error {
		d := s.deployed("serve", api.DeploymentStatusRunning, 1)
		if d.TaskGroups["g"].HealthyAllocs < 1 {
			return fmt.Errorf("%+v", d.TaskGroups["g"])
		}
		return nil
	})
	d := s.deployed("serve", api.DeploymentStatusRunning, 1)
	promoted := s.nomad("deployment", "promote", "-detach", d.ID)
	must.Eq(t, 0, promoted.ExitCode, must.Sprint(promoted.Output()))
	s.deployed("serve", api.DeploymentStatusSuccessful, 1)
	for _, a := range s.running("serve", 2) {
		must.Eq(t, 1, *a.Job.Version)
	}
	s.holding("serve", 2)
	must.LessEq(t, 4, s.atOnce("serve", ends))

	s.apply(routesPolicy("canary", 3))
	refused := s.submit(serve("three"))
	must.NotEq(t, 0, refused.ExitCode)
	s.says(refused.Output(), "403", "it needs 2 GPUs more, and budget canary never allows more than 3 GPUs")
	must.Eq(t, 1, s.version("serve"))
	s.running("serve", 2)

	must.Eq(t, 0, s.nomad("job", "stop", "-detach", "serve").ExitCode)
	s.settled("serve")
	s.paidUntil(ends, "serve")
}
