package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
	"github.com/shoenig/test/must"
)

// job is the job as the API shows it.
func (j *fakeJob) job() *api.Job {
	job := &api.Job{}
	if err := json.Unmarshal(j.spec, job); err != nil {
		panic(err)
	}
	status := "pending"
	if j.dead {
		status = statusDead
	}
	if job.Status == nil || j.dead {
		job.Status = &status
	}
	return job
}

// registry is the part of a fakeNomad that takes registrations of the agent
// itself.
type registry struct {
	*fakeNomad
	// acls says that Nomad checks tokens.
	acls bool
	// before runs when a registration arrives.
	before func(r nomadctl.Registration)
	// refuse and lose make registrations fail; lost ones have arrived if arrives.
	refuse, lose, arrives bool
	// garbled is a job that cannot be read.
	garbled    string
	registered int
}

// JobSpec implements registrar.
func (n *registry) JobSpec(_ context.Context, namespace, jobID string) (nomadctl.Spec, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down != nil {
		return nomadctl.Spec{}, fmt.Errorf("%w: %w", nomadctl.ErrUnknown, n.down)
	}
	j := n.jobs[jobKey(namespace, jobID)]
	if j == nil {
		return nomadctl.Spec{}, nomadctl.ErrNotFound
	}
	job := j.job()
	raw, err := json.Marshal(job)
	if jobID == n.garbled {
		raw = []byte(`{"ID": 5}`)
	}
	return nomadctl.Spec{Job: raw, Index: j.modifyIndex, Stopped: job.Stop != nil && *job.Stop}, err
}

// ACLs implements registrar.
func (n *registry) ACLs(context.Context) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.acls, n.down
}

// JobsIndex implements registrar.
func (n *registry) JobsIndex(context.Context) (uint64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.index, n.down
}

// Register implements registrar.
func (n *registry) Register(_ context.Context, r nomadctl.Registration) (uint64, error) {
	if n.before != nil {
		n.before(r)
	}
	switch {
	case n.refuse:
		return 0, fmt.Errorf("%w: no permission", nomadctl.ErrRefused)
	case n.lose && !n.arrives:
		return 0, nomadctl.ErrUnknown
	}
	n.mu.Lock()
	j := n.jobs[jobKey(r.Namespace, r.JobID)]
	fits := j != nil && j.modifyIndex == r.Index
	n.mu.Unlock()
	if !fits {
		return 0, nomadctl.ErrConflict
	}
	n.registered++
	index := n.put(r.Namespace, r.JobID, r.Job)
	if n.lose {
		return 0, nomadctl.ErrUnknown
	}
	return index, nil
}

// put stores a whole job; one that is the same already stays as it is.
func (n *fakeNomad) put(namespace, id string, spec json.RawMessage) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := jobKey(namespace, id)
	if j := n.jobs[key]; j != nil && !j.dead && string(j.spec) == string(spec) {
		return j.modifyIndex
	}
	n.index++
	j := &fakeJob{modifyIndex: n.index, statusIndex: n.index, spec: spec}
	n.jobs[key] = j
	if stop := j.job().Stop; stop != nil && *stop {
		j.dead, j.stopped = true, true
	}
	n.emit(event{namespace: namespace, jobID: id, index: n.index})
	return n.index
}

// recount sets the count of a group.
func (n *fakeNomad) recount(namespace, id, group string, count int) uint64 {
	stored := n.stored(namespace, id)
	if len(stored.TaskGroups) == 0 {
		return n.register(namespace, id, false) // a job without a specification
	}
	groupOf(stored, group).Count = &count
	stored.JobModifyIndex, stored.ModifyIndex = nil, nil
	raw, _ := json.Marshal(stored)
	return n.put(namespace, id, raw)
}

// stop is `nomad job stop`, purge with -purge.
func (n *fakeNomad) stop(namespace, id string, purge bool) {
	n.mu.Lock()
	j := n.jobs[jobKey(namespace, id)]
	if purge {
		delete(n.jobs, jobKey(namespace, id))
		n.mu.Unlock()
		return
	}
	job, yes := j.job(), true
	n.mu.Unlock()
	job.Stop = &yes
	raw, _ := json.Marshal(job)
	n.put(namespace, id, raw)
}

const queuePolicy = pricedV100 + `
budget "acme" {
  owner = "finops@acme.example"
  concurrent {
    gpus = { any = 8 }
  }
  limit "month" {
    gpu_hours = 1000
    cost      = 100000
  }
  over_budget { admit = "queue" }
  queue { timeout = "48h" }
  budget "research" {
    match { namespaces = ["default"] }
    per_job { default_runtime = "1h" }
    lease = "2h"
  }
  budget "side" {
    match { namespaces = ["side"] }
    per_job { default_runtime = "1h" }
  }
}
`

