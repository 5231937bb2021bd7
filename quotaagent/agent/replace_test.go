package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
)

// pinnedTo is what placement writes into the one group of a job.
func pinnedTo(ids string) jobspec.Patch {
	return jobspec.Patch{Groups: []jobspec.GroupPatch{{Group: "g", Constraints: []jobspec.Constraint{{LTarget: "${node.unique.id}", Operand: "is_set"}},
		Devices: []jobspec.DevicePatch{{Task: "t", Constraints: []jobspec.Constraint{{LTarget: "${device.ids}", Operand: "set_contains_any", RTarget: ids}}}}}}}
}

// pinnedRig is a rig with a pinned job that Nomad cannot place, and the leader's replacer.
func pinnedRig(t *testing.T) (*rig, *registry, *replacer) {
	r, n := newQueueRig(t)
	r.placer.record = `"n1"`
	s := r.whole("train", 2, time.Hour)
	v := r.admit(s)
	v.Patch = pinnedTo("GPU-a,GPU-b")
	r.send(s, v)
	r.placer.better = pinnedTo("GPU-c,GPU-d")
	return r, n, newReplacer(r.Engine, n, r.Engine.logger)
}

// looks lets the time pass in which Nomad may place a job by itself.
func (r *rig) looks(x *replacer) error {
	for range 2 {
		if err := r.looksOnce(x); err != nil {
			return err
		}
		r.clock.advance(replaceAfter)
	}
	return r.looksOnce(x)
}

func (r *rig) looksOnce(x *replacer) error {
	open, _, err := r.Engine.books.holds(r.ctx)
	must.NoError(r.t, err)
	x.note(open)
	return x.look(r.ctx, ledger.Fence{})
}

func (r *rig) spec(id string) string {
	r.nomad.mu.Lock()
	defer r.nomad.mu.Unlock()
	return string(r.nomad.jobs[jobKey("default", id)].spec)
}

func TestAJobThatWaitsForGPUsOfOthersIsPlacedAnew(t *testing.T) {
	t.Parallel()
	r, n, x := pinnedRig(t)
	before := r.holdOf("default", "train")
	must.NoError(t, r.looks(x))
	must.Eq(t, 1, n.registered)
	must.StrContains(t, r.spec("train"), "GPU-c,GPU-d")
	must.StrNotContains(t, r.spec("train"), "GPU-a")
	h := r.holdOf("default", "train")
	must.Eq(t, before.ID, h.ID)
	must.Greater(t, before.JobModifyIndex, h.JobModifyIndex)
	must.Nil(t, h.Pending)
	must.Eq(t, []string{"g"}, r.placer.replaced)
	must.True(t, strings.Contains(r.auditTexts(), `group g is placed anew`))
	must.NoError(t, r.looks(x))
	must.Eq(t, 2, n.registered, must.Sprint("it waits again, and is tried again"))
}

func TestWhatRunsOrHasRunIsNotPlacedAnew(t *testing.T) {
	t.Parallel()
	r, n, x := pinnedRig(t)
	id := r.nomad.start("default", "train", 0, 2)
	must.NoError(t, r.settle())
	must.NoError(t, r.looks(x))
	must.Eq(t, 0, n.registered)
	h := *r.holdOf("default", "train")
	must.SliceEmpty(t, waitingGroups(h))
	h.Tracks = nil
	must.Eq(t, []string{"g"}, waitingGroups(h))
	h.Slots = map[string]ledger.Slot{"train.g[0]": {Done: true}}
	must.SliceEmpty(t, waitingGroups(h), must.Sprint("Nomad would run it again"))
	h.Slots, h.Pending = nil, []ledger.Line{}
	must.SliceEmpty(t, waitingGroups(h), must.Sprint("somebody submits it"))
	r.nomad.finish(id)
	must.NoError(t, r.settle())
	must.NoError(t, r.looks(x))
	must.Eq(t, 0, n.registered)
}

