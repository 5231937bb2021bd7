package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/clustermap"
)

// panelPath is what the paths of the panel's questions begin with.
const panelPath = api.Prefix + "v1/panel/"

const (
	// panelAge is how old what a panel is told of the cluster may be, and panelWithin how
	// long a client may take to say how busy its GPUs are.
	panelAge    = 10 * time.Second
	panelWithin = 3 * time.Second
)

// panels answers what the panel on the pages of Nomad's UI shows. Whether somebody may
// see that Nomad decides: it is asked for the same job or allocation with the caller's own
// token, as Nomad's page asks it.
type panels struct {
	gate      *gate.Gate
	agent     *agent.Agent
	placement *placer
	region    string
}

// quietHeader is what the script sends. A browser writes every answer that is an error into
// its console, where it looks like one of Nomad's UI; the script takes 204 for "show
// nothing", whatever the reason.
const quietHeader = "X-Governor-Panel"

// quiet answers the script's questions with 204 instead of an error.
func quiet(own http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(quietHeader) != "" && strings.HasPrefix(r.URL.Path, panelPath) {
			w = &quietWriter{ResponseWriter: w}
		}
		own.ServeHTTP(w, r)
	})
}

// quietWriter leaves the body of an error out.
type quietWriter struct {
	http.ResponseWriter
	failed bool
}