// newQueueRig is a rig whose budget lets jobs wait: 8 GPUs at once.
func newQueueRig(t testing.TB) (*rig, *registry) {
	r := newRig(t)
	n := &registry{fakeNomad: r.nomad}
	r.registrar = n
	r.start(r.store)
	r.edit(queuePolicy)
	must.Eq(t, "", r.Keeper.State().Broken)
	return r, n
}

// whole is a submission of a whole batch job with one group.
func (r *rig) whole(id string, gpus int, runtime time.Duration, meta ...string) gate.Submission {
	return r.wholeIn("default", id, gpus, runtime, meta...)
}

func (r *rig) wholeIn(namespace, id string, gpus int, runtime time.Duration, meta ...string) gate.Submission {
	job := api.NewBatchJob(id, id, "global", 50)
	job.Namespace = &namespace
	job.Meta = map[string]string{"governor_max_runtime": runtime.String()}
	for i := 0; i+1 < len(meta); i += 2 {
		job.Meta[meta[i]] = meta[i+1]
	}
	task := api.NewTask("t", "raw_exec").Require(&api.Resources{Devices: []*api.RequestedDevice{{Name: "nvidia/gpu", Count: new(uint64(gpus))}}})
	return r.submission(job.AddTaskGroup(api.NewTaskGroup("g", 1).AddTask(task)))
}

func (r *rig) submission(job *api.Job) gate.Submission {
	ask, err := jobspec.Extract(job, jobspec.Defaults{})
	must.NoError(r.t, err)
	return gate.Submission{Kind: gate.Register, Ask: ask, Job: job, Stored: r.nomad.stored(*job.Namespace, *job.ID),
		Identity: gate.Identity{Accessor: "accessor-" + *job.Namespace, Names: []string{"token:" + *job.Namespace}}}
}

// send registers what was admitted, as the gate does, and settles it.
func (r *rig) send(s gate.Submission, v gate.Verdict) uint64 {
	index := r.arrive(s, v)
	if v.Settle != nil {
		v.Settle(r.ctx, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: index})
	}
	return index
}

// arrive registers what was admitted; the answer does not come back.
func (r *rig) arrive(s gate.Submission, v gate.Verdict) uint64 {
	must.False(r.t, v.Denied, must.Sprint(v.Message))
	raw, err := json.Marshal(s.Job)
	must.NoError(r.t, err)
	stored, err := jobspec.ParseStored(raw)
	must.NoError(r.t, err)
	raw, err = stored.With(v.Patch)
	must.NoError(r.t, err)
	return r.nomad.put(s.Ask.Namespace, s.Ask.JobID, raw)
}

// submit admits and registers.
func (r *rig) submit(s gate.Submission) gate.Verdict {
	v := r.admit(s)
	if !v.Denied {
		r.send(s, v)
	}
	return v
}

// pass lets the leader do all that is due now.
func (r *rig) pass() error {
	r.releaser.plans = pace{}
	return errors.Join(r.settle(), r.releaser.tick(r.ctx, ledger.Fence{}))
}

// busy admits a job and starts it; it returns the allocation.
func (r *rig) busy(id string, gpus int, runtime time.Duration) string {
	v := r.submit(r.whole(id, gpus, runtime))
	must.False(r.t, v.Denied, must.Sprint(v.Message))
	must.False(r.t, r.gated(id), must.Sprint(v.Warnings))
	return r.begin(id, gpus)
}

// begin starts what Nomad would start.
func (r *rig) begin(id string, gpus int) string {
	alloc := r.nomad.start("default", id, 0, gpus)
	must.NoError(r.t, r.settle())
	return alloc
}

func (r *rig) gated(id string) bool { return jobspec.Gated(r.nomad.stored("default", id)) }

// line lists the jobs that wait, as "namespace/id since".
func (r *rig) line() []string {
	jobs, err := r.Engine.allQueued(r.ctx)
	must.NoError(r.t, err)
	slices.SortFunc(jobs, func(a, b ledger.Queued) int { return strings.Compare(a.JobID, b.JobID) })
	var out []string
	for _, q := range jobs {
		out = append(out, q.JobID)
	}
	return out
}

func (r *rig) queuedJob(id string) *ledger.Queued {
	jobs, err := r.Engine.allQueued(r.ctx)
	must.NoError(r.t, err)
	i := slices.IndexFunc(jobs, func(q ledger.Queued) bool { return q.JobID == id })
	if i < 0 {
		return nil
	}
	return &jobs[i]
}
