package nomadstate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/nomadstate"
	"github.com/nomad-governor/governor/scheduler/place"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// fakeNomad answers with what a real Nomad 1.11.3 answered: two clients with
// eight V100 and one with four L40S under the device plugin, seven jobs placed, the
// job job-0-3 stopped. testdata/ is its output, less the fields that name the
// machine it ran on.
type fakeNomad struct {
	nodes  []*api.NodeListStub
	allocs []*api.AllocationListStub
	broken map[string]error // by path
	cut    int              // so many bytes of an answer come, unless it is 0

	mu    sync.Mutex
	reads map[string]int
}

func newFake(t testing.TB) *fakeNomad {
	f := &fakeNomad{broken: map[string]error{}, reads: map[string]int{}}
	decode(t, "nodes.json", &f.nodes)
	decode(t, "allocations.json", &f.allocs)
	return f
}

func decode(t testing.TB, name string, out any) {
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	must.NoError(t, err)
	must.NoError(t, json.Unmarshal(raw, out))
}

func (f *fakeNomad) Query(path string, out any, q *api.QueryOptions) (*api.QueryMeta, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads[path]++
	if err := q.Context().Err(); err != nil {
		return nil, err
	}
	if err := f.broken[path]; err != nil {
		return nil, err
	}
	var answer any
	switch {
	case path == "/v1/nodes" && q.Params["resources"] == "true":
		answer = f.nodes
	case path == "/v1/allocations" && q.Params["resources"] == "true" && q.Namespace != "":
		answer = f.allocs
	case strings.HasPrefix(path, "/v1/node/"):
		for _, n := range f.nodes {
			if path == "/v1/node/"+n.ID {
				raw, err := os.ReadFile(filepath.Join("testdata", "node-"+n.Name+".json"))
				if err != nil {
					return nil, err
				}
				answer = json.RawMessage(raw)
			}
		}
	}
	if answer == nil {
		return nil, fmt.Errorf("unexpected query %s %v", path, q)
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	return &api.QueryMeta{}, json.Unmarshal(raw, out)
}

// Response is Query as bytes.
func (f *fakeNomad) Response(path string, q *api.QueryOptions) (io.ReadCloser, error) {
	var raw json.RawMessage
	if _, err := f.Query(path, &raw, q); err != nil {
		return nil, err
	}
	if f.cut > 0 {
		raw = raw[:f.cut]
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

func TestAListThatEndsTooEarlyIsAnError(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	_, err := nomadstate.New(f).Snapshot(t.Context())
	must.NoError(t, err)
	for _, cut := range []int{1, 5, 500} {
		f.cut = cut
		_, err := nomadstate.New(f).Snapshot(t.Context())
		must.ErrorIs(t, err, io.ErrUnexpectedEOF, must.Sprint(cut))
	}
}

func (f *fakeNomad) node(name string) *api.NodeListStub {
	for _, n := range f.nodes {
		if n.Name == name {
			return n
		}
	}
	panic("no node " + name)
}

func snapshotOf(t testing.TB, f *fakeNomad) cluster.Snapshot {
	s, err := nomadstate.New(f).Snapshot(context.Background())
	must.NoError(t, err)
	return s
}

func nodeOf(t testing.TB, s cluster.Snapshot, name string) cluster.Node {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no node %s in the snapshot", name)
	return cluster.Node{}
}

func TestSnapshotOfARealCluster(t *testing.T) {
	t.Parallel()
	s := snapshotOf(t, newFake(t))
	must.Len(t, 0, s.Warnings)
	must.Len(t, 3, s.Nodes)

	v1 := nodeOf(t, s, "v1")
	must.Eq(t, "dc1", v1.Datacenter)
	must.Eq(t, "default", v1.Pool)
	must.True(t, v1.Ready)
	must.Eq(t, []string{"exec", "raw_exec"}, v1.Drivers)
	must.Eq(t, "1.11.3", v1.Attributes["nomad.version"])
	must.Eq(t, cluster.Capacity{Total: 5192, Free: 5172}, v1.CPU)
	must.Eq(t, cluster.Capacity{Total: 24105, Free: 24073}, v1.MemoryMiB)
	g := v1.Groups[0]
	must.Eq(t, "nvidia/gpu/Tesla V100-SXM2-16GB", g.Name())
	must.Eq(t, 8, g.Topology.Size())
	must.Eq(t, 2, g.Topology.Links(0, 3))
	must.Eq(t, g.Topology.Encode(), g.TopologyText)
	must.Eq(t, cluster.NumberValue(16384, "MiB"), g.Attributes["memory"])
	must.Eq(t, cluster.TextValue("7.0"), g.Attributes["compute_capability"])
	_, hasTopology := g.Attributes["unique.topology"]
	must.False(t, hasTopology)
	for i := range 7 {
		must.Less(t, g.Devices[i+1].PCIBusID, g.Devices[i].PCIBusID)
	}
	held := map[string]int{}
	for _, n := range s.Nodes {
		for _, d := range n.Groups[0].Devices {
			must.True(t, d.Healthy)
			if d.Use.Held() {
				held[d.Use.JobID]++
				must.Eq(t, "default", d.Use.Namespace)
				must.Eq(t, "g", d.Use.Group)
			}
		}
	}
	// job-0-3 is complete: its GPU is free again.
	must.Eq(t, map[string]int{"job-0-0": 2, "job-0-2": 2, "job-0-4": 4, "job-0-5": 2, "job-0-6": 1, "job-0-7": 2}, held)
}

func TestPlacementWorksOnARealSnapshot(t *testing.T) {
	t.Parallel()
	s := snapshotOf(t, newFake(t))
	ask := cluster.Ask{Namespace: "default", JobID: "new", Type: "batch", Groups: []cluster.GroupAsk{{Name: "g", Count: 1,
		Drivers: []string{"raw_exec"}, Devices: []cluster.DeviceAsk{{Task: "t", Name: "nvidia/gpu/Tesla V100-SXM2-16GB", Count: 4}}}}}
	_, explanation := place.New().Place(s, ask)
	must.Len(t, 1, explanation.Groups[0].Choices)
	must.Eq(t, "v1", explanation.Groups[0].Choices[0].Node)
	must.Eq(t, "fully NVLinked set of 4", explanation.Groups[0].Choices[0].Sets[0].Link)
}

func TestAllocationsOfAJobForVerification(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	allocs, err := nomadstate.New(f).Allocations(context.Background(), "default", "job-0-0", 0)
	must.NoError(t, err)
	must.Len(t, 1, allocs)
	must.Eq(t, "g", allocs[0].Group)
	must.Eq(t, f.node("v1").ID, allocs[0].NodeID)
	must.Len(t, 2, allocs[0].Devices["main"])

	after, err := nomadstate.New(f).Allocations(context.Background(), "default", "job-0-0", f.allocs[0].CreateIndex)
	must.NoError(t, err)
	must.Len(t, 0, after)
}

func TestGPUsStayTakenUntilTheClientLetsGo(t *testing.T) {
	t.Parallel()
	for status, held := range map[string]bool{"pending": true, "running": true, "unknown": true,
		"complete": false, "failed": false, "lost": false} {
		f := newFake(t)
		f.allocs = f.allocs[:1]
		f.allocs[0].ClientStatus, f.allocs[0].DesiredStatus = status, "stop"
		var uses []cluster.Use
		for _, d := range nodeOf(t, snapshotOf(t, f), "v1").Groups[0].Devices {
			if d.Use.Held() {
				uses = append(uses, d.Use)
			}
		}
		must.Eq(t, held, len(uses) == 2, must.Sprint(status))
		for _, u := range uses {
			must.True(t, u.Stopping)
		}
	}
}

// Nomad gives the GPUs of an allocation that stops to its successor, which waits for it: they
// are the successor's.
func TestGPUsOfAnAllocationThatStopsAreItsSuccessors(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"00000000-0000-0000-0000-000000000001", "ffffffff-0000-0000-0000-000000000001"} {
		for _, order := range []bool{true, false} {
			f := newFake(t)
			f.allocs = f.allocs[:1]
			before := *f.allocs[0]
			before.ID, before.DesiredStatus = first, "stop"
			f.allocs = append(f.allocs, &before)
			if order {
				slices.Reverse(f.allocs)
			}
			s, held := snapshotOf(t, f), 0
			for _, d := range nodeOf(t, s, "v1").Groups[0].Devices {
				if d.Use.Held() {
					held++
					must.False(t, d.Use.Stopping)
					must.NotEq(t, first, d.Use.AllocID)
				}
			}
			must.Eq(t, 2, held)
			must.True(t, s.Holds("default", before.JobID))
		}
	}
}

func TestNodesThatTakeNoWorkAreNotReady(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*api.NodeListStub){
		"down":       func(n *api.NodeListStub) { n.Status = "down" },
		"draining":   func(n *api.NodeListStub) { n.Drain = true },
		"ineligible": func(n *api.NodeListStub) { n.SchedulingEligibility = "ineligible" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			change(f.node("v1"))
			must.False(t, nodeOf(t, snapshotOf(t, f), "v1").Ready)
		})
	}
}

