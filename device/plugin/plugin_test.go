package plugin

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"
	"go.uber.org/goleak"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
	"github.com/nomad-governor/governor/internal/gpu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a source with state: GPUs that can fail, an NVML that can be away,
// calls that can hang until released.
type node struct {
	mu       sync.Mutex
	gpus     int
	lost     map[int]string
	err      error
	hang     chan struct{} // nil: calls return
	xids     chan inventory.Event
	reads    int
	released int
	closed   bool
}

func newNode(gpus int) *node {
	return &node{gpus: gpus, lost: map[int]string{}, xids: make(chan inventory.Event, 10)}
}

func id(i int) string { return fmt.Sprintf("GPU-0000000%d-0000-0000-0000-000000000000", i) }

func (n *node) enter() (hang chan struct{}, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hang, n.err
}

func (n *node) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func (n *node) Read() (inventory.Readings, error) {
	hang, err := n.enter()
	if hang != nil {
		<-hang
	}
	if err != nil {
		return inventory.Readings{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reads++
	r := inventory.Readings{DriverVersion: "550"}
	for i := range n.gpus {
		if reason := n.lost[i]; reason != "" {
			r.GPUs = append(r.GPUs, inventory.GPU{Index: i, Failure: reason})
			continue
		}
		r.GPUs = append(r.GPUs, inventory.GPU{Index: i, UUID: id(i), Name: "Card",
			PCIBusID: fmt.Sprintf("0000:%02x:00.0", i+1), RecoveryAction: inventory.Known[int64](0)})
	}
	return r, nil
}

func (n *node) Sample() ([]inventory.Sample, error) {
	_, err := n.enter()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var samples []inventory.Sample
	for i := range n.gpus {
		if n.lost[i] == "" {
			samples = append(samples, inventory.Sample{UUID: id(i),
				MemoryUsedMiB: inventory.Known[int64](1), MemoryTotalMiB: inventory.Known[int64](10)})
		}
	}
	return samples, nil
}

func (n *node) Watch(timeout time.Duration) (inventory.Watched, error) {
	hang, err := n.enter()
	if hang != nil {
		<-hang
	}
	if err != nil {
		return inventory.Watched{}, err
	}
	var w inventory.Watched
	select {
	case e := <-n.xids:
		w.Events = []inventory.Event{e}
	case <-time.After(timeout):
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	w.Digest = fmt.Sprint(n.lost)
	return w, nil
}

func (n *node) Release() { n.set(func() { n.released++ }) }

func (n *node) Close() { n.set(func() { n.closed = true }) }

// parts are a plugin's with nothing but a source.
func parts(s Source) Parts { return Parts{Source: func(Settings) Source { return s }} }

// start serves the node with short periods; the test's end checks that Close
// leaves no goroutine.
func start(t *testing.T, n *node, change func(*deviceconfig.Block)) *Plugin {
	t.Helper()
	wire := deviceconfig.Default()
	wire.FingerprintPeriod, wire.HealthPeriod, wire.StateDir = "1s", "100ms", t.TempDir()
	if change != nil {
		change(&wire)
	}
	p := New(hclog.NewNullLogger(), parts(n), time.Now)
	must.NoError(t, p.SetConfig(&base.Config{PluginConfig: encode(t, wire)}))
	t.Cleanup(func() {
		must.NoError(t, p.Close())
		must.True(t, n.closed)
	})
	return p
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	var raw []byte
	must.NoError(t, base.MsgPackEncode(&raw, v))
	return raw
}

// follow is a fingerprint stream whose latest message can be asked for.
type follow struct {
	mu     sync.Mutex
	latest *device.FingerprintResponse
	count  int
	ended  bool
}

func fingerprint(t *testing.T, p *Plugin) *follow {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := p.Fingerprint(ctx)
	must.NoError(t, err)
	f := &follow{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for r := range stream {
			f.mu.Lock()
			f.latest = r
			f.count++
			f.mu.Unlock()
		}
		f.mu.Lock()
		f.ended = true
		f.mu.Unlock()
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return f
}

// health is the health of each device in the latest message; nil before one.
func (f *follow) health() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.latest == nil {
		return nil
	}
	if f.latest.Error != nil || f.ended {
		panic("the stream ended or carried an error")
	}
	health := map[string]string{}
	for _, g := range f.latest.Devices {
		for _, d := range g.Devices {
			if d.Healthy != (d.HealthDesc == "") {
				panic("healthy and described as not")
			}
			health[d.ID] = d.HealthDesc
		}
	}
	return health
}

func eventually(t *testing.T, f *follow, want map[string]string) {
	t.Helper()
	must.Wait(t, wait.InitialSuccess(
		wait.ErrorFunc(func() error {
			got := f.health()
			if got == nil || len(got) != len(want) {
				return fmt.Errorf("got %q, want %q", got, want)
			}
			for k, v := range want {
				if got[k] != v {
					return fmt.Errorf("got %q, want %q", got, want)
				}
			}
			return nil
		}), wait.Timeout(10*time.Second), wait.Gap(5*time.Millisecond)))
}

func TestFirstResponseOfANodeWithoutDriverIsEmptyAndTheDriverMayComeLater(t *testing.T) {
	n := newNode(2)
	n.err = errors.New("NVML library not found")
	f := fingerprint(t, start(t, n, nil))
	eventually(t, f, map[string]string{})
	n.set(func() { n.err = nil })
	eventually(t, f, map[string]string{id(0): "", id(1): ""})
}

func TestLostGPUIsUnhealthyAndRecovers(t *testing.T) {
	n := newNode(2)
	f := fingerprint(t, start(t, n, nil))
	eventually(t, f, map[string]string{id(0): "", id(1): ""})
	n.set(func() { n.lost[1] = "gpu_lost: off the bus" })
	eventually(t, f, map[string]string{id(0): "", id(1): "gpu_lost: off the bus"})
	n.set(func() { delete(n.lost, 1) })
	eventually(t, f, map[string]string{id(0): "", id(1): ""})
}

func TestNVMLThatDiesMakesAllUnhealthyAndTheStreamLives(t *testing.T) {
	n := newNode(1)
	f := fingerprint(t, start(t, n, nil))
	eventually(t, f, map[string]string{id(0): ""})
	n.set(func() { n.err = errors.New("driver not loaded") })
	eventually(t, f, map[string]string{id(0): "nvml_unavailable: driver not loaded"})
	n.set(func() { n.err = nil })
	eventually(t, f, map[string]string{id(0): ""})
}

func TestHangingDriverMakesAllUnhealthyUntilItReturns(t *testing.T) {
	n := newNode(1)
	p := start(t, n, nil)
	p.callTimeout = 200 * time.Millisecond
	f := fingerprint(t, p)
	eventually(t, f, map[string]string{id(0): ""})
	release := make(chan struct{})
	n.set(func() { n.hang = release })
	eventually(t, f, map[string]string{id(0): "nvml_hang: a call into the driver does not return"})
	_, err := p.Reserve([]string{id(0)})
	must.ErrorContains(t, err, "nvml_hang")
	n.set(func() { n.hang = nil })
	close(release)
	eventually(t, f, map[string]string{id(0): ""})
}

func TestXIDMakesItsGPUUnhealthyAtOnce(t *testing.T) {
	n := newNode(2)
	f := fingerprint(t, start(t, n, nil))
	eventually(t, f, map[string]string{id(0): "", id(1): ""})
	n.xids <- inventory.Event{UUID: id(0), XID: 79}
	eventually(t, f, map[string]string{id(0): "xid_79: the GPU has fallen off the bus", id(1): ""})
	eventually(t, f, map[string]string{id(0): "", id(1): ""}) // the driver asks for nothing
}

func TestUnchangedReadingsSendNothing(t *testing.T) {
	n := newNode(4)
	f := fingerprint(t, start(t, n, nil))
	eventually(t, f, map[string]string{id(0): "", id(1): "", id(2): "", id(3): ""})
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.reads >= 4
	}), wait.Timeout(20*time.Second)))
	must.Eq(t, 1, f.count)
}

