package agent

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
)

// newBypassRig has seen its first policy some time ago.
func newBypassRig(t testing.TB) *rig {
	r, _ := newQueueRig(t)
	r.enforced()
	return r
}

// direct registers a job at Nomad itself, with this many allocations that run.
func (r *rig) direct(id string, gpus, count int, edits ...func(*api.Job)) []string {
	job := r.whole(id, gpus, time.Hour).Job
	job.TaskGroups[0].Count, job.NomadTokenID = &count, new("accessor-bypass")
	job.ParentID = new("") // as Nomad's API says of a job of its own
	for _, edit := range edits {
		edit(job)
	}
	raw, err := json.Marshal(job)
	must.NoError(r.t, err)
	r.nomad.put("default", id, raw)
	r.Meter.Touch("default", id) // the event stream tells
	var allocs []string
	for slot := len(r.nomad.runningOf("default", id)); slot < count; slot++ {
		allocs = append(allocs, r.nomad.start("default", id, slot, gpus))
	}
	return allocs
}

// enforced lets enforcement act until it has nothing more to do.
func (r *rig) enforced() []string {
	var calls []string
	for range 4 {
		must.NoError(r.t, r.pass())
		r.Meter.duties.tick(r.ctx, ledger.Fence{}, func(err error) { must.NoError(r.t, err) })
		must.NoError(r.t, r.enforcer.enforce(r.ctx, ledger.Fence{}, sightOf(r)))
		calls = append(calls, r.actor.took()...)
		r.clock.advance(time.Second)
	}
	return calls
}