func TestWhereANodeIsInTheNetwork(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	name, clique := "7f0c", int64(3)
	for _, d := range f.node("v1").NodeResources.Devices {
		d.Attributes["fabric_cluster"] = &api.Attribute{StringVal: &name}
		d.Attributes["fabric_clique"] = &api.Attribute{IntVal: &clique}
	}
	s, err := nomadstate.New(f).WithFabric(nomadstate.Fabric{Rack: "${node.datacenter}", Block: "${meta.nobody.has.this}"}).Snapshot(context.Background())
	must.NoError(t, err)
	v1 := nodeOf(t, s, "v1")
	must.Eq(t, "dc1", v1.Rack)
	must.Eq(t, "", v1.Block)
	must.Eq(t, "7f0c/3", v1.Clique)
	must.Eq(t, "", nodeOf(t, s, "v2").Clique)
	must.Eq(t, "", nodeOf(t, snapshotOf(t, f), "v1").Rack, must.Sprint("nothing says so"))
}

func TestNodesWithoutGPUsAreLeftOut(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.node("v1").NodeResources.Devices[0].Type = "fpga"
	f.node("v2").NodeResources = nil
	s := snapshotOf(t, f)
	must.Len(t, 1, s.Nodes)
	must.Eq(t, "l40s", s.Nodes[0].Name)
}

