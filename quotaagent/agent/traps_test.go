package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// Trap 4: a job id that is submitted again counts twice, or a submission is
// forgotten whose answer was lost or whose confirmation could not be written.
func TestTrap4AJobIDSubmittedAgainIsADelta(t *testing.T) {
	t.Parallel()
	t.Run("it holds the larger one, then what it is", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		for _, gpus := range []int{2, 5, 3} {
			before := r.heldGPUs("acme")
			v := r.admit(r.job("train", 1, gpus))
			must.False(t, v.Denied)
			must.Eq(t, max(before, int64(gpus)), r.heldGPUs("acme"))
			r.accept(r.job("train", 1, gpus), v, false)
			must.NoError(t, r.settle())
			must.Eq(t, int64(gpus), r.heldGPUs("acme"))
		}
		must.Len(t, 1, r.open())
	})
	t.Run("the confirmation cannot be written after Nomad has accepted", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		store := &mortal{Store: r.store, left: 2}
		r.start(store)
		v := r.admit(r.job("train", 1, 5))
		r.accept(r.job("train", 1, 5), v, false)
		must.True(t, store.dead)
		r.start(r.store)
		must.Eq(t, ledger.Held, r.holdOf("default", "train").State)
		alloc := r.nomad.start("default", "train", 0, 5)
		r.clock.advance(doubtAfter + time.Second)
		must.NoError(t, r.settle())
		must.Eq(t, ledger.Active, r.holdOf("default", "train").State)
		r.nomad.finish(alloc)
		must.NoError(t, r.settle())
		must.Eq(t, r.facts(), r.posted("acme"))
		must.SliceEmpty(t, r.open())
	})
	t.Run("the answer is lost and the author tries again", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		v := r.admit(r.job("train", 1, 5))
		r.nomad.register("default", "train", false)
		v.Settle(r.ctx, gate.Outcome{})
		r.run(r.job("train", 1, 5))
		must.Eq(t, 5, r.heldGPUs("acme"))
		must.Len(t, 1, r.open())
	})
	t.Run("the answer comes after the meter has found out, and another submission is on its way", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		first := r.admit(r.job("train", 1, 2))
		index := r.nomad.register("default", "train", false)
		r.clock.advance(doubtAfter + time.Second)
		must.NoError(t, r.settle())
		must.Eq(t, 0, r.holdOf("default", "train").InFlight)
		second := r.admit(r.job("train", 1, 5))
		first.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: index})
		must.Eq(t, 1, r.holdOf("default", "train").InFlight, must.Sprint("it is not the second one's answer"))
		must.Eq(t, 5, r.heldGPUs("acme"))
		r.accept(r.job("train", 1, 5), second, false)
		must.Eq(t, 0, r.holdOf("default", "train").InFlight)
		must.NoError(t, r.settle())
		must.Eq(t, 5, r.heldGPUs("acme"))
	})
	t.Run("another state of the job than the author saw", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		r.run(r.job("train", 1, 2))
		v := r.admit(r.job("train", 1, 6)) // nomad job run -check-index: Nomad refuses it
		v.Settle(r.ctx, gate.Outcome{Known: true})
		must.Eq(t, 2, r.heldGPUs("acme"))
		r.checkBooks()
	})
}

// Trap 14: what a job carries reaches logs and audit: secrets of its environment,
// templates and payload.
func TestTrap14NoPayloadOfAJobReachesLogsOrAudit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var logs bytes.Buffer
	heard := &heardAudit{}
	r.Agent = New(Options{Name: "test", Store: r.store, Nomad: r.nomad, Placer: r.placer, Now: r.clock.now, Auditor: heard,
		Logger: hclog.New(&hclog.LoggerOptions{Output: &logs, Level: hclog.Trace})})
	must.NoError(t, r.Keeper.Load(r.ctx))
	r.Meter.begin()
	const secret = "hunter2-very-secret"
	for i, gpus := range []int{2, 99} { // admitted, and denied
		s := r.job(fmt.Sprint("train-", i), 1, gpus)
		text := secret
		s.Ask.Meta["token"] = secret
		task := &api.Task{Name: "t", Driver: "docker", Env: map[string]string{"PASSWORD": secret}, Config: map[string]any{"auth": secret},
			Templates: []*api.Template{{EmbeddedTmpl: &text}}}
		s.Job = api.NewBatchJob(s.Ask.JobID, s.Ask.JobID, "global", 50).AddTaskGroup(api.NewTaskGroup("g", 1).AddTask(task))
		s.Job.Payload = []byte(secret)
		v := r.admit(s)
		must.Eq(t, i == 1, v.Denied)
		if !v.Denied {
			r.accept(s, v, false)
		}
		must.False(t, strings.Contains(v.Message+fmt.Sprint(v.Warnings), secret))
	}
	must.NoError(t, r.settle())
	must.Positive(t, logs.Len())
	must.False(t, strings.Contains(logs.String(), secret), must.Sprint(logs.String()))
	raw, err := json.Marshal(heard.events)
	must.NoError(t, err)
	must.False(t, strings.Contains(string(raw), secret))
}

// heardAudit keeps what it is told.
type heardAudit struct{ events []AuditEvent }

// Record implements Auditor.
func (h *heardAudit) Record(e AuditEvent) { h.events = append(h.events, e) }