func TestReserve(t *testing.T) {
	n := newNode(4)
	n.lost[3] = "gpu_lost: off the bus"
	p := start(t, n, func(c *deviceconfig.Block) { c.IgnoredGPUIDs = []string{id(2)} })
	f := fingerprint(t, p)
	eventually(t, f, map[string]string{id(0): "", id(1): ""})
	n.set(func() { n.lost[3] = "" })
	eventually(t, f, map[string]string{id(0): "", id(1): "", id(3): ""})
	n.set(func() { n.lost[3] = "gpu_lost: off the bus" })
	eventually(t, f, map[string]string{id(0): "", id(1): "", id(3): "gpu_lost: off the bus"})

	r, err := p.Reserve([]string{id(1), id(0)})
	must.NoError(t, err)
	want := id(0) + "," + id(1) // in the order of the topology, whatever Nomad's
	must.Eq(t, map[string]string{gpu.EnvCUDAVisible: want, gpu.EnvNVIDIAVisible: want}, r.Envs)

	for name, tc := range map[string]struct {
		ids  []string
		text string
	}{
		"unknown":   {[]string{"GPU-x"}, "reserve GPU GPU-x: this node has no such GPU; it has nvidia/gpu/Card[" + id(0) + "]"},
		"ignored":   {[]string{id(2)}, "this node has no such GPU"},
		"unhealthy": {[]string{id(0), id(3)}, "reserve GPU " + id(3) + " (gpu_lost: off the bus): unhealthy; Nomad will place the allocation again"},
		"twice":     {[]string{id(0), id(0)}, "it is asked for twice"},
		"none":      {nil, "Nomad gave no device ids"},
	} {
		_, err := p.Reserve(tc.ids)
		must.ErrorContains(t, err, tc.text, must.Sprint(name))
	}
}

