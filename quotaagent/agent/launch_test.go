package agent

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

const nightlyChild = "nightly/periodic-1773144000"

// nightly is a periodic job of one group, submitted and accepted.
func nightly(r *rig, gpus int) {
	s := r.whole("nightly", gpus, time.Hour)
	s.Job.Periodic = &api.PeriodicConfig{Spec: new("0 12 * * *")}
	s = r.submission(s.Job)
	v := r.submit(s)
	must.False(r.t, v.Denied, must.Sprint(v.Message))
	must.Nil(r.t, r.holdOf("default", "nightly"))
}

// launched is a child that Nomad made of a job, and its one allocation.
func launched(r *rig, id, parent string, gpus int) string {
	s := r.whole(id, gpus, time.Hour)
	s.Job.ParentID = &parent
	raw, err := json.Marshal(s.Job)
	must.NoError(r.t, err)
	r.nomad.put("default", id, raw)
	return r.nomad.start("default", id, 0, gpus)
}

func TestALaunchIsHeldAndPaidForItsSubmitter(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.edit(strings.Replace(queuePolicy, `match { namespaces = ["default"] }`, "match {\n namespaces = [\"default\"]\n identities = [\"token:default\"]\n}", 1))
	nightly(r, 4)
	alloc := launched(r, nightlyChild, "nightly", 4)
	must.NoError(t, r.pass())
	must.NoError(t, r.pass())
	h := r.holdOf("default", nightlyChild)
	must.NotNil(t, h)
	must.Eq(t, "acme/research", h.Budget)
	must.Eq(t, "accessor-default", h.Accessor)
	must.Eq(t, ledger.Active, h.State)
	must.Eq(t, 4, r.heldGPUs("acme"))
	must.SliceEmpty(t, r.Meter.Strays())
	r.clock.advance(10 * time.Minute)
	r.nomad.finish(alloc)
	must.NoError(t, r.pass())
	must.Nil(t, r.holdOf("default", nightlyChild))
	must.Eq(t, r.facts(), r.posted("acme"))
	r.checkBooks()
	must.NoError(t, r.pass())
	must.SliceEmpty(t, r.open()) // it is not taken for a new one
}

func TestALaunchWithoutRoomIsStoppedAndPaid(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	nightly(r, 4)
	r.busy("first", 6, time.Hour)
	launched(r, nightlyChild, "nightly", 4)
	must.NoError(t, r.pass())
	must.NoError(t, r.pass())
	h := r.holdOf("default", nightlyChild)
	must.NotNil(t, h)
	must.Eq(t, "concurrency_limit", h.Refused)
	must.NotEq(t, "", h.RefusedWhy)
	r.clock.advance(3 * time.Second)
	for range 3 {
		must.NoError(t, r.pass())
		must.NoError(t, r.enforcer.enforce(r.ctx, ledger.Fence{}, sightOf(r)))
	}
	must.SliceContains(t, r.actor.took(), "stop default/"+nightlyChild+" (concurrency_limit)")
	must.NoError(t, r.pass())
	must.Nil(t, r.holdOf("default", nightlyChild))
	must.Eq(t, 4*3000, r.posted("acme")) // the first job is not posted yet
	r.checkBooks()
}

func TestWhatWasLaunchedBetweenTwoLeadersIsPaidOnce(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	nightly(r, 2)
	first := launched(r, "nightly/periodic-1", "nightly", 2)
	must.NoError(t, r.pass())
	r.clock.advance(time.Minute)
	r.nomad.finish(first)
	must.NoError(t, r.pass())
	r.clock.advance(time.Hour)
	second := launched(r, "nightly/periodic-2", "nightly", 2) // nobody leads
	r.clock.advance(time.Minute)
	r.nomad.finish(second)
	for range 3 {
		r.start(r.store) // the next leader, and the one after it
		must.NoError(t, r.pass())
		must.NoError(t, r.pass())
		r.clock.advance(time.Minute)
	}
	must.SliceEmpty(t, r.open())
	must.Eq(t, r.facts(), r.posted("acme"))
	r.checkBooks()
}

func TestAJobThatIsNamedLikeALaunchIsNone(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	s := r.whole("nightly/periodic-7", 1, time.Hour)
	raw, err := json.Marshal(s.Job)
	must.NoError(t, err)
	r.nomad.put("default", "nightly/periodic-7", raw)
	r.nomad.start("default", "nightly/periodic-7", 0, 1)
	must.NoError(t, r.pass())
	must.NoError(t, r.pass())
	must.Nil(t, r.holdOf("default", "nightly/periodic-7"))
	must.Len(t, 1, r.Meter.Strays())
}

func TestTheSubmitterOfATemplateIsForgottenWithIt(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	nightly(r, 2)
	known := func() string {
		one, err := r.Engine.template(r.ctx, "default", "nightly")
		must.NoError(t, err)
		return one.Accessor
	}
	r.clock.advance(2 * time.Hour)
	must.NoError(t, r.pass())
	must.Eq(t, "accessor-default", known())
	r.nomad.purge("default", "nightly")
	r.clock.advance(cleanEvery)
	must.NoError(t, r.pass())
	must.Eq(t, "", known())
}

func TestASubmissionOfALaunchIsItsSubmitters(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	h := ledger.Hold{ID: "h-1", Namespace: "default", JobID: nightlyChild, Budget: "acme/research", State: ledger.Active, Refused: "concurrency_limit"}
	s := r.whole(nightlyChild, 1, time.Hour)
	p := r.Keeper.State().Policy
	lines := []ledger.Line{}
	_, next, err := r.Engine.decide(p, p.Find("acme/research"), s, lines, false, view{hold: heldAt{Hold: &h}})
	must.NoError(t, err)
	must.Eq(t, "", next.Refused)
	must.Eq(t, gate.Register, s.Kind)
	must.False(t, jobspec.Gated(s.Job))
}

// sightOf is what a tick would hand to enforcement.
func sightOf(r *rig) sight {
	s := sight{proven: r.clock.now()}
	for _, h := range r.open() {
		s.holds = append(s.holds, *h.Hold)
	}
	return s
}
