package ledger_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// routesPolicy has room for so many GPUs at once.
func routesPolicy(name string, gpus int) string {
	return fmt.Sprintf(`
budget %q {
  match {
    namespaces = [%q]
  }
  limit "year" {
    gpu_hours = 100
  }
  concurrent {
    gpus = %d
  }
  per_job {
    default_runtime = "10m"
  }
}
`, name, name, gpus)
}

// holding waits until a job of the scene has a hold, and its budget holds so many
// GPUs.
func (s *scene) holding(jobID string, gpus int64) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("job %s holds budget, and %d GPUs are held", jobID, gpus), func() error {
		l := s.limit(s.name, budget.Concurrent, budget.GPUs(budget.AnyClass))
		if h := s.hold(jobID); h == nil || l.Held != quantity.GPU.Mul(gpus) {
			return fmt.Errorf("%d GPUs are held; the job: %+v", l.Held/quantity.GPU, h)
		}
		return nil
	})
}

func TestScaleAndRevertAreDecided(t *testing.T) {
	s := play(t, "resize", 3)
	s.apply(routesPolicy("resize", 3))
	s.run(job{id: "serve", gpus: 1, count: 2})
	scale := func(count string) cluster.Result { return s.nomad("job", "scale", "-detach", "serve", "g", count) }

	refused := scale("4")
	must.NotEq(t, 0, refused.ExitCode)
	s.says(refused.Output(), "403", `job "serve" in namespace "resize" was not scaled: it needs 2 GPUs more, and budget resize never allows more than 3 GPUs`)
	s.holding("serve", 2)

	up := scale("3")
	must.Eq(t, 0, up.ExitCode, must.Sprint(up.Output()))
	s.says(up.Output(), "from budget resize")
	s.running("serve", 3)
	s.holding("serve", 3)

	// A limit that was lowered keeps nobody from giving back.
	s.apply(routesPolicy("resize", 1))
	down := scale("2")
	must.Eq(t, 0, down.ExitCode, must.Sprint(down.Output()))
	s.running("serve", 2)
	s.holding("serve", 2)

	back := s.nomad("job", "revert", "-detach", "serve", "1") // three allocations
	must.NotEq(t, 0, back.ExitCode)
	s.says(back.Output(), "403", `job "serve" in namespace "resize" was not reverted`)
	s.apply(routesPolicy("resize", 3))
	back = s.nomad("job", "revert", "-detach", "serve", "1")
	must.Eq(t, 0, back.ExitCode, must.Sprint(back.Output()))
	s.running("serve", 3)
	s.holding("serve", 3)
	must.Eq(t, 0, s.nomad("job", "stop", "-detach", "serve").ExitCode)
	s.settled("serve")
	s.paid("serve")
}

// paid compares what the year was charged with what all allocations of these jobs took.
func (s *scene) paid(jobIDs ...string) {
	s.t.Helper()
	s.paidUntil(func(a *api.Allocation) int64 { return s.ended(a.ID).ModifyTime }, jobIDs...)
}

// endings follows Nomad's own events from now on, and tells when Nomad first heard that
// an allocation had ended, in ns. Its ModifyTime moves again where a deployment or a
// replacement changes it afterwards.
func (s *scene) endings() func(a *api.Allocation) int64 {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	_, now, err := s.api().Jobs().List(s.query())
	must.NoError(s.t, err)
	events, err := s.api().EventStream().Stream(ctx, map[api.Topic][]string{api.TopicAllocation: {"*"}}, now.LastIndex, s.query())
	must.NoError(s.t, err)
	var mu sync.Mutex
	first, done := map[string]int64{}, make(chan struct{})
	go func() {
		defer close(done)
		for batch := range events {
			for i := range batch.Events {
				a, err := batch.Events[i].Allocation()
				if err != nil || a == nil || !a.ClientTerminalStatus() {
					continue
				}
				mu.Lock()
				if _, known := first[a.ID]; !known {
					first[a.ID] = a.ModifyTime
				}
				mu.Unlock()
			}
		}
	}()
	s.t.Cleanup(func() { cancel(); <-done })
	return func(a *api.Allocation) (at int64) {
		s.eventually("the end of allocation "+a.ID+" is among Nomad's events", func() error {
			mu.Lock()
			defer mu.Unlock()
			if at = first[a.ID]; at == 0 {
				return errors.New("not yet")
			}
			return nil
		})
		return at
	}
}

