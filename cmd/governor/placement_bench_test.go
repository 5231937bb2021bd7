package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	nomad "github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/load"
	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/nomad-governor/governor/scheduler/nomadstate"
)

// benchNodes is the size of the cluster of BenchmarkPlacementAPI.
const benchNodes = 1000

// largeNomad is a Nomad with many machines of eight GPUs, cube meshes and NVSwitches in
// turns, on which jobs of one, two and four GPUs run.
func largeNomad(tb testing.TB) http.HandlerFunc {
	mesh, full := topology.New(8, 25781, 15750), topology.New(8, 26562, 63000)
	full.SetSwitched(true)
	for i := range 8 {
		for j := range i {
			full.Set(i, j, 18, topology.PathSystem)
			mesh.Set(i, j, 0, topology.PathSystem)
		}
	}
	for links, pairs := range [][][2]int{1: {{0, 1}, {0, 2}, {1, 3}, {2, 6}, {3, 7}, {4, 5}, {4, 6}, {5, 7}}, 2: {{0, 3}, {0, 4}, {1, 2}, {1, 5}, {2, 3}, {4, 7}, {5, 6}, {6, 7}}} {
		for _, p := range pairs {
			mesh.Set(p[0], p[1], links, topology.PathSystem)
		}
	}
	var nodes []*nomad.NodeListStub
	var allocs []*nomad.AllocationListStub
	for i := range benchNodes {
		text, model := mesh.Encode(), "Tesla V100-SXM2-16GB"
		if i%2 == 1 {
			text, model = full.Encode(), "NVIDIA H100 80GB HBM3"
		}
		n := &nomad.NodeListStub{ID: fmt.Sprintf("%08x-0000-4000-8000-%012x", i*2654435761%(1<<32), i), Name: fmt.Sprintf("gpu-%04d", i), Datacenter: "dc1",
			NodePool: "default", Status: nomad.NodeStatusReady, SchedulingEligibility: nomad.NodeSchedulingEligible, ModifyIndex: 7,
			Drivers: map[string]*nomad.DriverInfo{"docker": {Detected: true, Healthy: true}}, NodeResources: &nomad.NodeResources{}}
		n.NodeResources.Cpu.CpuShares, n.NodeResources.Memory.MemoryMB = 128_000, 1_024_000
		devices := &nomad.NodeDeviceResource{Vendor: gpu.Vendor, Type: gpu.TypeGPU, Name: model, Attributes: map[string]*nomad.Attribute{gpu.AttrTopology: {StringVal: &text}}}
		var ids []string
		for j := range 8 {
			ids = append(ids, fmt.Sprintf("GPU-%08x-%04d-4000-8000-%012x", i, j, i))
			devices.Instances = append(devices.Instances, &nomad.NodeDevice{ID: ids[j], Healthy: true, Locality: &nomad.NodeDeviceLocality{PciBusID: fmt.Sprintf("0000:%02x:00.0", j+1)}})
		}
		n.NodeResources.Devices = []*nomad.NodeDeviceResource{devices}
		nodes = append(nodes, n)
		for at := i % 4; at < 8; { // from idle but for some to full
			size := min(8-at, []int{1, 2, 4}[(i+at)%3])
			if (i*7+at)%5 > 0 {
				res := &nomad.AllocatedTaskResources{Devices: []*nomad.AllocatedDeviceResource{{Vendor: gpu.Vendor, Type: gpu.TypeGPU, Name: model, DeviceIDs: ids[at : at+size]}}}
				res.Cpu.CpuShares, res.Memory.MemoryMB = int64(size)*8000, int64(size)*64_000
				allocs = append(allocs, &nomad.AllocationListStub{ID: fmt.Sprintf("a-%d-%d", i, at), Namespace: "default", JobID: fmt.Sprintf("job-%d-%d", i, at), TaskGroup: "g", NodeID: n.ID,
					DesiredStatus: nomad.AllocDesiredStatusRun, ClientStatus: nomad.AllocClientStatusRunning,
					AllocatedResources: &nomad.AllocatedResources{Tasks: map[string]*nomad.AllocatedTaskResources{"main": res}}})
			}
			at += size + i%3
		}
	}
	answers := map[string][]byte{}
	for path, v := range map[string]any{"/v1/nodes": nodes, "/v1/allocations": allocs} {
		raw, err := json.Marshal(v)
		must.NoError(tb, err)
		answers[path] = raw
	}
	return func(w http.ResponseWriter, r *http.Request) {
		raw, ok := answers[r.URL.Path]
		if strings.HasPrefix(r.URL.Path, "/v1/node/") {
			raw, ok = []byte(`{"Attributes": {"cpu.arch": "amd64"}, "Meta": {}}`), true
		}
		if !ok {
			stubNomad(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(raw)
	}
}

// BenchmarkPlacementAPI asks over HTTP, as somebody with a token whom Nomad knows, where
// GPUs would be given, while the snapshot of the cluster is read anew each second. The
// handler beside it reads as much and answers as much, and does nothing else. Clients and
// servers share the machine.
func BenchmarkPlacementAPI(b *testing.B) {
	behind := httptest.NewServer(largeNomad(b))
	defer behind.Close()
	address, err := url.Parse(behind.URL)
	must.NoError(b, err)
	config := agentconfig.Default()
	config.Nomad.Address, config.Nomad.Token = behind.URL, "root"
	client, err := nomadClient(config.Nomad, nomadevents.NewClock(time.Now), hclog.NewNullLogger())
	must.NoError(b, err)
	p := newPlacer(nomadstate.New(client.Raw()), nil, time.Now, *config.Placement, false)
	transport, err := nomadTransport(config.Nomad, hclog.NewNullLogger())
	must.NoError(b, err)
	g, err := gate.New(gate.Config{Nomad: address, Transport: transport, Region: "global", Admitter: new(agent.Engine)})
	must.NoError(b, err)
	routes := p.routes(func(gate.Submission) agent.Placing { return agent.Placing{} })
	ours := httptest.NewServer(api.Handler(routes, authorize(g), func(_ *http.Request, err error) { b.Error(err) }))
	defer ours.Close()

	asks := []string{`{"gpus":1,"cpu":8000,"memory":64000}`, `{"gpus":2,"cpu":8000,"memory":64000}`, `{"gpus":4,"cpu":16000,"memory":128000}`,
		`{"gpus":8,"cpu":32000,"memory":256000}`, `{"gpus":2,"device":"nvidia/gpu/NVIDIA H100 80GB HBM3"}`,
		`{"gpus":3,"constraints":[{"attribute":"${attr.cpu.arch}","value":"amd64"}]}`}
	question := func(i int) load.Request {
		return load.Request{Method: "POST", Path: "/governor/v1/placement", Token: "user", Body: asks[i%len(asks)]}
	}
	answer := firstAnswer(b, ours.URL, question(1))
	trivial := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	}))
	defer trivial.Close()
	const clients, turns, each = 16, 5, 20_000
	var got, peer []load.Result
	var costs, peerCosts, ratios []float64
	for b.Loop() {
		for range turns {
			measure := func(address string) (load.Result, float64) {
				began := cpuTime()
				r, err := load.MeasureRaw(address, clients, each, question)
				must.NoError(b, err)
				return r, float64((cpuTime() - began).Microseconds()) / each
			}
			beside, besideCost := measure(trivial.URL)
			r, cost := measure(ours.URL)
			got, peer, ratios = append(got, r), append(peer, beside), append(ratios, r.PerSecond/beside.PerSecond)
			costs, peerCosts = append(costs, cost), append(peerCosts, besideCost)
		}
	}
	reportTurns(b, "", got, costs)
	reportTurns(b, "trivial-", peer, peerCosts)
	b.ReportMetric(load.Median(ratios), "ratio")
}