func TestAnUnusableTopologyIsAWarning(t *testing.T) {
	t.Parallel()
	const who, consequence = "node l40s: nvidia/gpu/NVIDIA L40S: ", "; GPUs are chosen in PCI order"
	attribute := func(text string) *api.Attribute { return &api.Attribute{StringVal: &text} }
	cases := map[string]struct {
		change func(*api.NodeDeviceResource)
		want   string
	}{
		"missing":   {func(d *api.NodeDeviceResource) { delete(d.Attributes, "unique.topology") }, "publishes no unique.topology"},
		"malformed": {func(d *api.NodeDeviceResource) { d.Attributes["unique.topology"] = attribute("1;4;0") }, "malformed topology: 3 parts separated by ';', want 7"},
		"of another size": {func(d *api.NodeDeviceResource) {
			d.Attributes["unique.topology"] = attribute(topology.New(2, 0, 0).Encode())
		}, "the topology is of 2 GPUs, the group has 4"},
		"bus id missing": {func(d *api.NodeDeviceResource) { d.Instances[0].ID, d.Instances[0].Locality = "GPU-x", nil },
			"device GPU-x has no PCI bus id of its own"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			c.change(f.node("l40s").NodeResources.Devices[0])
			s := snapshotOf(t, f)
			must.Eq(t, []string{who + c.want + consequence}, s.Warnings)
			must.Nil(t, nodeOf(t, s, "l40s").Groups[0].Topology)
		})
	}
	f := newFake(t)
	f.node("l40s").NodeResources.Devices[0].Type = "mig"
	delete(f.node("l40s").NodeResources.Devices[0].Attributes, "unique.topology")
	must.Len(t, 0, snapshotOf(t, f).Warnings) // slices have no links
}

// What is too much for one mask is several groups, whose order is the same whoever has what.
func TestManySharesAreSeveralGroups(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	d := f.node("l40s").NodeResources.Devices[0]
	d.Type = "gpu-share"
	delete(d.Attributes, "unique.topology")
	whole := d.Instances
	d.Instances = nil
	for _, gpu := range whole {
		for n := range 20 {
			d.Instances = append(d.Instances, &api.NodeDevice{ID: fmt.Sprintf("%s::%d", gpu.ID, n), Healthy: true, Locality: gpu.Locality})
		}
	}
	groups := nodeOf(t, snapshotOf(t, f), "l40s").Groups
	must.Len(t, 2, groups)
	must.Eq(t, groups[0].Name(), groups[1].Name())
	must.Eq(t, []int{64, 16}, []int{len(groups[0].Devices), len(groups[1].Devices)})
	for _, g := range groups {
		must.Eq(t, cluster.Share, g.Part)
		must.Eq(t, 4, g.Room(g.All()))
	}
	for _, instance := range d.Instances[:40] {
		instance.Healthy = false
	}
	for i, g := range nodeOf(t, snapshotOf(t, f), "l40s").Groups {
		for j, d := range g.Devices {
			must.Eq(t, groups[i].Devices[j].ID, d.ID)
		}
	}
}

func TestBusIDsOfOtherPluginsSortTheSame(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	want := nodeOf(t, snapshotOf(t, newFake(t)), "v1").Groups[0].Devices
	for _, instance := range f.node("v1").NodeResources.Devices[0].Instances {
		instance.Locality.PciBusID = "0000" + strings.ToUpper(instance.Locality.PciBusID) + "\x00\x00"
	}
	must.Eq(t, want, nodeOf(t, snapshotOf(t, f), "v1").Groups[0].Devices)
}

