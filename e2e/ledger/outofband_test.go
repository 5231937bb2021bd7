package ledger_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/quotaagent/audit"
)

// noticedWithin is how long Governor may take to decide about work that Nomad has placed
// around the gate. It is two seconds on a machine that is not busy; here many scenes play
// at once on few processors.
const noticedWithin = 10 * time.Second

// around runs the stock CLI against Nomad itself.
func (s *scene) around(first, second string, args ...string) cluster.Result {
	s.t.Helper()
	result, err := s.Nomad(s.t.Context(), s.NomadAddr, append([]string{first, second, "-namespace=" + s.name}, args...)...)
	must.NoError(s.t, err)
	return result
}

// submitAround runs a job file at Nomad itself.
func (s *scene) submitAround(j job) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), j.id+".nomad.hcl")
	must.NoError(s.t, os.WriteFile(file, []byte(j.hcl()), 0o644))
	result := s.around("job", "run", append(slices.Clone(j.flags), "-detach", file)...)
	must.Eq(s.t, 0, result.ExitCode, must.Sprint(result.Output()))
}

// governing waits until Governor takes what comes to Nomad for its business: the first
// policy, whichever scene applied it, came a moment ago.
func (s *scene) governing() {
	s.t.Helper()
	s.eventually("governor has noted when the first policy came", func() error {
		response, err := http.Get(s.ConsulAddr + "/v1/kv/governor/outside/.since")
		must.NoError(s.t, err)
		must.NoError(s.t, response.Body.Close())
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("consul answers %s", response.Status)
		}
		return nil
	})
}

// audited is the newest record of a kind about a job; it waits for one.
func (s *scene) audited(kind, jobID string) (found audit.Record) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("there is a record %s of job %s", kind, jobID), func() error {
		said := s.governor("audit", "list", "-json").Output()
		for _, line := range strings.Split(said, "\n") {
			var record audit.Record
			if json.Unmarshal([]byte(line), &record) == nil && record.Kind == kind && record.Subject == s.name+"/"+jobID {
				found = record
			}
		}
		if found.Kind == "" {
			return errors.New("none yet")
		}
		return nil
	})
	return found
}

// stopped waits until Governor has stopped a job, and returns its last allocation.
func (s *scene) stopped(jobID string) *api.Allocation {
	s.t.Helper()
	s.eventually("job "+jobID+" is stopped", func() error {
		j, _, err := s.api().Jobs().Info(jobID, s.query())
		must.NoError(s.t, err)
		if !*j.Stop {
			return cluster.Detail(func() string { return fmt.Sprintf("it is %s; %s", *j.Status, s.governor("audit", "list").Output()) })
		}
		return nil
	})
	all := s.allocations(jobID)
	must.SliceNotEmpty(s.t, all)
	return s.ended(all[len(all)-1].ID)
}

func TestWorkAroundTheGateIsHeldOrStopped(t *testing.T) {
	s := play(t, "around", 3)
	s.apply(routesPolicy("around", 2))
	s.governing()
	s.submitAround(job{id: "fits", gpus: 1})
	placed := s.running("fits", 1)[0]
	s.holding("fits", 1)
	took := time.UnixMilli(s.audited("out_of_band.governed", "fits").AtMS).Sub(time.Unix(0, placed.CreateTime))
	t.Logf("held %v after it was placed", took.Round(time.Millisecond))
	must.Less(t, noticedWithin, took)

	s.submitAround(job{id: "excess", gpus: 2})
	last := s.stopped("excess")
	t.Logf("stopped %v after it was placed", time.Duration(last.ModifyTime-last.CreateTime).Round(time.Millisecond))
	s.settled("excess")
	said := s.governor("audit", "list").Output()
	s.says(said, "out_of_band.governed", `job "fits" in namespace "around" reached Nomad around Governor, and is held in budget around`,
		"out_of_band.refused", `job "excess" in namespace "around", which reached Nomad around Governor, is stopped`)
	must.Len(t, 1, s.running("fits", 1), must.Sprint("the others are left alone"))

	must.Eq(t, 0, s.nomad("job", "stop", "-detach", "fits").ExitCode)
	s.settled("fits")
	s.paid("fits", "excess")
}

func TestAJobScaledAroundTheGateGoesBack(t *testing.T) {
	s := play(t, "stretch", 5)
	s.apply(routesPolicy("stretch", 3))
	s.governing()
	s.run(job{id: "serve", gpus: 1, count: 2})
	up := s.around("job", "scale", "-detach", "serve", "g", "3")
	must.Eq(t, 0, up.ExitCode, must.Sprint(up.Output()))
	s.audited("out_of_band.governed", "serve") // it fits
	s.holding("serve", 3)
	up = s.around("job", "scale", "-detach", "serve", "g", "5")
	must.Eq(t, 0, up.ExitCode, must.Sprint(up.Output()))
	s.eventually("the job has its three allocations again", func() error {
		j, _, err := s.api().Jobs().Info("serve", s.query())
		must.NoError(t, err)
		if *j.TaskGroups[0].Count != 3 || *j.Version < 3 {
			return fmt.Errorf("count %d of version %d", *j.TaskGroups[0].Count, *j.Version)
		}
		return nil
	})
	s.running("serve", 3)
	s.says(s.governor("audit", "list").Output(), "out_of_band.scaled", `group "g" goes back to 3: budget stretch has no room for more`)
}