// Trap 15: shadow mode only watches, and so is right for the first job and wrong
// under load. It holds what it would have held, so that the next verdict is what
// it would have been.
func TestTrap15ShadowModeHoldsWhatItWouldHaveHeld(t *testing.T) {
	t.Parallel()
	shadow, enforced := newRig(t), newRig(t)
	shadow.edit("governor {\n  enforcement = \"shadow\"" + strings.TrimPrefix(testPolicy(8, "30"), "\ngovernor {"))
	enforced.edit(testPolicy(8, "30"))
	must.Eq(t, "", shadow.Keeper.State().Broken)
	for i, gpus := range []int{5, 3, 2, 1} {
		id := fmt.Sprint("job-", i)
		would, is := shadow.run(shadow.job(id, 1, gpus)), enforced.run(enforced.job(id, 1, gpus))
		must.False(t, would.Denied, must.Sprint("shadow mode never blocks"))
		must.Eq(t, is.Reason, would.Reason, must.Sprint("and its verdict is the one that would have been"))
		must.Eq(t, is.Denied, strings.Contains(fmt.Sprint(would.Warnings), "would be refused"), must.Sprint(would.Warnings))
		if is.Denied {
			return // from here on the two have different work
		}
		must.Eq(t, enforced.balance("acme").Held, shadow.balance("acme").Held)
	}
	t.Fatal("the limit was never reached")
}

// Trap 17: what is reserved for a job that Nomad finds invalid stays reserved: the
// budget, and the GPUs that placement spares.
func TestTrap17NothingStaysReservedForAJobThatNomadFindsInvalid(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.admit(r.job("train", 1, 6))
	must.Eq(t, 1, r.placer.reserved)
	must.Eq(t, 6, r.heldGPUs("acme"))
	v.Settle(r.ctx, gate.Outcome{Known: true})
	must.Eq(t, 0, r.placer.reserved)
	must.Eq(t, 0, r.heldGPUs("acme"))
	must.SliceEmpty(t, r.open())
	// A validation or a plan reserves nothing in the first place.
	for _, kind := range []gate.Kind{gate.Plan, gate.Validate} {
		s := r.job("train", 1, 6)
		s.Kind = kind
		must.False(t, r.admit(s).Denied)
		must.Eq(t, 0, r.placer.reserved)
		must.SliceEmpty(t, r.open())
	}
}

// Trap 3: the number of GPUs is read wrongly from a job: a count that is left out,
// GPUs of sidecars, several groups, several devices, shares of a GPU, one class
// under several names. From the document that Nomad gets to the gauges that are
// held.
func TestTrap3EveryGPUOfAJobIsCounted(t *testing.T) {
	t.Parallel()
	task := func(name, device, count string) string {
		return `{"Name":"` + name + `","Resources":{"Devices":[{"Name":"` + device + `"` + count + `}]}}`
	}
	group := func(name, rest string, tasks ...string) string {
		return `{"Name":"` + name + `"` + rest + `,"Tasks":[` + strings.Join(tasks, ",") + `]}`
	}
	const whole = int64(quantity.GPU)
	v100, h100, mig := "nvidia/gpu/V100", "nvidia/gpu/H100", "nvidia/mig/1g.10gb"
	cases := map[string]struct {
		groups string
		want   map[string]int64
	}{
		"counts that are left out are one":     {group("g", "", task("t", v100, "")), map[string]int64{"v100": whole, "any": whole}},
		"count of the group and of the device": {group("g", `,"Count":3`, task("t", v100, `,"Count":2`)), map[string]int64{"v100": 6 * whole, "any": 6 * whole}},
		"sidecars": {group("g", "", task("t", v100, ""), `{"Name":"s","Lifecycle":{"Hook":"prestart","Sidecar":true},"Resources":{"Devices":[{"Name":"`+v100+`"}]}}`),
			map[string]int64{"v100": 2 * whole, "any": 2 * whole}},
		"many groups": {group("a", `,"Count":2`, task("t", v100, "")) + "," + group("b", "", task("t", h100, `,"Count":4`)),
			map[string]int64{"v100": 2 * whole, "h100": 4 * whole, "any": 6 * whole}},
		"shares of a GPU": {group("g", `,"Count":7`, task("t", mig, "")), map[string]int64{"h100-1g": 7 * whole, "h100": whole, "any": 7 * whole / 7}},
		"one class under two names": {group("a", "", task("t", h100, "")) + "," + group("b", "", task("t", "nvidia/gpu/NVIDIA H100 80GB HBM3", "")),
			map[string]int64{"h100": 2 * whole, "any": 2 * whole}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(testPolicy(100, "100000"), `gpu_class "v100"`, `
gpu_class "h100" { devices = ["nvidia/gpu/H100", "nvidia/gpu/NVIDIA H100 80GB HBM3"] }
gpu_class "h100-1g" {
  devices = ["nvidia/mig/1g.10gb"]
  share   = { h100 = 1 / 7 }
}
gpu_class "v100"`, 1)
			text = strings.Replace(text, "per_hour = 3.6 }", "per_hour = 3.6 }\n  gpu \"h100\" { per_hour = 9 }\n  gpu \"h100-1g\" { per_hour = 1.5 }", 1)
			r := newRigOn(t, openStore(t), text)
			must.Eq(t, "", r.Keeper.State().Broken)
			var job api.Job
			must.NoError(t, json.Unmarshal([]byte(`{"ID":"train","Namespace":"default","Type":"batch","TaskGroups":[`+tc.groups+`]}`), &job))
			job.Canonicalize()
			ask, err := jobspec.Extract(&job, jobspec.Defaults{})
			must.NoError(t, err)
			v := r.admit(gate.Submission{Kind: gate.Register, Ask: ask, Identity: gate.Identity{Accessor: "a", Names: []string{"token:default"}}})
			must.False(t, v.Denied, must.Sprint(v.Message))
			got := map[string]int64{}
			for _, c := range r.balance("acme").Held.Row(ledger.ConcurrentKey) {
				got[c.Dimension.Class()] = int64(c.Amount)
			}
			must.Eq(t, tc.want, got)
		})
	}
}