func TestNodeAttributesAreReadOncePerVersion(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	r := nomadstate.New(f)
	path := "/v1/node/" + f.node("v1").ID
	for range 3 {
		_, err := r.Snapshot(context.Background())
		must.NoError(t, err)
	}
	must.Eq(t, 1, f.reads[path])
	f.node("v1").ModifyIndex++
	_, err := r.Snapshot(context.Background())
	must.NoError(t, err)
	must.Eq(t, 2, f.reads[path])
}

func TestOneUnreadableNodeDoesNotStopPlacement(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	path := "/v1/node/" + f.node("v1").ID
	f.broken[path] = errors.New("node not found")
	r := nomadstate.New(f)
	s, err := r.Snapshot(context.Background())
	must.NoError(t, err)
	must.Eq(t, []string{"node v1: attributes not read, constraints on them are left to Nomad: node not found"}, s.Warnings)
	must.Nil(t, nodeOf(t, s, "v1").Attributes)

	delete(f.broken, path)
	s, err = r.Snapshot(context.Background())
	must.NoError(t, err)
	must.Len(t, 0, s.Warnings)
	must.MapNotEmpty(t, nodeOf(t, s, "v1").Attributes)
}

func TestAnUnreadableClusterIsAnError(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"/v1/nodes": "read nodes: no leader", "/v1/allocations": "read allocations: no leader"} {
		f := newFake(t)
		f.broken[path] = errors.New("no leader")
		_, err := nomadstate.New(f).Snapshot(context.Background())
		must.EqError(t, err, want)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := nomadstate.New(newFake(t)).Snapshot(cancelled)
	must.ErrorIs(t, err, context.Canceled)
}

// A reader that has read before says what one says that never did, and the very same again
// while nothing changes.
func TestWhatWasReadBeforeChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		f := newFake(t)
		r := nomadstate.New(f)
		index := uint64(1_000_000)
		for range 5 {
			got := snapshotFrom(t, r)
			must.Eq(t, snapshotOf(t, f), got)
			again := snapshotFrom(t, r)
			must.True(t, got.Same(&again))
			index++
			switch change := rapid.IntRange(0, 3).Draw(rt, "change"); {
			case change == 0:
				n := f.nodes[rapid.IntRange(0, len(f.nodes)-1).Draw(rt, "node")]
				n.Drain, n.ModifyIndex = !n.Drain, index
			case change == 1 && len(f.allocs) > 0:
				at := rapid.IntRange(0, len(f.allocs)-1).Draw(rt, "gone")
				f.allocs = slices.Delete(f.allocs, at, at+1)
			case len(f.allocs) > 0:
				a := f.allocs[rapid.IntRange(0, len(f.allocs)-1).Draw(rt, "allocation")]
				a.DesiredStatus, a.ModifyIndex = rapid.SampledFrom([]string{"run", "stop"}).Draw(rt, "status"), index
			}
		}
	})
}

func snapshotFrom(t testing.TB, r *nomadstate.Reader) cluster.Snapshot {
	s, err := r.Snapshot(t.Context())
	must.NoError(t, err)
	return s
}

// While a node cannot be read, nothing is taken for unchanged.
func TestANodeIsReadAgainUntilItCanBe(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	path := "/v1/node/" + f.nodes[0].ID
	f.broken[path] = errors.New("no answer")
	r := nomadstate.New(f)
	must.Len(t, 1, snapshotFrom(t, r).Warnings)
	delete(f.broken, path)
	must.Len(t, 0, snapshotFrom(t, r).Warnings)
}

// quiet is a Nomad in which nothing changes: queries that wait do so.
type quiet struct {
	*fakeNomad
}

func (q *quiet) Query(path string, out any, o *api.QueryOptions) (*api.QueryMeta, error) {
	if o.PerPage == 1 {
		if o.WaitIndex == 7 {
			select {
			case <-time.After(o.WaitTime):
			case <-o.Context().Done():
				return nil, o.Context().Err()
			}
		}
		return &api.QueryMeta{LastIndex: 7}, nil
	}
	return q.fakeNomad.Query(path, out, o)
}

func TestANodeThatCouldNotBeReadIsReadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		at := "/v1/node/" + f.node("l40s").ID
		f.broken[at] = errors.New("timeout")
		s := nomadstate.NewShared(nomadstate.New(&quiet{fakeNomad: f}), time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		go s.Follow(ctx)
		time.Sleep(time.Second)
		first, err := s.SnapshotSince(t.Context(), time.Now())
		must.NoError(t, err)
		must.Len(t, 1, first.Warnings)
		f.mu.Lock()
		delete(f.broken, at)
		f.mu.Unlock()
		time.Sleep(10 * time.Second) // less than for how long a snapshot may be kept
		again, err := s.SnapshotSince(t.Context(), time.Now())
		must.NoError(t, err)
		cancel()
		synctest.Wait()
		must.SliceEmpty(t, again.Warnings, must.Sprint("ten seconds later"))
	})
}