func TestAJobThatWouldWaitElsewhereTooIsLeftAlone(t *testing.T) {
	t.Parallel()
	r, n, x := pinnedRig(t)
	r.placer.better = jobspec.Patch{}
	must.NoError(t, r.looks(x))
	must.Eq(t, 0, n.registered)
	r.placer.replaced = nil
	must.NoError(t, r.looksOnce(x))
	must.Nil(t, r.placer.replaced, must.Sprint("not asked all the time"))
	r.clock.advance(refusedMax)
	must.NoError(t, r.looksOnce(x))
	must.Eq(t, []string{"g"}, r.placer.replaced)
}

// Whatever keeps the new version out gives back what was held for it, and promised.
func TestANewVersionThatDoesNotArriveHoldsNothing(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]func(r *rig, n *registry){
		"the job has changed": func(r *rig, n *registry) {
			n.before = func(nomadctl.Registration) { r.nomad.recount("default", "train", "g", 1) }
		},
		"nomad refuses": func(_ *rig, n *registry) { n.refuse = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, n, x := pinnedRig(t)
			before := r.holdOf("default", "train")
			reserved := r.placer.reserved
			r.placer.record = `"n2"`
			fails(r, n)
			err := r.looks(x)
			must.Eq(t, n.refuse, err != nil)
			h := r.holdOf("default", "train")
			must.Nil(t, h.Pending)
			must.Eq(t, before.JobModifyIndex, h.JobModifyIndex)
			must.Eq(t, before.Charged, h.Charged)
			must.EqOp(t, `"n1"`, string(h.Placement))
			must.Eq(t, reserved, r.placer.reserved)
		})
	}
}

func TestALostAnswerToANewVersionIsFoundOut(t *testing.T) {
	t.Parallel()
	r, n, x := pinnedRig(t)
	n.lose, n.arrives = true, true
	must.ErrorIs(t, r.looks(x), nomadctl.ErrUnknown)
	must.NotNil(t, r.holdOf("default", "train").Pending)
	r.clock.advance(leaveFor)
	must.NoError(t, r.settle())
	h := r.holdOf("default", "train")
	must.Nil(t, h.Pending)
	must.Eq(t, *r.nomad.stored("default", "train").JobModifyIndex, h.JobModifyIndex)
}

// A new version is decided like any other: what was taken away meanwhile is not there.
func TestWithoutBudgetNothingIsPlacedAnew(t *testing.T) {
	t.Parallel()
	r, n, x := pinnedRig(t)
	r.edit(strings.Replace(strings.Replace(queuePolicy, "gpu_hours = 1000", "gpu_hours = 1", 1), `over_budget { admit = "queue" }`, "", 1))
	must.Eq(t, "", r.Keeper.State().Broken)
	reserved := r.placer.reserved
	must.NoError(t, r.looks(x))
	must.Eq(t, 0, n.registered, must.Sprint("its month has 1 hour left, and what the version before may have used counts beside the new one"))
	must.Eq(t, reserved, r.placer.reserved)
	must.Nil(t, r.holdOf("default", "train").Pending)
}

func TestNothingOfAGroupThatWaitsIsUpdated(t *testing.T) {
	t.Parallel()
	lines := []ledger.Line{{Group: "a", Count: 3, Canaries: 1, Overlap: 1, OverlapMS: 5}, {Group: "b", Count: 3, Canaries: 1, Overlap: 1, OverlapMS: 5}}
	must.Eq(t, []ledger.Line{{Group: "a", Count: 2}, lines[1]}, notRunning(lines, []string{"a"}))
	must.Eq(t, 1, lines[0].Canaries)
}

func (r *rig) auditTexts() string {
	records, _, err := r.store.List(r.ctx, auditRecordPrefix)
	must.NoError(r.t, err)
	var texts []string
	for _, one := range records {
		texts = append(texts, string(one.Value))
	}
	return strings.Join(texts, "\n")
}