func TestStatsListEveryDeviceWhateverFails(t *testing.T) {
	n := newNode(3)
	p := start(t, n, nil)
	f := fingerprint(t, p)
	eventually(t, f, map[string]string{id(0): "", id(1): "", id(2): ""})
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := p.Stats(ctx, time.Millisecond)
	must.NoError(t, err)
	defer func() {
		cancel()
		for range stream { // ends
		}
	}()
	next := func(ready func(map[string]*device.DeviceStats) bool) map[string]*device.DeviceStats {
		for range 200 {
			r, open := <-stream
			must.True(t, open)
			must.Nil(t, r.Error)
			must.Len(t, 1, r.Groups)
			stats := r.Groups[0].InstanceStats
			for i := range 3 {
				must.NotNil(t, stats[id(i)])
				must.NotNil(t, stats[id(i)].Summary)
				must.NotNil(t, stats[id(i)].Stats)
				must.False(t, stats[id(i)].Timestamp.IsZero())
			}
			if ready(stats) {
				return stats
			}
		}
		t.Fatal("the stats never showed it")
		return nil
	}
	stats := next(func(map[string]*device.DeviceStats) bool { return true })
	must.Eq(t, 1, *stats[id(0)].Summary.IntNumeratorVal)
	must.Eq(t, 10, *stats[id(0)].Summary.IntDenominatorVal)

	n.set(func() { n.lost[1] = "gpu_lost: off the bus" })
	stats = next(func(s map[string]*device.DeviceStats) bool {
		text := s[id(1)].Summary.StringVal // first that it did not answer, then why
		return text != nil && *text == "unhealthy: gpu_lost: off the bus"
	})
	must.Eq(t, "gpu_lost: off the bus", *stats[id(1)].Stats.Attributes["health"].StringVal)
	must.NotNil(t, stats[id(0)].Summary.IntNumeratorVal)

	n.set(func() { n.err = errors.New("driver not loaded") })
	next(func(s map[string]*device.DeviceStats) bool { return s[id(0)].Summary.StringVal != nil })
}