// reportTurns gives the medians of some turns, and the CPU time that a request takes: that of
// clients, servers and the Nomad behind them together.
func reportTurns(b *testing.B, prefix string, turns []load.Result, costs []float64) {
	var rates []float64
	var slow []time.Duration
	for _, r := range turns {
		rates, slow = append(rates, r.PerSecond), append(slow, r.P99)
	}
	b.ReportMetric(load.Median(rates), prefix+"answers/s")
	b.ReportMetric(float64(load.Median(slow).Microseconds())/1000, prefix+"p99-ms")
	b.ReportMetric(load.Median(costs), prefix+"cpu-µs")
}

// cpuTime is what the process has computed.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// firstAnswer is what one request is answered with.
func firstAnswer(tb testing.TB, address string, q load.Request) []byte {
	r, err := http.NewRequest(q.Method, address+q.Path, strings.NewReader(q.Body))
	must.NoError(tb, err)
	r.Header.Set("X-Nomad-Token", q.Token)
	response, err := http.DefaultClient.Do(r)
	must.NoError(tb, err)
	defer func() { must.NoError(tb, response.Body.Close()) }()
	raw, err := io.ReadAll(response.Body)
	must.NoError(tb, err)
	must.Eq(tb, 200, response.StatusCode, must.Sprint(string(raw)))
	return raw
}