// A failed deployment brings back the version before, which nobody submits. It plays
// alone: Nomad's deployments have deadlines.
func TestAnAutoRevertIsDecided(t *testing.T) {
	s := alone(t, "undo")
	s.apply(routesPolicy("undo", 3))
	update := `update {
    min_healthy_time  = "1s"
    healthy_deadline  = "2m"
    progress_deadline = "3m"
    auto_revert       = true
  }`
	s.run(job{id: "serve", kind: "service", gpus: 2, extra: update})
	s.eventually("the first version is stable", func() error {
		d, _, err := s.api().Jobs().LatestDeployment("serve", s.query())
		must.NoError(t, err)
		if d == nil || d.Status != api.DeploymentStatusSuccessful {
			return fmt.Errorf("%+v", d)
		}
		return nil
	})
	broken := s.submit(job{id: "serve", kind: "service", gpus: 1, script: "exit 1",
		extra: strings.NewReplacer(`"2m"`, `"10s"`, `"3m"`, `"15s"`).Replace(update)})
	must.Eq(t, 0, broken.ExitCode, must.Sprint(broken.Output()))
	s.apply(routesPolicy("undo", 1)) // what comes back does not fit any more
	last := s.stopped("serve")
	must.NotNil(t, last)
	j, _, err := s.api().Jobs().Info("serve", s.query())
	must.NoError(t, err)
	must.GreaterEq(t, 2, int(*j.Version), must.Sprint("the version that came back, and its stop"))
	s.says(s.governor("audit", "list").Output(), "out_of_band.refused", `job "serve" in namespace "undo"`, "is stopped: it needs 1 GPU more, and budget undo never allows more than 1 GPU at the same time")
}

func TestWorkThatNoBudgetClaimsIsStopped(t *testing.T) {
	s := play(t, "unclaimed", 1)
	s.apply(strings.Replace(routesPolicy("unclaimed", 1), `namespaces = ["unclaimed"]`, `namespaces = ["another"]`, 1))
	s.governing()
	s.submitAround(job{id: "rogue", gpus: 1})
	last := s.stopped("rogue")
	t.Logf("stopped %v after it was placed", time.Duration(last.ModifyTime-last.CreateTime).Round(time.Millisecond))
	s.says(s.governor("audit", "list").Output(), "out_of_band.refused", `no budget claims GPU jobs of namespace "unclaimed"`)
}

// Marked as stable, an old version is the job's current one again, with its old index
// and without an evaluation: through the gate that is refused, and around it seen.
func TestAnOldVersionMarkedAsStableIsRefusedOrScaledBack(t *testing.T) {
	s := play(t, "stable", 3)
	s.apply(routesPolicy("stable", 4))
	s.governing()
	s.run(job{id: "serve", kind: "service", gpus: 1, count: 3})
	result := s.submit(job{id: "serve", kind: "service", gpus: 1, count: 2})
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	s.running("serve", 2)
	s.holding("serve", 2)
	s.apply(routesPolicy("stable", 2))

	mark := func(address string) (int, string) {
		body := strings.NewReader(`{"JobID":"serve","JobVersion":0,"Stable":true}`)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, address+"/v1/job/serve/stable?namespace="+s.name, body)
		must.NoError(t, err)
		return s.send(r)
	}
	status, text := mark(s.GovernorAddr)
	must.Eq(t, http.StatusForbidden, status)
	s.says(text, `Version 0 of job "serve" asks for GPUs and cannot be marked as stable`)
	must.Eq(t, 1, s.version("serve"))
	// Around the gate Nomad says nothing of it: neither an event nor an evaluation. Once
	// there is one for any other reason the old version's third allocation starts.
	status, text = mark(s.NomadAddr)
	must.Eq(t, http.StatusOK, status, must.Sprint(text))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.NomadAddr+"/v1/job/serve/evaluate?namespace="+s.name, strings.NewReader(`{"JobID":"serve"}`))
	must.NoError(t, err)
	status, text = s.send(r)
	must.Eq(t, http.StatusOK, status, must.Sprint(text))
	must.Eq(t, 0, s.version("serve"), must.Sprint("the old version is the job's current one again"))
	s.audited("out_of_band.scaled", "serve")
	s.running("serve", 2)
	s.holding("serve", 2)
}