func (r *rig) auditedKinds() (kinds []string) {
	r.actor.mu.Lock()
	defer r.actor.mu.Unlock()
	for _, e := range r.actor.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func TestAJobAroundTheGateIsHeldAndPaid(t *testing.T) {
	t.Parallel()
	r := newBypassRig(t)
	alloc := r.direct("rogue", 4, 1)[0]
	must.SliceEmpty(t, r.enforced())
	h := r.holdOf("default", "rogue")
	must.NotNil(t, h)
	must.Eq(t, "accessor-bypass", h.Accessor)
	must.Eq(t, "acme/research", h.Budget)
	must.Eq(t, 4, r.heldGPUs("acme"))
	must.SliceEmpty(t, r.Meter.Strays())
	must.SliceContains(t, r.auditedKinds(), "out_of_band.governed")
	r.clock.advance(10 * time.Minute)
	r.nomad.finish(alloc)
	must.SliceEmpty(t, r.enforced())
	must.SliceEmpty(t, r.open())
	must.Eq(t, r.facts(), r.posted("acme"))
	r.checkBooks()

	// The same id again is another life.
	alloc = r.direct("rogue", 2, 1)[0]
	must.SliceEmpty(t, r.enforced())
	must.Eq(t, 2, r.heldGPUs("acme"))
	r.nomad.finish(alloc)
	must.SliceEmpty(t, r.enforced())
	must.Eq(t, r.facts(), r.posted("acme"))
	r.checkBooks()
}

func TestAJobAroundTheGateWithoutRoomIsStoppedAndPaid(t *testing.T) {
	t.Parallel()
	r := newBypassRig(t)
	r.busy("first", 6, time.Hour)
	r.direct("rogue", 4, 1)
	r.clock.advance(time.Second) // until a tick
	must.SliceContains(t, r.enforced(), "stop default/rogue (concurrency_limit)")
	must.SliceContains(t, r.auditedKinds(), "out_of_band.refused")
	must.Nil(t, r.holdOf("default", "rogue"))
	must.Positive(t, r.posted("acme"))
	must.Eq(t, 6, r.heldGPUs("acme"))
	r.checkBooks()
}

// A task that registers a job leaves no name at Nomad.
func TestAJobOfATaskIsNobodysButATasks(t *testing.T) {
	t.Parallel()
	for acls, want := range map[bool]string{true: "workload", false: "acl:disabled"} {
		r, n := newQueueRig(t)
		n.acls = acls
		r.enforced()
		r.direct("child", 1, 1, func(job *api.Job) { job.NomadTokenID = nil })
		must.SliceEmpty(t, r.enforced())
		must.Eq(t, []string{want}, r.holdOf("default", "child").Identity)
	}
}

func TestAJobThatNoBudgetClaimsIsStopped(t *testing.T) {
	t.Parallel()
	nobody := strings.Replace(queuePolicy, `match { namespaces = ["default"] }`, `match { namespaces = ["other"] }`, 1)
	governor := func(line string) string {
		return strings.Replace(nobody, `timezone = "UTC"`, "timezone = \"UTC\"\n"+line, 1)
	}
	r := newBypassRig(t)
	r.edit(nobody)
	r.direct("rogue", 1, 1)
	calls := r.enforced()
	must.Len(t, 1, calls)
	must.StrContains(t, calls[0], `stop default/rogue (governor: no budget claims GPU jobs of namespace "default"`)
	must.SliceContains(t, r.auditedKinds(), "out_of_band.refused")

	for name, policy := range map[string]string{"report": governor(`out_of_band = "report"`), "shadow": governor(`enforcement = "shadow"`),
		"allow": governor(`unmatched = "allow"`)} {
		r := newBypassRig(t)
		r.edit(policy)
		must.Eq(t, "", r.Keeper.State().Broken)
		r.direct("rogue", 1, 1)
		must.SliceEmpty(t, r.enforced(), must.Sprint(name))
		must.Len(t, 1, r.Meter.Strays())
		if name != "report" {
			// A later policy does not stop what an earlier one let be, also not under the
			// next leader.
			r.edit(strings.Replace(queuePolicy, "gpus = { any = 8 }", "gpus = { any = \"none\" }", 1))
			must.Eq(t, "", r.Keeper.State().Broken)
			r.start(r.store)
			must.SliceEmpty(t, r.enforced(), must.Sprint(name))
			r.direct("rogue", 2, 1) // but one that is registered anew is
			must.SliceNotEmpty(t, r.enforced(), must.Sprint(name))
		}
	}
}

func TestWhatIsLetBeIsForgottenWithItsJob(t *testing.T) {
	t.Parallel()
	r := newBypassRig(t)
	r.edit(strings.Replace(strings.Replace(queuePolicy, `match { namespaces = ["default"] }`, `match { namespaces = ["other"] }`, 1),
		`timezone = "UTC"`, "timezone = \"UTC\"\nunmatched = \"allow\"", 1))
	must.Eq(t, "", r.Keeper.State().Broken)
	alloc := r.direct("free", 1, 1)[0]
	must.SliceEmpty(t, r.enforced())
	records := func() int {
		all, _, err := r.store.List(r.ctx, outsidePrefix)
		must.NoError(t, err)
		return len(all)
	}
	must.Eq(t, 2, records(), must.Sprint("the job, and since when"))
	r.clock.advance(cleanEvery)
	must.SliceEmpty(t, r.enforced())
	must.Eq(t, 2, records())
	r.nomad.finish(alloc)
	r.nomad.purge("default", "free")
	r.clock.advance(cleanEvery)
	must.SliceEmpty(t, r.enforced())
	must.Eq(t, 1, records())
}

// What cannot be done now is done later, and stands in the log once.
func TestAStopThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	r := newBypassRig(t)
	r.edit(strings.Replace(queuePolicy, `match { namespaces = ["default"] }`, `match { namespaces = ["other"] }`, 1))
	r.direct("rogue", 1, 1)
	r.actor.answer(nomadctl.ErrUnknown, false)
	tick := func() (failed error) {
		must.NoError(t, r.pass())
		r.Meter.duties.tick(r.ctx, ledger.Fence{}, func(err error) { failed = err })
		return failed
	}
	must.ErrorIs(t, tick(), nomadctl.ErrUnknown)
	r.clock.advance(reconcileEvery)
	must.ErrorIs(t, tick(), nomadctl.ErrUnknown)
	r.actor.answer(nil, false)
	r.clock.advance(reconcileEvery)
	must.NoError(t, tick())
	must.Len(t, 3, r.actor.took())
	refused := 0
	for _, kind := range r.auditedKinds() {
		if kind == "out_of_band.refused" {
			refused++
		}
	}
	must.Eq(t, 1, refused)
}

