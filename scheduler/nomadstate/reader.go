package nomadstate

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"golang.org/x/sync/errgroup"
)

// querier is the part of Nomad's API client that is used: (*api.Client).Raw().
type querier interface {
	Query(endpoint string, out any, q *api.QueryOptions) (*api.QueryMeta, error)
	// Response is the body of the answer. The caller closes it.
	Response(endpoint string, q *api.QueryOptions) (io.ReadCloser, error)
}

// nodeReadsMax is how many single nodes are read at a time.
const nodeReadsMax = 8

// Reader reads snapshots. It remembers the attributes of nodes until they
// change, and every topology it has parsed. Methods may be called from several
// goroutines.
type Reader struct {
	nomad  querier
	fabric Fabric
	nodes  *list[api.NodeListStub]
	allocs *list[api.AllocationListStub]

	mu       sync.Mutex
	details  map[string]nodeDetails
	matrices map[string]*topology.Matrix
	last     made
}

// made is a snapshot and what it was made of.
type made struct {
	nodes    []*api.NodeListStub
	allocs   []*api.AllocationListStub
	snapshot cluster.Snapshot
}

// nodeDetails is what Nomad's node list leaves out.
type nodeDetails struct {
	modifyIndex      uint64
	attributes, meta map[string]string
	volumes          []string
}

// Fabric is what says of a node where it is in the network, as interpolations of
// Nomad's constraints ("${meta.governor_rack}"); "" where nothing does.
type Fabric struct{ Rack, Block string }

// WithFabric has the reader note where nodes are in the network. Call it before the
// first snapshot.
func (r *Reader) WithFabric(f Fabric) *Reader {
	r.fabric = f
	return r
}

// New returns a Reader; pass client.Raw() of a client whose token may read
// nodes and the jobs of all namespaces.
func New(nomad querier) *Reader {
	return &Reader{nomad: nomad, nodes: newList[api.NodeListStub](), allocs: newList[api.AllocationListStub](),
		details: map[string]nodeDetails{}, matrices: map[string]*topology.Matrix{}}
}

// Snapshot reads all nodes with GPUs and who holds them. An error means that
// Nomad could not be read. Where nothing has changed since it was read last, it is the
// same again (cluster.Snapshot.Same): do not change it.
func (r *Reader) Snapshot(ctx context.Context) (cluster.Snapshot, error) {
	var nodes []*api.NodeListStub
	var details []nodeDetails
	var warnings []string
	var allocs []*api.AllocationListStub
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		if nodes, err = r.readNodes(groupCtx); err == nil {
			details, warnings, err = r.readDetails(groupCtx, nodes)
		}
		return err
	})
	group.Go(func() (err error) {
		allocs, err = r.liveAllocations(groupCtx)
		return err
	})
	if err := group.Wait(); err != nil {
		return cluster.Snapshot{}, err
	}
	complete := len(warnings) == 0 // else it may become so while nothing changes
	if s, same := r.unchanged(nodes, allocs); same && complete {
		return s, nil
	}
	uses := indexUses(allocs)
	s := cluster.Snapshot{Nodes: make([]cluster.Node, 0, len(nodes)), Incomplete: !complete}
	for i, stub := range nodes {
		node, notes := r.node(stub, details[i], uses[stub.ID])
		s.Nodes = append(s.Nodes, node)
		warnings = append(warnings, notes...)
	}
	slices.Sort(warnings)
	s.Warnings = warnings
	if complete {
		r.mu.Lock()
		r.last = made{nodes, allocs, s}
		r.mu.Unlock()
	}
	return s, nil
}

// unchanged is the last snapshot, if it was made of just this.
func (r *Reader) unchanged(nodes []*api.NodeListStub, allocs []*api.AllocationListStub) (cluster.Snapshot, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last.snapshot, len(nodes) > 0 && slices.Equal(nodes, r.last.nodes) && slices.Equal(allocs, r.last.allocs)
}

// readNodes lists the nodes with GPUs, by id.
func (r *Reader) readNodes(ctx context.Context) ([]*api.NodeListStub, error) {
	q := &api.QueryOptions{Params: map[string]string{"resources": "true"}}
	nodes, err := r.nodes.read(ctx, r.nomad, "/v1/nodes", q)
	if err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	nodes = slices.DeleteFunc(nodes, func(n *api.NodeListStub) bool { return !hasGPUs(n) })
	slices.SortFunc(nodes, func(a, b *api.NodeListStub) int { return strings.Compare(a.ID, b.ID) })
	return nodes, nil
}