// WriteHeader implements http.ResponseWriter.
func (w *quietWriter) WriteHeader(status int) {
	if w.failed = status >= http.StatusBadRequest; w.failed {
		w.Header().Del("Content-Type")
		status = http.StatusNoContent
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *quietWriter) Write(p []byte) (int, error) {
	if w.failed {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

func (p panels) routes() []api.Route {
	return []api.Route{
		{Method: "GET", Path: panelPath + "job", Right: api.Read, Serve: p.job},
		{Method: "GET", Path: panelPath + "allocation", Right: api.Read, Serve: p.allocation},
	}
}

// panel is what the script is told: of a job, and of one allocation where that was asked.
type panel struct {
	// Page is Governor's own page about the job.
	Page       string           `json:"page"`
	Job        agent.JobPanel   `json:"job"`
	Allocation *panelAllocation `json:"allocation,omitempty"`
}

// panelAllocation is one allocation with its GPUs.
type panelAllocation struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	NodeID   string `json:"node_id"`
	NodeName string `json:"node_name"`
	Status   string `json:"status"`
	// Running says that it holds its GPUs now.
	Running bool          `json:"running"`
	Devices []panelDevice `json:"devices"`
	// Sets are how good the GPUs of each task are together, where it has several.
	Sets []panelSet `json:"sets"`
	// Silent says why there are no figures of GPUs that run: one sentence, or "".
	Silent string `json:"silent,omitempty"`
}

// panelSet is the GPUs of one model that a task got, and those that it was offered on that
// node; nil where nothing was offered there, or nobody knows any more.
type panelSet struct {
	Task    string            `json:"task"`
	Given   clustermap.Given  `json:"given"`
	Offered *clustermap.Given `json:"offered,omitempty"`
}

var notShown = &api.Problem{Status: http.StatusNotFound, Text: "Nomad does not show this to this token, or does not have it"}

// ours refuses what is of another region: nothing of that is known here.
func (p panels) ours(c api.Call) error {
	if region := c.Query("region"); region != "" && region != p.region {
		return &api.Problem{Status: http.StatusNotFound, Text: "this Governor governs region " + p.region + " only"}
	}
	return nil
}

// read asks Nomad in the caller's name.
func (p panels) read(ctx context.Context, c api.Call, path string, query url.Values, into any) error {
	err := p.gate.Read(ctx, c.Request(), path, query, into)
	switch {
	case errors.Is(err, gate.ErrNotShown):
		return notShown
	case err != nil:
		return &api.Problem{Status: http.StatusServiceUnavailable, Text: "Nomad cannot be asked for this now; try again later"}
	}
	return nil
}

// job serves the panel of a job.
func (p panels) job(ctx context.Context, c api.Call) (any, error) {
	namespace, id := c.Query("namespace"), c.Query("job")
	if namespace == "" {
		namespace = nomad.DefaultNamespace
	}
	if id == "" || namespace == "*" {
		return nil, &api.Problem{Status: http.StatusBadRequest, Text: "name the job and its namespace in the query: ?job=<id>&namespace=<namespace>"}
	}
	if err := p.ours(c); err != nil {
		return nil, err
	}
	// A job that is gone has a list of allocations too, an empty one, and ids that end like
	// a route are safe with it.
	var stubs []struct{ ID string }
	if err := p.read(ctx, c, gate.JobPath(id)+"/allocations", url.Values{"namespace": {namespace}}, &stubs); err != nil {
		return nil, err
	}
	known, err := p.agent.Panel(ctx, namespace, id)
	if err != nil {
		return nil, err
	}
	return panel{Page: pageOf(namespace, id), Job: known}, nil
}

// pageOf is the path of Governor's page about a job.
func pageOf(namespace, id string) string {
	return api.Prefix + "jobs/" + url.PathEscape(namespace) + "/" + url.PathEscape(id)
}

var allocationID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// shownAllocation is what is read of an allocation.
type shownAllocation struct {
	ID, Namespace, JobID, TaskGroup, Name, NodeID, NodeName, ClientStatus string
	AllocatedResources                                                    *nomad.AllocatedResources
}

// allocation serves the panel of an allocation, and of one task of it.
func (p panels) allocation(ctx context.Context, c api.Call) (any, error) {
	id := c.Query("id")
	if !allocationID.MatchString(id) {
		return nil, &api.Problem{Status: http.StatusBadRequest, Text: "name the allocation in the query by its whole id: ?id=<id>"}
	}
	if err := p.ours(c); err != nil {
		return nil, err
	}
	var a shownAllocation
	if err := p.read(ctx, c, "/v1/allocation/"+id, nil, &a); err != nil {
		return nil, err
	}
	known, err := p.agent.Panel(ctx, a.Namespace, a.JobID)
	if err != nil {
		return nil, err
	}
	out := panelAllocation{ID: a.ID, Name: a.Name, NodeID: a.NodeID, NodeName: a.NodeName, Status: a.ClientStatus, Running: a.ClientStatus == nomad.AllocClientStatusRunning,
		Devices: devicesOf(a.AllocatedResources, c.Query("task")), Sets: []panelSet{}}
	if len(out.Devices) == 0 {
		return panel{Page: pageOf(a.Namespace, a.JobID), Job: known, Allocation: &out}, nil
	}
	if snapshot, err := p.placement.state.Snapshot(ctx, panelAge); err == nil {
		at := slices.IndexFunc(snapshot.Nodes, func(n cluster.Node) bool { return n.ID == a.NodeID })
		if at >= 0 {
			out.health(&snapshot.Nodes[at])
			out.Sets = p.setsOf(a, known.Placement, out.Devices, &snapshot.Nodes[at])
		}
	}
	if out.Running {
		out.measure(p.usage(ctx, c, id))
	}
	return panel{Page: pageOf(a.Namespace, a.JobID), Job: known, Allocation: &out}, nil
}

// devicesOf are the GPUs of an allocation by task, or those of one task.
func devicesOf(r *nomad.AllocatedResources, only string) []panelDevice {
	out := []panelDevice{}
	if r == nil {
		return out
	}
	for task, t := range r.Tasks {
		if t == nil || only != "" && task != only {
			continue
		}
		for _, d := range t.Devices {
			if d == nil || !gpu.IsType(d.Type) {
				continue
			}
			for _, id := range d.DeviceIDs {
				out = append(out, panelDevice{ID: id, Task: task, Device: gpu.DeviceName(d.Vendor, d.Type, d.Name)})
			}
		}
	}
	slices.SortFunc(out, func(a, b panelDevice) int {
		return strings.Compare(a.Task+"\x00"+a.ID, b.Task+"\x00"+b.ID)
	})
	return out
}

// health takes in what the node said last of its devices.
func (a *panelAllocation) health(n *cluster.Node) {
	for i := range n.Groups {
		for _, d := range n.Groups[i].Devices {
			for j := range a.Devices {
				if a.Devices[j].ID != d.ID {
					continue
				}
				a.Devices[j].Health = "unhealthy"
				if d.Healthy {
					a.Devices[j].Health = "healthy"
				}
			}
		}
	}
}

// usage asks the client of a running allocation how busy its GPUs are.
func (p panels) usage(ctx context.Context, c api.Call, id string) (*nomad.AllocResourceUsage, error) {
	ctx, cancel := context.WithTimeout(ctx, panelWithin)
	defer cancel()
	var usage nomad.AllocResourceUsage
	err := p.gate.Read(ctx, c.Request(), "/v1/client/allocation/"+id+"/stats", nil, &usage)
	return &usage, err
}

// setsOf compares what each task was offered on the node with what it got.
func (p panels) setsOf(a shownAllocation, placement json.RawMessage, devices []panelDevice, n *cluster.Node) []panelSet {
	out := []panelSet{}
	byTask := map[string][]string{}
	var tasks []string
	for _, d := range devices {
		if byTask[d.Task] == nil {
			tasks = append(tasks, d.Task)
		}
		byTask[d.Task] = append(byTask[d.Task], d.ID)
	}
	offers := offersOf(placement, a.TaskGroup, n.ID)
	for _, task := range tasks {
		offered := offers(task, byTask[task])
		for _, given := range clustermap.GivenOf(n, byTask[task], p.placement.sets) {
			set := panelSet{Task: task, Given: given}
			for _, o := range clustermap.GivenOf(n, offered, p.placement.sets) {
				if o.Device == given.Device {
					set.Offered = &o
				}
			}
			out = append(out, set)
		}
	}
	return out
}

// offersOf finds the ids that were offered to a task on a node. The members of a gang that
// are on one node may take each other's GPUs: of their offers it is the one that has most of
// what the task got.
func offersOf(placement json.RawMessage, group, node string) func(task string, given []string) []string {
	var r record
	none := func(string, []string) []string { return nil }
	if json.Unmarshal(placement, &r) != nil {
		return none
	}
	found := r.Offer.Find(group)
	if found == nil {
		return none
	}
	return func(task string, given []string) []string {
		var best []string
		most := -1
		for _, n := range found.Nodes {
			if n.NodeID != node {
				continue
			}
			var ids []string
			for _, set := range n.Sets {
				if set.Task == task {
					ids = append(ids, set.IDs...)
				}
			}
			same := 0
			for _, id := range ids {
				if slices.Contains(given, id) {
					same++
				}
			}
			if len(ids) > 0 && same > most {
				best, most = ids, same
			}
		}
		return best
	}
}
