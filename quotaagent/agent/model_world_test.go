package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// modelSpec is a job as its author writes it.
type modelSpec struct {
	kind        string // batch or service
	count, gpus int
	class       string // "" for any
	runtime     time.Duration
	reschedules int
}

// modelJob is a registered job.
type modelJob struct {
	namespace, id string
	spec          modelSpec
	document      *api.Job
	submitter     string
	index, status uint64
	created       uint64
	stopped, dead bool
	slots         []modelSlot
}

// modelSlot is one allocation name: how often it may still start, and whether it
// is done.
type modelSlot struct {
	starts int
	done   bool
	live   *modelAlloc
}

// modelAlloc is what really happened: the facts that the ledger must end up with.
type modelAlloc struct {
	nomadevents.Allocation
	kind  string
	class string
	gpus  []string
	// deadline is when Nomad, or the agent, ends it at the latest; zero for none.
	deadline time.Time
	// stopping says that it was told to end.
	stopping bool
	// unseen says that Nomad forgot it before its end can be known to all.
	unseen bool
}

// modelWorld is a Nomad with GPUs, and the true time, which is its servers'.
type modelWorld struct {
	rng     *rand.Rand
	at      time.Time
	index   uint64
	free    map[string][]string // GPU ids by class
	jobs    map[string]*modelJob
	listed  map[string]*modelAlloc   // what Nomad still knows
	all     []*modelAlloc            // everything that ever was
	news    []nomadevents.Allocation // the latest; oldNews counts what came before
	oldNews int
	down    bool
	purged  map[string][]time.Time // when, by job, while Nomad knows it
}

var modelClasses = []string{"a", "b"}

func newModelWorld(rng *rand.Rand, at time.Time, gpus int) *modelWorld {
	w := &modelWorld{rng: rng, at: at, index: 10, free: map[string][]string{}, jobs: map[string]*modelJob{}, listed: map[string]*modelAlloc{}, purged: map[string][]time.Time{}}
	for i := range gpus {
		class := modelClasses[i%len(modelClasses)]
		w.free[class] = append(w.free[class], fmt.Sprintf("GPU-%s-%02d", class, i))
	}
	return w
}

// modelDevice is the full device name of a class.
func modelDevice(class string) string { return "nvidia/gpu/" + class }

// submission is what the gate would give to the engine for a spec now.
func (w *modelWorld) submission(namespace, id, submitter string, spec modelSpec) gate.Submission {
	device := "nvidia/gpu"
	if spec.class != "" {
		device = modelDevice(spec.class)
	}
	ask := jobspec.Ask{Region: "global", Namespace: namespace, JobID: id, Type: spec.kind, Meta: map[string]string{}}
	if spec.kind == api.JobTypeBatch {
		ask.Meta["governor_max_runtime"] = spec.runtime.String()
	}
	if spec.count > 0 {
		ask.Groups = []jobspec.GroupAsk{{Name: "g", Count: spec.count, Reschedules: spec.reschedules,
			Devices: []jobspec.DeviceAsk{{Task: "t", Name: device, Count: spec.gpus}}}}
	}
	return gate.Submission{Kind: gate.Register, Ask: ask, Job: w.documentOf(namespace, id, spec), Stored: w.stored(namespace, id),
		Identity: gate.Identity{Accessor: submitter, Names: []string{"user:" + submitter}}}
}

// documentOf is the job in Nomad's form, in as far as it is compared.
func (w *modelWorld) documentOf(namespace, id string, spec modelSpec) *api.Job {
	n := uint64(spec.gpus)
	device := &api.RequestedDevice{Name: "nvidia/gpu/" + spec.class, Count: &n}
	task := &api.Task{Name: "t", Driver: "docker", Env: map[string]string{"RUNTIME": spec.runtime.String(), "AGAIN": fmt.Sprint(spec.reschedules)},
		Resources: &api.Resources{Devices: []*api.RequestedDevice{device}}}
	job := api.NewBatchJob(id, id, "global", 50).AddTaskGroup(api.NewTaskGroup("g", spec.count).AddTask(task))
	job.Type, job.Namespace = &spec.kind, &namespace
	job.Canonicalize()
	return job
}

func (w *modelWorld) stored(namespace, id string) *api.Job {
	j := w.jobs[jobKey(namespace, id)]
	if j == nil {
		return nil
	}
	copied := *j.document
	status := "running"
	if j.dead {
		status = statusDead
	}
	index, modified, stopped, submitter := j.index, j.status, j.stopped, j.submitter
	copied.JobModifyIndex, copied.ModifyIndex, copied.Stop, copied.NomadTokenID, copied.Status = &index, &modified, &stopped, &submitter, &status
	return &copied
}