// Allocations reads the allocations of one job that were created after the
// given Raft index, ended ones included, sorted by id: for cluster.Verify.
func (r *Reader) Allocations(ctx context.Context, namespace, jobID string, after uint64) ([]cluster.Allocation, error) {
	stubs, err := r.listAllocations(ctx, newList[api.AllocationListStub](), namespace, "JobID == "+strconv.Quote(jobID))
	if err != nil {
		return nil, fmt.Errorf("read allocations of job %q: %w", jobID, err)
	}
	var allocs []cluster.Allocation
	for _, stub := range stubs {
		if stub.JobID != jobID || stub.CreateIndex <= after {
			continue
		}
		a := cluster.Allocation{ID: stub.ID, Namespace: stub.Namespace, JobID: stub.JobID, Group: stub.TaskGroup,
			NodeID: stub.NodeID, Devices: map[string][]string{}}
		if stub.AllocatedResources != nil {
			for task, res := range stub.AllocatedResources.Tasks {
				for _, d := range gpusOf(res) {
					a.Devices[task] = append(a.Devices[task], d.DeviceIDs...)
				}
				slices.Sort(a.Devices[task])
			}
		}
		allocs = append(allocs, a)
	}
	slices.SortFunc(allocs, func(a, b cluster.Allocation) int { return strings.Compare(a.ID, b.ID) })
	return allocs, nil
}

func (r *Reader) listAllocations(ctx context.Context, l *list[api.AllocationListStub], namespace, filter string) ([]*api.AllocationListStub, error) {
	q := &api.QueryOptions{Namespace: namespace, Filter: filter,
		Params: map[string]string{"resources": "true", "task_states": "false"}}
	return l.read(ctx, r.nomad, "/v1/allocations", q)
}

// clientTerminal are the states in which a client has let go of the devices
// (Nomad's Allocation.ClientTerminalStatus).
var clientTerminal = []string{api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost}

func (r *Reader) liveAllocations(ctx context.Context) ([]*api.AllocationListStub, error) {
	terms := make([]string, len(clientTerminal))
	for i, status := range clientTerminal {
		terms[i] = "ClientStatus != " + strconv.Quote(status)
	}
	stubs, err := r.listAllocations(ctx, r.allocs, api.AllNamespacesNamespace, strings.Join(terms, " and "))
	if err != nil {
		return nil, fmt.Errorf("read allocations: %w", err)
	}
	return slices.DeleteFunc(stubs, func(a *api.AllocationListStub) bool {
		return slices.Contains(clientTerminal, a.ClientStatus)
	}), nil
}

// readDetails reads the nodes whose attributes are not known at their present
// version. A node that cannot be read gives a warning and empty details.
func (r *Reader) readDetails(ctx context.Context, nodes []*api.NodeListStub) ([]nodeDetails, []string, error) {
	details := make([]nodeDetails, len(nodes))
	notes := make([]string, len(nodes))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(nodeReadsMax)
	for i, stub := range nodes {
		if known, ok := r.known(stub); ok {
			details[i] = known
			continue
		}
		group.Go(func() error {
			var node api.Node
			_, err := r.nomad.Query("/v1/node/"+stub.ID, &node, new(api.QueryOptions).WithContext(groupCtx))
			if err == nil {
				details[i] = nodeDetails{stub.ModifyIndex, orEmpty(node.Attributes), orEmpty(node.Meta), slices.Sorted(maps.Keys(node.HostVolumes))}
				return nil
			}
			notes[i] = fmt.Sprintf("node %s: attributes not read, constraints on them are left to Nomad: %v", stub.Name, err)
			return groupCtx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, fmt.Errorf("read node attributes: %w", err)
	}
	r.remember(nodes, details)
	return details, slices.DeleteFunc(notes, func(n string) bool { return n == "" }), nil
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func (r *Reader) known(stub *api.NodeListStub) (nodeDetails, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.details[stub.ID]
	return d, ok && d.modifyIndex == stub.ModifyIndex
}

// remember replaces the memory, so that nodes that are gone leave it.
func (r *Reader) remember(nodes []*api.NodeListStub, details []nodeDetails) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.details)
	for i, d := range details {
		if d.attributes != nil {
			r.details[nodes[i].ID] = d
		}
	}
}

func hasGPUs(n *api.NodeListStub) bool {
	return n.NodeResources != nil && slices.ContainsFunc(n.NodeResources.Devices,
		func(d *api.NodeDeviceResource) bool { return d != nil && gpu.IsType(d.Type) })
}

func gpusOf(res *api.AllocatedTaskResources) []*api.AllocatedDeviceResource {
	if res == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(res.Devices),
		func(d *api.AllocatedDeviceResource) bool { return d == nil || !gpu.IsType(d.Type) })
}