func TestStreamsEndWithTheirContextAndOthersGoOn(t *testing.T) {
	n := newNode(1)
	p := start(t, n, nil)
	ctx, cancel := context.WithCancel(context.Background())
	first, err := p.Fingerprint(ctx)
	must.NoError(t, err)
	second := fingerprint(t, p)
	eventually(t, second, map[string]string{id(0): ""})
	cancel() // nobody reads: the stream must not wait for a reader
	for range first {
	}
	n.set(func() { n.lost[0] = "gpu_lost" })
	eventually(t, second, map[string]string{id(0): "gpu_lost"})
}

func TestDisabledPluginSaysSo(t *testing.T) {
	n := newNode(1)
	n.closed = true // never opened
	p := start(t, n, func(c *deviceconfig.Block) { c.Enabled = false })
	_, err := p.Fingerprint(context.Background())
	must.ErrorIs(t, err, device.ErrPluginDisabled)
}

func TestConfigThatIsWrongIsRefused(t *testing.T) {
	t.Parallel()
	block := deviceconfig.Default()
	block.HealthPeriod = "-1s"
	for text, raw := range map[string][]byte{
		"health_period is -1s; it must be between 100ms and 1h0m0s": encode(t, block),
		"decode the plugin block":                                   {0xc1},
	} {
		p := New(hclog.NewNullLogger(), Parts{}, time.Now)
		must.ErrorContains(t, p.SetConfig(&base.Config{PluginConfig: raw}), text)
	}
}

func TestGuardRefusesASecondCallWhileOneHangs(t *testing.T) {
	t.Parallel()
	g := newGuard(time.Now)
	release := make(chan struct{})
	hang := func() (int, error) { <-release; return 1, nil }
	_, err := call(context.Background(), g, "read", 10*time.Millisecond, hang)
	must.ErrorContains(t, err, "nvml_hang: read has not returned for 10ms")
	_, err = call(context.Background(), g, "read", time.Hour, func() (int, error) { return 2, nil })
	must.ErrorContains(t, err, "nvml_hang: read")
	got, err := call(context.Background(), g, "other", time.Hour, func() (int, error) { return 3, nil })
	must.NoError(t, err)
	must.Eq(t, 3, got)
	close(release)
	must.True(t, g.wait(10*time.Second))
	got, err = call(context.Background(), g, "read", time.Hour, func() (int, error) { return 4, nil })
	must.NoError(t, err)
	must.Eq(t, 4, got)
	must.True(t, g.wait(10*time.Second))
}

type worded struct{ error }

func (worded) Reason() string { return "nvml_worker: it ended" }

func TestErrorThatIsAHealthDescriptionIsUsedAsItIs(t *testing.T) {
	n := newNode(1)
	f := fingerprint(t, start(t, n, nil))
	eventually(t, f, map[string]string{id(0): ""})
	n.set(func() { n.err = fmt.Errorf("read: %w", worded{errors.New("signal: killed")}) })
	eventually(t, f, map[string]string{id(0): "nvml_worker: it ended"})
}

func TestProcessesOfThePluginAreNoPlugins(t *testing.T) {
	t.Parallel()
	environ := []string{"PATH=/bin", base.Handshake.MagicCookieKey + "=" + base.Handshake.MagicCookieValue, "PLUGIN_MIN_PORT=1", "NVIDIA_X=y"}
	must.Eq(t, []string{"PATH=/bin", "NVIDIA_X=y"}, WithoutHandshake(environ))
	must.Len(t, 4, environ)
}

// closing is a node whose Close lets go of the calls that hang, as killing a
// worker does.
type closing struct {
	*node
	release func()
}

func (c closing) Close() {
	c.release()
	c.node.Close()
}

func TestCloseEndsCallsThatHang(t *testing.T) {
	n := newNode(1)
	hang := make(chan struct{})
	source := closing{n, sync.OnceFunc(func() { close(hang) })}
	p := New(hclog.NewNullLogger(), parts(source), time.Now)
	p.settings.StateDir = t.TempDir()
	p.callTimeout = 100 * time.Millisecond
	f := fingerprint(t, p)
	eventually(t, f, map[string]string{id(0): ""})
	n.set(func() { n.hang = hang })
	eventually(t, f, map[string]string{id(0): "nvml_hang: a call into the driver does not return"})
	must.NoError(t, p.Close())
	must.True(t, n.closed)
}