// register is Nomad's: it answers the index of the job, an old one when it finds
// nothing new.
func (w *modelWorld) register(namespace, id, submitter string, spec modelSpec) uint64 {
	w.index++
	key := jobKey(namespace, id)
	old := w.jobs[key]
	if old != nil && old.spec == spec && old.submitter == submitter && !old.stopped {
		return old.index
	}
	j := &modelJob{namespace: namespace, id: id, spec: spec, document: w.documentOf(namespace, id, spec), submitter: submitter,
		index: w.index, status: w.index, created: w.index}
	for range spec.count {
		j.slots = append(j.slots, modelSlot{starts: 1 + spec.reschedules})
	}
	if old != nil {
		j.created = old.created
		w.update(old, j)
	}
	w.jobs[key] = j
	w.settle(j)
	return j.index
}

// update replaces what runs of a job, or changes it in place.
func (w *modelWorld) update(old, next *modelJob) {
	inPlace := old.spec.gpus == next.spec.gpus && old.spec.class == next.spec.class && old.spec.kind == next.spec.kind && w.rng.IntN(2) == 0
	for i, s := range old.slots {
		if s.live == nil {
			continue
		}
		if !inPlace || i >= len(next.slots) || s.live.stopping {
			w.tellToStop(s.live)
			if i < len(next.slots) {
				next.slots[i].live = s.live // its successor waits for its end
			} else {
				next.slots = append(next.slots, modelSlot{done: true, live: s.live})
			}
			continue
		}
		next.slots[i].live = s.live
		next.slots[i].starts--
		if next.spec.kind == api.JobTypeBatch {
			s.live.deadline = maxTime(w.at, s.live.Created.Add(next.spec.runtime))
		}
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// settle finds out whether a job is dead.
func (w *modelWorld) settle(j *modelJob) {
	if j.dead {
		return
	}
	for _, s := range j.slots {
		if s.live != nil || (!s.done && s.starts > 0 && !j.stopped) {
			return
		}
	}
	w.index++
	j.dead, j.status = true, w.index
}

// schedule starts one allocation that is due, if there is room for one; nil when
// there is none.
func (w *modelWorld) schedule() *modelAlloc {
	keys := slices.Sorted(maps.Keys(w.jobs))
	w.rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys {
		j := w.jobs[key]
		// Nomad may start a successor while its predecessor still ends. What that needs is
		// an update's Overlap, which these jobs do not ask for.
		if j.dead || j.stopped || slices.ContainsFunc(j.slots, func(s modelSlot) bool { return s.live != nil && s.live.stopping }) {
			continue
		}
		for i := range j.slots {
			s := &j.slots[i]
			if s.live != nil || s.done || s.starts == 0 {
				continue
			}
			if a := w.start(j, i); a != nil {
				s.live = a
				s.starts--
				return a
			}
		}
	}
	return nil
}

func (w *modelWorld) start(j *modelJob, slot int) *modelAlloc {
	class := j.spec.class
	if class == "" {
		class = modelClasses[w.rng.IntN(len(modelClasses))]
	}
	if len(w.free[class]) < j.spec.gpus {
		return nil
	}
	ids := slices.Clone(w.free[class][:j.spec.gpus])
	w.free[class] = slices.Clone(w.free[class][j.spec.gpus:])
	w.index++
	a := &modelAlloc{kind: j.spec.kind, class: class, gpus: ids, Allocation: nomadevents.Allocation{
		ID: fmt.Sprintf("alloc-%06d", w.index), Name: fmt.Sprintf("%s.g[%d]", j.id, slot), Namespace: j.namespace, JobID: j.id, Group: "g",
		NodeID: "n1", NodeName: "node-1", CreateIndex: w.index, Created: w.at,
		Devices: []nomadevents.Devices{{Name: modelDevice(class), IDs: ids}}, ByTask: map[string][]string{"t": ids}}}
	if j.spec.kind == api.JobTypeBatch {
		a.deadline = w.at.Add(j.spec.runtime)
	}
	w.listed[a.ID] = a
	w.all = append(w.all, a)
	w.tell(a)
	return a
}

// tell puts news of an allocation into the event stream.
func (w *modelWorld) tell(a *modelAlloc) {
	w.news = append(w.news, a.Allocation)
	if len(w.news) > 60 {
		w.news = w.news[1:]
		w.oldNews++
	}
}

// live are the allocations that hold GPUs, in the order of their start.
func (w *modelWorld) live() []*modelAlloc {
	var live []*modelAlloc
	for _, a := range w.all {
		if !a.Terminal {
			live = append(live, a)
		}
	}
	return live
}

// end ends an allocation now: complete, or to be started again.
func (w *modelWorld) end(a *modelAlloc, complete bool) {
	if a.Terminal {
		return
	}
	w.index++
	a.Terminal, a.Ended = true, w.at
	a.Done = complete && a.kind == api.JobTypeBatch
	w.free[a.class] = append(w.free[a.class], a.gpus...)
	w.tell(a)
	j := w.jobs[jobKey(a.Namespace, a.JobID)]
	if j == nil {
		return
	}
	for i := range j.slots {
		s := &j.slots[i]
		if s.live != a {
			continue
		}
		s.live = nil
		if a.CreateIndex > j.index || !a.stopping {
			s.done = s.done || complete
		}
		if j.spec.kind != api.JobTypeBatch && !j.stopped && !s.done {
			s.starts = 1 // a service starts again for ever
		}
	}
	w.settle(j)
}

// advance moves the time; what is due ends on the way.
func (w *modelWorld) advance(d time.Duration) {
	to := w.at.Add(d)
	for {
		var next *modelAlloc
		for _, a := range w.live() {
			if !a.deadline.IsZero() && !a.deadline.After(to) && (next == nil || a.deadline.Before(next.deadline)) {
				next = a
			}
		}
		if next == nil {
			w.at = to
			return
		}
		w.at = maxTime(w.at, next.deadline)
		w.end(next, next.stopping || w.rng.IntN(3) > 0)
	}
}

// stop is a deregistration: the job is told to end.
func (w *modelWorld) stop(j *modelJob) {
	w.index++
	j.stopped, j.index = true, w.index
	for _, s := range j.slots {
		if s.live != nil {
			w.tellToStop(s.live)
		}
	}
	w.settle(j)
}

// tellToStop ends an allocation within its kill timeout.
func (w *modelWorld) tellToStop(a *modelAlloc) {
	by := w.at.Add(time.Duration(w.rng.Int64N(20_000)) * time.Millisecond)
	if !a.stopping && (a.deadline.IsZero() || by.Before(a.deadline)) {
		a.deadline = by
	}
	a.stopping = true
}

// purge makes a job and all that is known of it disappear at once.
func (w *modelWorld) purge(j *modelJob) {
	for _, a := range w.all {
		if a.Namespace == j.namespace && a.JobID == j.id && w.listed[a.ID] != nil {
			w.end(a, true)
			a.unseen = true
			delete(w.listed, a.ID)
		}
	}
	delete(w.jobs, jobKey(j.namespace, j.id))
	w.purged[jobKey(j.namespace, j.id)] = append(w.purged[jobKey(j.namespace, j.id)], w.at)
}

// collect is Nomad's garbage collection: ended allocations are forgotten, and
// dead jobs without any.
func (w *modelWorld) collect(keep func(a *modelAlloc) bool) {
	left := map[string]bool{}
	clear(w.purged)
	for id, a := range w.listed {
		if a.Terminal && !keep(a) {
			delete(w.listed, id)
			continue
		}
		left[jobKey(a.Namespace, a.JobID)] = true
	}
	maps.DeleteFunc(w.jobs, func(key string, j *modelJob) bool { return j.dead && !left[key] })
}

var errNomadDown = errors.New("connection refused")

func (w *modelWorld) list(keep func(*modelAlloc) bool) ([]nomadevents.Allocation, error) {
	if w.down {
		return nil, errNomadDown
	}
	var out []nomadevents.Allocation
	for _, id := range slices.Sorted(maps.Keys(w.listed)) {
		if a := w.listed[id]; keep(a) {
			out = append(out, a.Allocation)
		}
	}
	return out, nil
}

// Snapshot implements nomadState.
func (w *modelWorld) Snapshot(context.Context) ([]nomadevents.Allocation, error) {
	return w.list(func(*modelAlloc) bool { return true })
}

// JobAllocations implements nomadState.
func (w *modelWorld) JobAllocations(_ context.Context, namespace, jobID string) ([]nomadevents.Allocation, error) {
	return w.list(func(a *modelAlloc) bool { return a.Namespace == namespace && a.JobID == jobID })
}

// Job implements nomadState.
func (w *modelWorld) Job(_ context.Context, namespace, jobID string) (nomadevents.Job, error) {
	if w.down {
		return nomadevents.Job{}, errNomadDown
	}
	j := w.jobs[jobKey(namespace, jobID)]
	if j == nil {
		return nomadevents.Job{Dead: true}, nil
	}
	return nomadevents.Job{Exists: true, Dead: j.dead, Stopped: j.stopped, ModifyIndex: j.index, CreateIndex: j.created}, nil
}

// Deregistered implements nomadState. Nomad forgets evaluations, too.
func (w *modelWorld) Deregistered(_ context.Context, namespace, jobID string) ([]time.Time, error) {
	if w.down {
		return nil, errNomadDown
	}
	return w.purged[jobKey(namespace, jobID)], nil
}

// modelClient is an agent's end of the one Nomad.
type modelClient struct {
	*modelWorld
	agent *modelAgent
}

// Ahead implements nomadState: as exactly as the Date of an answer tells.
func (c modelClient) Ahead() time.Duration { return max(0, c.agent.skew-time.Second) }

// Stream implements nomadState; the model delivers news itself.
func (w *modelWorld) Stream(ctx context.Context, _ nomadevents.Watcher) error {
	<-ctx.Done()
	return ctx.Err()
}