// paidUntil is paid by other times of the ends, in ns. Nomad gives GPUs to the next
// allocation as soon as it tells the last one to stop: from then on they are the next
// one's.
func (s *scene) paidUntil(end func(a *api.Allocation) int64, jobIDs ...string) {
	s.t.Helper()
	had := map[string][][2]int64{} // by GPU: from and to, in ms
	for _, id := range jobIDs {
		for _, a := range s.allocations(id) {
			for _, gpu := range gpusOf(a) {
				had[gpu] = append(had[gpu], [2]int64{a.CreateTime / 1_000_000, end(a) / 1_000_000})
			}
		}
	}
	ms := int64(0)
	for _, times := range had {
		slices.SortFunc(times, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
		for i, t := range times {
			if i+1 < len(times) {
				t[1] = min(t[1], times[i+1][0])
			}
			ms += t[1] - t[0]
		}
	}
	must.Positive(s.t, ms)
	year := s.limit(s.name, budget.Year, budget.GPUTime(budget.AnyClass))
	must.Eq(s.t, 0, year.Held)
	must.Eq(s.t, quantity.Amount(ms), year.Posted)
}

// A revert to a version that was pinned is placed anew, and its source comes with it. It
// plays alone: where others have all GPUs, Nomad picks when some are free.
func TestARevertIsPlacedAndKeepsItsSource(t *testing.T) {
	s := alone(t, "rewind")
	s.apply(routesPolicy("rewind", 2))
	s.run(job{id: "train", gpus: 2})
	source := func() string {
		sub, _, err := s.api().Jobs().Submission("train", s.version("train"), s.query())
		must.NoError(t, err)
		return sub.Source
	}
	first := source()
	pins := func() string {
		j, _, err := s.api().Jobs().Info("train", s.query())
		must.NoError(t, err)
		var out []string
		for _, c := range j.TaskGroups[0].Tasks[0].Resources.Devices[0].Constraints {
			out = append(out, c.LTarget+" "+c.Operand)
		}
		return strings.Join(out, "; ")
	}
	must.Eq(t, "${device.ids} set_contains_any", pins())
	second := s.submit(job{id: "train", gpus: 1})
	must.Eq(t, 0, second.ExitCode, must.Sprint(second.Output()))
	s.running("train", 1)
	back := s.nomad("job", "revert", "-detach", "train", "0")
	must.Eq(t, 0, back.ExitCode, must.Sprint(back.Output()))
	must.Eq(t, "${device.ids} set_contains_any", pins(), must.Sprint("one pin, of today"))
	must.Eq(t, first, source())
	s.running("train", 1)
	s.holding("train", 2)
}

func (s *scene) version(jobID string) int {
	s.t.Helper()
	j, _, err := s.api().Jobs().Info(jobID, s.query())
	must.NoError(s.t, err)
	return int(*j.Version)
}

// launches are the children of a template that Nomad has, by id.
func (s *scene) launches(template string) []string {
	s.t.Helper()
	q := s.query()
	q.Prefix = template + "/"
	jobs, _, err := s.api().Jobs().List(q)
	must.NoError(s.t, err)
	var ids []string
	for _, j := range jobs {
		ids = append(ids, j.ID)
	}
	return ids
}

func TestDispatchesAndForcedLaunchesAreDecided(t *testing.T) {
	s := play(t, "launch", 2)
	s.apply(routesPolicy("launch", 2))
	must.Eq(t, 0, s.submit(job{id: "tune", gpus: 1, extra: "parameterized {\n    payload       = \"optional\"\n    meta_optional = [\"who\"]\n  }"}).ExitCode)
	must.Eq(t, 0, s.submit(job{id: "nightly", gpus: 1, extra: "periodic {\n    crons = [\"0 0 1 1 *\"]\n  }"}).ExitCode)
	must.Nil(t, s.hold("tune"))

	dispatched := s.nomad("job", "dispatch", "-detach", "-meta", "who=ada", "tune")
	must.Eq(t, 0, dispatched.ExitCode, must.Sprint(dispatched.Output()))
	must.Len(t, 1, s.launches("tune"))
	first := s.launches("tune")[0]
	s.holding(first, 1)
	s.running(first, 1)

	forced, err := s.Nomad(t.Context(), s.GovernorAddr, "job", "periodic", "force", "-namespace="+s.name, "-detach", "nightly")
	must.NoError(t, err)
	must.Eq(t, 0, forced.ExitCode, must.Sprint(forced.Output()))
	second := ""
	s.eventually("a launch was forced", func() error {
		if ids := s.launches("nightly"); len(ids) == 1 {
			second = ids[0]
			return nil
		}
		return errors.New("none was")
	})
	s.holding(second, 2)
	s.running(second, 1)

	// Both GPUs are taken: neither way starts a third.
	for _, result := range []cluster.Result{
		s.nomad("job", "dispatch", "-detach", "tune"),
		s.nomad("job", "dispatch", "-detach", "-idempotency-token", "again", "tune"),
	} {
		must.NotEq(t, 0, result.ExitCode)
		s.says(result.Output(), "403", `job "tune" in namespace "launch" was not dispatched`, "concurrency_limit")
	}
	forced, err = s.Nomad(t.Context(), s.GovernorAddr, "job", "periodic", "force", "-namespace="+s.name, "-detach", "nightly")
	must.NoError(t, err)
	must.NotEq(t, 0, forced.ExitCode)
	s.says(forced.Output(), `job "nightly" in namespace "launch" was not launched`)
	status, text := s.payload("tune", "anything")
	must.Eq(t, http.StatusForbidden, status, must.Sprint(text))
	must.Len(t, 1, s.launches("tune"))
	for _, h := range s.status().Holds {
		must.False(t, h.Namespace == s.name && strings.Contains(h.JobID, "pending"), must.Sprint(h.JobID))
	}

	// A payload that is no JSON starts one when there is room.
	must.Eq(t, 0, s.nomad("job", "stop", "-detach", first).ExitCode)
	s.settled(first)
	status, text = s.payload("tune", "\x00 no JSON")
	must.Eq(t, http.StatusOK, status, must.Sprint(text))
	must.Len(t, 2, s.launches("tune"))
	for _, id := range append(s.launches("tune"), second) {
		_ = s.nomad("job", "stop", "-detach", id)
		s.settled(id)
	}
	s.paid(append(s.launches("tune"), second)...)
}

// payload dispatches a job with a raw payload.
func (s *scene) payload(template, payload string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPut,
		s.GovernorAddr+"/v1/job/"+template+"/dispatch/payload?namespace="+s.name, bytes.NewReader([]byte(payload)))
	must.NoError(s.t, err)
	return s.send(r)
}

// send sends a request, and returns the status and the body of the answer.
func (s *scene) send(r *http.Request) (int, string) {
	s.t.Helper()
	response, err := http.DefaultClient.Do(r)
	must.NoError(s.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must.NoError(s.t, err)
	return response.StatusCode, string(text)
}

// The same dispatch sent again is the same child, and is paid once.
func TestADispatchWithATokenIsHeldOnce(t *testing.T) {
	s := play(t, "once", 1)
	s.apply(routesPolicy("once", 2))
	must.Eq(t, 0, s.submit(job{id: "tune", gpus: 1, extra: "parameterized {}"}).ExitCode)
	client, err := s.API(s.GovernorAddr)
	must.NoError(t, err)
	defer client.Close()
	var ids []string
	for range 3 {
		r, _, err := client.Jobs().DispatchOpts(&api.DispatchOptions{JobID: "tune"},
			&api.WriteOptions{Namespace: s.name, IdempotencyToken: "only one"})
		must.NoError(t, err)
		ids = append(ids, r.DispatchedJobID)
	}
	must.Eq(t, ids[0], ids[1])
	must.Eq(t, ids[0], ids[2])
	s.running(ids[0], 1)
	s.holding(ids[0], 1)
}
