package nomadevents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// Allocation is what metering needs to know about an allocation with GPUs.
type Allocation struct {
	ID, Name, Namespace, JobID, Group, NodeID, NodeName string
	CreateIndex                                         uint64
	// Created is when the plan applier placed it, on the servers' clock.
	Created time.Time
	// Terminal says that the client reported its end: the GPUs are free.
	// Ended is then the best known time of it.
	Terminal bool
	Ended    time.Time
	// Estimated marks an Ended that was not observed as it happened.
	Estimated bool
	// Done says that it ended and will not be replaced in the same slot.
	Done bool
	// Unknown says that Nomad has lost touch with the node: it may run or not.
	Unknown bool
	// Began is when its first task started, and Left when its last one ended, on
	// the node's clock; zero if that did not happen yet.
	Began, Left time.Time
	// Devices by full device name, names sorted, ids as Nomad lists them.
	Devices []Devices
	// ByTask are the same device ids by task.
	ByTask map[string][]string
}

// Devices are the ids of one device group that an allocation holds.
type Devices struct {
	Name string
	IDs  []string
}

// IDs are all device ids of the allocation, sorted.
func (a Allocation) IDs() []string {
	var ids []string
	for _, d := range a.Devices {
		ids = append(ids, d.IDs...)
	}
	slices.Sort(ids)
	return ids
}

// Job is what the ledger needs to know about a job.
type Job struct {
	Exists bool
	// Dead says that nothing of it runs or will run.
	Dead bool
	// Stopped says that somebody stopped it; what it started may run on for a while.
	Stopped bool
	// Gated says that it waits for budget: nothing of it is meant to start.
	Gated bool
	// ModifyIndex is its JobModifyIndex: the last change of its specification.
	// ChangedIndex is the last change of anything of it, its status included.
	ModifyIndex, ChangedIndex uint64
	// CreateIndex is older than every allocation of the job, unless it was purged
	// and registered anew: of that life it is the beginning.
	CreateIndex uint64
}

// Client reads Nomad with the agent's own token.
type Client struct {
	nomad *api.Client
	clock *Clock
}

// New returns a reader over an API client, whose transport the clock watches; nil
// for none.
func New(nomad *api.Client, clock *Clock) *Client { return &Client{nomad: nomad, clock: clock} }

// Ahead is by how much our clock is ahead of Nomad's, as of its last answer.
func (c *Client) Ahead() time.Duration { return c.clock.Ahead() }

// Snapshot lists every allocation with GPUs in all namespaces.
func (c *Client) Snapshot(ctx context.Context) ([]Allocation, error) {
	out, err := c.list(ctx, &api.QueryOptions{Namespace: "*"})
	if err != nil {
		return nil, fmt.Errorf("list allocations: %w", err)
	}
	return out, nil
}

// fewAllocations is how many allocations of a job are read one by one at most.
const fewAllocations = 4

// JobAllocations lists the allocations with GPUs of one job, all versions and all lives.
//
// Nomad has an index of a job's allocations, but tells their devices only in the list of
// all, which it filters one by one. So that is asked only where there are several, and
// about each by its id where there are few: most jobs that are asked about have none.
func (c *Client) JobAllocations(ctx context.Context, namespace, jobID string) ([]Allocation, error) {
	failed := func(err error) error { return fmt.Errorf("list allocations of job %q: %w", jobID, err) }
	stubs, _, err := c.nomad.Jobs().Allocations(jobID, true, (&api.QueryOptions{Namespace: namespace}).WithContext(ctx))
	if err != nil {
		return nil, failed(err)
	}
	var out []Allocation
	if len(stubs) > fewAllocations {
		if out, err = c.list(ctx, &api.QueryOptions{Namespace: namespace, Filter: fmt.Sprintf("JobID == %q", jobID)}); err != nil {
			return nil, failed(err)
		}
		return out, nil
	}
	for _, s := range stubs {
		one, err := c.list(ctx, &api.QueryOptions{Namespace: namespace, Prefix: s.ID})
		if err != nil {
			return nil, failed(err)
		}
		out = append(out, one...)
	}
	return out, nil
}

