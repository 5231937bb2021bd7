package gate

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// trainPlan is a plan of a GPU job.
const trainPlan = `{"Job":` + gpuJob + `,"Diff":true}`

// asked counts what the fake Nomad was asked for with a method at a path.
func (f *fakeNomad) asked(method, path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.seen {
		if s.method == method && s.path == path {
			n++
		}
	}
	return n
}

// plan sends a plan and returns the index of the stored job that it was decided about.
func (r *rig) plan(t *testing.T) (index uint64) {
	t.Helper()
	a := r.do(t, "PUT", "/v1/job/train/plan", trainPlan)
	must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
	r.admitter.mu.Lock()
	defer r.admitter.mu.Unlock()
	return jobModifyIndex(r.admitter.asked[len(r.admitter.asked)-1].Stored)
}

func TestGate_aPlanAfterAnotherAsksNomadForThePlanOnly(t *testing.T) {
	t.Parallel()
	for name, stored := range map[string]bool{"of a new job": false, "of a job that Nomad has": true} {
		r := newRig(t)
		if stored {
			r.nomad.put(t, "default", gpuJob)
		}
		for range 5 {
			r.plan(t)
		}
		must.EqOp(t, 5, r.nomad.asked("PUT", "/v1/job/train/plan"), must.Sprint(name))
		must.EqOp(t, 1, r.nomad.asked("GET", "/v1/job/train"), must.Sprint(name))
		must.EqOp(t, 1, r.nomad.asked("GET", "/v1/acl/token/self"), must.Sprint(name))
	}
}

// Whatever is remembered of a job, a plan is decided about as Nomad plans it.
func TestGate_aPlanIsOfTheJobThatNomadHas(t *testing.T) {
	t.Parallel()
	registration := `{"Job":` + gpuJob + `}`
	for name, change := range map[string]func(t *testing.T, r *rig){
		"registered through the gate":               func(t *testing.T, r *rig) { r.do(t, "PUT", "/v1/jobs", registration) },
		"registered around the gate":                func(t *testing.T, r *rig) { r.nomad.put(t, "default", gpuJob) },
		"registered with the gate of another agent": func(t *testing.T, r *rig) { otherGate(t, r, registration) },
		"purged": func(_ *testing.T, r *rig) {
			r.nomad.mu.Lock()
			defer r.nomad.mu.Unlock()
			clear(r.nomad.jobs)
		},
	} {
		for before := range 2 { // without and with a job to begin with
			r := newRig(t)
			if before == 1 {
				r.nomad.put(t, "default", gpuJob)
			}
			r.plan(t)
			change(t, r)
			r.nomad.mu.Lock()
			want := uint64(0)
			if versions := r.nomad.jobs["default\x00train"]; len(versions) > 0 {
				want = jobModifyIndex(versions[0])
			}
			r.nomad.mu.Unlock()
			must.EqOp(t, want, r.plan(t), must.Sprint(name, before))
			must.EqOp(t, want, r.plan(t), must.Sprint(name, before))
		}
	}
}

func otherGate(t *testing.T, r *rig, body string) {
	t.Helper()
	other := &rig{nomad: r.nomad, admitter: &fakeAdmitter{}}
	g := other.newGate(t)
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/v1/jobs", strings.NewReader(body)))
	must.EqOp(t, http.StatusOK, w.Code, must.Sprint(w.Body))
}

// What Nomad refuses may come of a placement beside a job that is another by now.
func TestGate_aPlanThatNomadRefusesIsDecidedAboutAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plan(t)
	r.nomad.special = func(w http.ResponseWriter, q *http.Request) bool {
		if _, suffix := nomadHandler(q.URL.Path); isWrite(q.Method) && suffix != "" {
			http.Error(w, "no", http.StatusBadRequest)
			return true
		}
		return false
	}
	a := r.do(t, "PUT", "/v1/job/train/plan", trainPlan)
	must.EqOp(t, http.StatusBadRequest, a.status)
	must.EqOp(t, "no\n", a.body)
	must.EqOp(t, 2, r.nomad.asked("GET", "/v1/job/train"))
}

func TestKnownJobs_forgets(t *testing.T) {
	t.Parallel()
	now := time.Now()
	k := newKnownJobs(func() time.Time { return now })
	there, gone := jobKey{namespace: "default", id: "there"}, jobKey{namespace: "default", id: "gone"}
	k.keep(there, &api.Job{}, 100, now)
	k.keep(gone, nil, 0, now)
	for _, c := range []struct {
		after       time.Duration
		there, gone bool
	}{{0, true, true}, {knownFor - 1, true, true}, {1, false, true}, {absentFor - knownFor - 1, false, true}, {1, false, false}} {
		now = now.Add(c.after)
		_, known := k.recall(there)
		must.EqOp(t, c.there, known, must.Sprint(c))
		_, known = k.recall(gone)
		must.EqOp(t, c.gone, known, must.Sprint(c))
	}
	k.keep(gone, nil, 0, now)
	k.forget(gone)
	_, known := k.recall(gone)
	must.False(t, known)
}

// The memory has a bound in jobs and in bytes, and counts right whatever happens.
func TestKnownJobs_isBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	k := newKnownJobs(func() time.Time { return now })
	for i := range 3 * knownMost {
		key := jobKey{namespace: "default", id: fmt.Sprint(i % (2 * knownMost))}
		var job *api.Job
		if i%2 == 0 {
			job = &api.Job{}
		}
		k.keep(key, job, (i%2)*i%5000, now)
		if i%7 == 0 {
			k.forget(key)
		}
		now = now.Add(time.Millisecond)
		must.LessEq(t, knownMost, len(k.jobs))
		must.LessEq(t, knownBytes, k.bytes)
	}
	sum := 0
	for _, one := range k.jobs {
		sum += one.size
	}
	must.EqOp(t, sum, k.bytes)
	k.keep(jobKey{namespace: "default", id: "large"}, &api.Job{}, knownBytes+1, now)
	_, known := k.recall(jobKey{namespace: "default", id: "large"})
	must.False(t, known, must.Sprint("one that is larger than all may be is not kept"))
	must.LessEq(t, knownBytes, k.bytes)
}

// Who may not read a job is told so, whoever else has read it a moment ago.
func TestGate_whatOneTokenHasReadIsNotKnownToAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.acl = true
	r.nomad.tokens["s"] = api.ACLToken{AccessorID: "a", Type: "management"}
	ask := func(token string) int {
		return r.do(t, "PUT", "/v1/job/train/plan", trainPlan, "X-Nomad-Token", token).status
	}
	must.EqOp(t, http.StatusOK, ask("s"))
	must.EqOp(t, http.StatusOK, ask("s"))
	must.EqOp(t, 1, r.nomad.asked("GET", "/v1/job/train"))
	must.EqOp(t, http.StatusForbidden, ask("unknown"))
	must.EqOp(t, 2, r.nomad.asked("GET", "/v1/job/train"))
}

// An account has no answer of Nomad to be compared with, and shows no job to who may not
// read it any more.
func TestGate_anAccountRemembersNoStoredJob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plan(t)
	g := r.gate.Config.Handler.(*Gate)
	for i := range 2 {
		_, err := g.Explain(httptest.NewRequest(http.MethodPost, "/", nil), []byte(trainPlan))
		must.NoError(t, err)
		must.EqOp(t, i+2, r.nomad.asked("GET", "/v1/job/train"))
		must.True(t, r.admitter.asked[i+1].Fresh)
	}
}