// Nomad brings a version back with its old index when it is marked as stable.
func TestAnOldVersionThatComesBackUnseenIsScaledBack(t *testing.T) {
	t.Parallel()
	r := newBypassRig(t)
	job := r.whole("serve", 1, time.Hour).Job
	job.TaskGroups[0].Count = new(6)
	r.submit(r.submission(job))
	old := *r.nomad.jobs[jobKey("default", "serve")]
	job = r.whole("serve", 1, time.Hour).Job
	job.TaskGroups[0].Count = new(2)
	r.submit(r.submission(job))
	for slot := range 2 {
		r.nomad.start("default", "serve", slot, 1)
	}
	must.SliceEmpty(t, r.enforced())
	r.busy("other", 5, time.Hour)
	r.nomad.mu.Lock()
	r.nomad.jobs[jobKey("default", "serve")] = &old
	r.nomad.mu.Unlock()
	r.Meter.Touch("default", "serve")
	must.SliceContains(t, r.enforced(), "scale default/serve g to 2")
	must.SliceEmpty(t, r.enforced())
}

func TestWhatRanBeforeTheFirstPolicyIsLetBe(t *testing.T) {
	t.Parallel()
	r, _ := newQueueRig(t)
	r.edit("")
	r.direct("older", 8, 1)
	r.edit(queuePolicy)
	must.SliceEmpty(t, r.enforced())
	r.start(r.store) // the next leader
	must.SliceEmpty(t, r.enforced())
	must.Nil(t, r.holdOf("default", "older"))
	must.Len(t, 1, r.Meter.Strays())
}

func TestAJobThatGrowsAroundTheGateIsHeldOrScaledBack(t *testing.T) {
	t.Parallel()
	r := newBypassRig(t)
	job := r.whole("serve", 1, time.Hour).Job
	job.TaskGroups[0].Count = new(3)
	r.submit(r.submission(job))
	r.direct("serve", 1, 3) // the same job; its allocations start
	must.SliceEmpty(t, r.enforced())
	must.Eq(t, 3, r.heldGPUs("acme"))

	r.direct("serve", 1, 6)
	must.SliceEmpty(t, r.enforced())
	must.Eq(t, 6, r.heldGPUs("acme"))
	h := r.holdOf("default", "serve")
	must.Eq(t, "accessor-default", h.Accessor, must.Sprint("it stays its submitter's"))
	must.SliceContains(t, r.auditedKinds(), "out_of_band.governed")

	r.direct("serve", 1, 9)
	must.Eq(t, []string{"scale default/serve g to 6"}, r.enforced())
	must.SliceContains(t, r.auditedKinds(), "out_of_band.scaled")
	r.direct("serve", 1, 2)
	for _, id := range r.nomad.runningOf("default", "serve")[2:] {
		r.nomad.finish(id)
	}
	must.SliceEmpty(t, r.enforced())
	must.Eq(t, 2, r.heldGPUs("acme"))
	r.checkBooks()
}

// A deployment's auto_revert brings back a version that needs more GPUs for each
// allocation: there is no count to go back to.
func TestAVersionThatComesBackAroundTheGateIsStoppedWithoutRoom(t *testing.T) {
	t.Parallel()
	r := newBypassRig(t)
	r.submit(r.whole("train", 2, time.Hour))
	r.begin("train", 2)
	r.busy("other", 4, time.Hour)
	r.direct("train", 6, 1)
	must.Eq(t, []string{"stop default/train (concurrency_limit)"}, r.enforced())
	must.SliceContains(t, r.auditedKinds(), "out_of_band.refused")
	must.Nil(t, r.holdOf("default", "train"))
	r.checkBooks()
}

func TestNothingIsLookedAtTwice(t *testing.T) {
	t.Parallel()
	r := newBypassRig(t)
	job := r.whole("serve", 1, time.Hour).Job
	r.submit(r.submission(job))
	r.direct("serve", 1, 1)
	r.enforced()
	before := len(r.auditedKinds())
	for range 3 {
		r.enforced()
	}
	must.Len(t, before, r.auditedKinds())
}