// list reads a list as it comes: as a whole, with all that Nomad says of each allocation,
// that of a large cluster takes several times the memory of what is kept.
func (c *Client) list(ctx context.Context, q *api.QueryOptions) ([]Allocation, error) {
	q.Params = map[string]string{"resources": "true", "task_states": "true"}
	body, err := c.nomad.Raw().Response("/v1/allocations", q.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	text := json.NewDecoder(body)
	switch first, err := text.Token(); {
	case err != nil:
		return nil, fmt.Errorf("read the list: %w", err)
	case first == nil: // null
		return nil, nil
	case first != json.Delim('['):
		return nil, fmt.Errorf("read the list: it begins with %v and not with [", first)
	}
	var out []Allocation
	for text.More() {
		var s api.AllocationListStub
		if err := text.Decode(&s); err != nil {
			return nil, fmt.Errorf("read the list: %w", err)
		}
		if a := fromStub(&s); len(a.Devices) > 0 {
			out = append(out, a)
		}
	}
	if _, err := text.Token(); err != nil { // ]: else it has broken off
		return nil, fmt.Errorf("read the list: %w", err)
	}
	return out, nil
}

func fromStub(s *api.AllocationListStub) Allocation {
	a := Allocation{ID: s.ID, Name: s.Name, Namespace: s.Namespace, JobID: s.JobID, Group: s.TaskGroup, NodeID: s.NodeID,
		NodeName: s.NodeName, CreateIndex: s.CreateIndex, Created: time.Unix(0, s.CreateTime), Devices: devices(s.AllocatedResources), ByTask: byTask(s.AllocatedResources)}
	a.run(s.ClientStatus, s.TaskStates)
	a.end(s.ClientStatus, s.JobType, s.ModifyTime)
	return a
}

// fromAllocation reads an allocation as events carry it: without its job.
func fromAllocation(s *api.Allocation) Allocation {
	a := Allocation{ID: s.ID, Name: s.Name, Namespace: s.Namespace, JobID: s.JobID, Group: s.TaskGroup, NodeID: s.NodeID,
		NodeName: s.NodeName, CreateIndex: s.CreateIndex, Created: time.Unix(0, s.CreateTime), Devices: devices(s.AllocatedResources), ByTask: byTask(s.AllocatedResources)}
	a.run(s.ClientStatus, s.TaskStates)
	a.end(s.ClientStatus, "", s.ModifyTime)
	return a
}

// observeLag is how much later than a task's end the servers usually learn of
// it; a larger gap means that we look at a later change of the allocation.
const observeLag = 5 * time.Second

// end fills in how and when the allocation ended. The servers' time of the
// first client-terminal update is exact; where only a later change is visible,
// the client's own time of the last task's end stands in and is marked.
func (a *Allocation) end(status, jobType string, modified int64) {
	switch status {
	case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
	default:
		return
	}
	a.Terminal, a.Ended = true, time.Unix(0, modified)
	a.Done = status == api.AllocClientStatusComplete && jobType != api.JobTypeService
	if !a.Left.IsZero() && a.Ended.Sub(a.Left) > observeLag {
		a.Ended, a.Estimated = a.Left, true
	}
}

// run fills in when its tasks ran. A task that restarted began when it first
// did, as far back as its events go.
func (a *Allocation) run(status string, tasks map[string]*api.TaskState) {
	a.Unknown = status == api.AllocClientStatusUnknown
	began := func(at time.Time) {
		if !at.IsZero() && (a.Began.IsZero() || at.Before(a.Began)) {
			a.Began = at
		}
	}
	for _, t := range tasks {
		if t == nil {
			continue
		}
		began(t.StartedAt)
		for _, e := range t.Events {
			if e != nil && e.Type == api.TaskStarted {
				began(time.Unix(0, e.Time))
			}
		}
		if t.FinishedAt.After(a.Left) {
			a.Left = t.FinishedAt
		}
	}
}

// devices collects the GPUs and MIG instances of an allocation by group.
func devices(r *api.AllocatedResources) []Devices {
	if r == nil {
		return nil
	}
	byName := make(map[string][]string)
	for _, task := range r.Tasks {
		for _, d := range task.Devices {
			if gpu.IsType(d.Type) {
				name := gpu.DeviceName(d.Vendor, d.Type, d.Name)
				byName[name] = append(byName[name], d.DeviceIDs...)
			}
		}
	}
	out := make([]Devices, 0, len(byName))
	for name, ids := range byName {
		slices.Sort(ids)
		out = append(out, Devices{Name: name, IDs: ids})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// byTask lists the GPU ids of each task that has any.
func byTask(r *api.AllocatedResources) map[string][]string {
	ids := make(map[string][]string)
	if r == nil {
		return ids
	}
	for name, task := range r.Tasks {
		for _, d := range task.Devices {
			if gpu.IsType(d.Type) {
				ids[name] = append(ids[name], d.DeviceIDs...)
			}
		}
	}
	return ids
}

// Job reads one job. A job that Nomad does not know is dead.
func (c *Client) Job(ctx context.Context, namespace, jobID string) (Job, error) {
	if strings.Contains(jobID, "/") {
		return c.listedJob(ctx, namespace, jobID)
	}
	spec, _, err := c.nomad.Jobs().Info(jobID, (&api.QueryOptions{Namespace: namespace}).WithContext(ctx))
	var unexpected api.UnexpectedResponseError
	if errors.As(err, &unexpected) && unexpected.StatusCode() == http.StatusNotFound {
		return Job{Dead: true}, nil
	}
	if err != nil {
		return Job{}, fmt.Errorf("read job %q: %w", jobID, err)
	}
	job := Job{Exists: true, Gated: jobspec.Gated(spec)}
	if spec.CreateIndex != nil {
		job.CreateIndex = *spec.CreateIndex
	}
	if spec.JobModifyIndex != nil {
		job.ModifyIndex = *spec.JobModifyIndex
	}
	if spec.ModifyIndex != nil {
		job.ChangedIndex = *spec.ModifyIndex
	}
	job.Dead = spec.Status != nil && *spec.Status == statusDead
	job.Stopped = spec.Stop != nil && *spec.Stop
	return job, nil
}

// Deregistered is when a job was stopped or purged, by Nomad's clock, as far as Nomad
// knows, the earliest first. The evaluation of that outlives a purged job.
func (c *Client) Deregistered(ctx context.Context, namespace, jobID string) ([]time.Time, error) {
	evaluations, _, err := c.nomad.Jobs().Evaluations(jobID, (&api.QueryOptions{Namespace: namespace}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("list evaluations of job %q: %w", jobID, err)
	}
	var times []time.Time
	for _, e := range evaluations {
		if e.TriggeredBy == "job-deregister" && e.CreateTime > 0 {
			times = append(times, time.Unix(0, e.CreateTime))
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times, nil
}

// statusDead is the status of a job of which nothing runs or will run.
const statusDead = "dead"

// listedJob finds a job in the list of jobs: Nomad routes by the end of the
// decoded path, so that GET /v1/job/<id> of the job "team/summary" would answer
// with the summary of the job "team".
func (c *Client) listedJob(ctx context.Context, namespace, jobID string) (Job, error) {
	stubs, _, err := c.nomad.Jobs().List((&api.QueryOptions{Namespace: namespace, Prefix: jobID}).WithContext(ctx))
	if err != nil {
		return Job{}, fmt.Errorf("list job %q: %w", jobID, err)
	}
	for _, s := range stubs {
		if s.ID == jobID {
			job := Job{Exists: true, Dead: s.Status == statusDead, Stopped: s.Stop, ModifyIndex: s.JobModifyIndex, ChangedIndex: s.ModifyIndex, CreateIndex: s.CreateIndex}
			if !job.Dead {
				job.Gated, err = c.gated(ctx, namespace, jobID, s.JobModifyIndex)
			}
			return job, err
		}
	}
	return Job{Dead: true}, nil
}

// gated looks for the gate in the version of a job that has an index. The list of
// versions is routed rightly for every id.
func (c *Client) gated(ctx context.Context, namespace, jobID string, index uint64) (bool, error) {
	var list struct{ Versions []*api.Job }
	path := "/v1/job/" + url.PathEscape(jobID) + "/versions"
	if _, err := c.nomad.Raw().Query(path, &list, (&api.QueryOptions{Namespace: namespace}).WithContext(ctx)); err != nil {
		return false, fmt.Errorf("read versions of job %q: %w", jobID, err)
	}
	for _, version := range list.Versions {
		if version != nil && version.JobModifyIndex != nil && *version.JobModifyIndex == index {
			return jobspec.Gated(version), nil
		}
	}
	return false, nil
}

// Watcher is told what happens.
type Watcher struct {
	// Ready is called once the stream stands: a snapshot taken then misses nothing that
	// the stream will not show.
	Ready func()
	// Allocation is called for every change of an allocation with GPUs.
	Allocation func(Allocation)
	// Job is called for every change of a job, also of its status, with the index of that
	// change. Nomad tells it a moment before it answers by it (state_changes.go, Commit).
	Job func(namespace, jobID string, index uint64)
}

// Stream tells w what happens from now on, until the stream breaks or ctx ends.
func (c *Client) Stream(ctx context.Context, w Watcher) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from, err := c.index(ctx)
	if err != nil {
		return err
	}
	topics := map[api.Topic][]string{api.TopicAllocation: {"*"}, api.TopicJob: {"*"}}
	events, err := c.nomad.EventStream().Stream(ctx, topics, from+1, (&api.QueryOptions{Namespace: "*"}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("open event stream: %w", err)
	}
	w.Ready()
	for batch := range events {
		if batch.Err != nil {
			return fmt.Errorf("read event stream: %w", batch.Err)
		}
		for i := range batch.Events {
			if err := dispatch(&batch.Events[i], w); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// index is the one that allocations have reached. A stream that begins at 0
// would first repeat the servers' whole buffer: old news, which by now may be
// wrong.
func (c *Client) index(ctx context.Context) (uint64, error) {
	_, meta, err := c.nomad.Allocations().List((&api.QueryOptions{Namespace: "*", PerPage: 1}).WithContext(ctx))
	if err != nil {
		return 0, fmt.Errorf("read nomad's index: %w", err)
	}
	return meta.LastIndex, nil
}

// jobOf is the job of an event. Nomad's library cannot decode one with a payload (seen
// on 1.11.3 with a dispatched job): what is needed is read as it is.
func jobOf(e *api.Event) (namespace, jobID string, index uint64) {
	job, _ := e.Payload["Job"].(map[string]any)
	namespace, _ = job["Namespace"].(string)
	jobID, _ = job["ID"].(string)
	return namespace, jobID, e.Index
}

func dispatch(e *api.Event, w Watcher) error {
	switch e.Topic {
	case api.TopicAllocation:
		s, err := e.Allocation()
		if err != nil {
			return fmt.Errorf("decode allocation event: %w", err)
		}
		if s == nil {
			return nil
		}
		if a := fromAllocation(s); len(a.Devices) > 0 {
			w.Allocation(a)
		}
	case api.TopicJob:
		if namespace, jobID, index := jobOf(e); jobID != "" {
			w.Job(namespace, jobID, index)
		}
	}
	return nil
}
