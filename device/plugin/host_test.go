package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// host is a node whose GPUs say everything that a GPU can say. They are bridged
// in pairs, 0 with 1 and 2 with 3; they can be cut into MIG instances and be
// numbered anew; and the driver can become another. The node's lock guards all.
type host struct {
	*node
	driver string
	order  []int            // the GPU at each of NVML's indices
	named  func(int) string // the model's name of a GPU, as the driver words it
	split  map[int][]int    // the instances of each GPU in MIG mode, ascending
	down   map[int]bool     // GPUs whose bridge is off
	edit   func(*inventory.Readings)

	// What the plugin was told: the driver, what split was when each GPU last
	// answered, and which bridges it saw under this driver.
	toldDriver string
	told       map[int][]int
	bridged    map[int]bool
}

func newHost(gpus int) *host {
	h := &host{node: newNode(gpus), driver: "550.54.15", split: map[int][]int{}, told: map[int][]int{}, bridged: map[int]bool{}, down: map[int]bool{},
		named: func(int) string { return "Card" }, edit: func(*inventory.Readings) {}}
	for i := range gpus {
		h.order = append(h.order, i)
	}
	return h
}

// bus is a GPU's PCI address; migID the UUID of an instance.
func bus(i int) string { return fmt.Sprintf("0000:%02x:00.0", i+1) }

func migID(i, instance int) string {
	return fmt.Sprintf("MIG-0000000%d-000%d-0000-0000-000000000000", i, instance)
}

// Read is the node's, with all that it leaves out.
func (h *host) Read() (inventory.Readings, error) {
	began := time.Now()
	r, err := h.node.Read()
	if err != nil || time.Since(began) > callTimeout { // nobody waits any more
		return r, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r.DriverVersion, r.CUDAVersion = h.driver, "12.4"
	byIndex := make([]inventory.GPU, len(r.GPUs))
	for index, i := range h.order {
		g := r.GPUs[i]
		if g.Failure == "" {
			g = h.dress(i, g)
			h.told[i] = h.split[i]
			h.bridged[i] = h.bridged[i] && h.driver == h.toldDriver || !h.down[i] && !h.down[i^1]
		}
		g.Index = index
		byIndex[index] = g
	}
	r.GPUs, h.toldDriver = byIndex, h.driver
	for i := range h.gpus {
		for j := range i {
			level := topology.PathSystem
			if i/2 == j/2 {
				level = topology.PathHostBridge
			}
			r.Paths = append(r.Paths, inventory.Path{A: id(i), B: id(j), Level: level})
		}
	}
	h.edit(&r)
	return r, nil
}

// dress completes a reading. What moves is another number each time.
func (h *host) dress(i int, g inventory.GPU) inventory.GPU {
	known := inventory.Known[int64]
	now := int64(h.reads)
	g.Name = h.named(i)
	g.ComputeCapability, g.Architecture, g.Brand = "9.0", "hopper", "nvidia"
	g.Virtualization, g.Addressing, g.ComputeMode = "none", "hmm", "default"
	g.MemoryMiB, g.BAR1MiB, g.PowerLimitMilliW = known(81559), known(131072), known(700_000)
	g.CoresClockMHz, g.MemoryClockMHz, g.Cores = known(1980), known(2619), known(16896)
	g.PCIeGeneration, g.PCIeWidth, g.NUMANode = known(5), known(16), known(int64(i/2))
	g.C2CLinks, g.C2CMBps = known(10), known(450_000)
	g.DisplayEnabled, g.Persistence, g.ECC = inventory.Known(false), inventory.Known(true), inventory.Known(true)
	g.MIG, g.MIGPending = inventory.Known(false), inventory.Known(false)
	g.RemapFailure, g.RemapPending = inventory.Known(false), inventory.Known(false)
	g.EnergyMilliJ, g.ECCUncorrected, g.ThrottleReasons = known(1000*now), known(now), known(now%2) // idle, or not
	g.LinksKnown = true
	for range 4 {
		if partner := i ^ 1; partner < h.gpus {
			g.Links = append(g.Links, inventory.Link{Active: !h.down[i] && !h.down[partner], Remote: inventory.RemoteGPU,
				RemotePCI: bus(partner), SpeedMBps: 25000, Version: "3.0"})
		}
	}
	instances, mode := h.split[i]
	if !mode {
		return g
	}
	g.MIG, g.MIGPending = inventory.Known(true), inventory.Known(true)
	for _, n := range instances {
		g.Instances = append(g.Instances, inventory.MIGInstance{UUID: migID(i, n), GPUInstance: int64(n), Profile: []string{"1g.10gb", "2g.20gb"}[n%2],
			MemoryMiB: known(9984), ComputeSlices: known(1), GPUSlices: known(1), Multiprocessors: known(16),
			CopyEngines: known(1), Decoders: known(1), Encoders: known(0), JPEGEngines: known(1), OFAEngines: known(0)})
	}
	return g
}

// Sample is the node's, with the MIG instances.
func (h *host) Sample() ([]inventory.Sample, error) {
	samples, err := h.node.Sample()
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range samples {
		samples[i].TemperatureC, samples[i].PowerMilliW, samples[i].PowerLimitMilliW =
			inventory.Known[int64](40), inventory.Known[int64](72_000), inventory.Known[int64](700_000)
	}
	for i, instances := range h.split {
		for _, n := range instances {
			if err == nil && h.lost[i] == "" {
				samples = append(samples, inventory.Sample{UUID: migID(i, n),
					MemoryUsedMiB: inventory.Known[int64](1), MemoryTotalMiB: inventory.Known[int64](9984)})
			}
		}
	}
	return samples, err
}

// audience is a plugin of a host in synthetic time, and a reader of one of its
// fingerprint streams, who checks each message and keeps it.
type audience struct {
	host   *host
	plugin *Plugin

	mu       sync.Mutex
	messages []*device.FingerprintResponse
	problems []string
	groupOf  map[string]string  // by device id
	before   map[[2]string]bool // pairs of device ids, in the order they were sent in
	seen     map[string]bool    // PCI addresses
	ended    bool
}

// inBubble runs the test in synthetic time: what the plugin waits for comes at
// once, and in the same order each time.
func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

// attend starts a plugin and reads its fingerprints, pausing after each. It must
// be called in a bubble.
func attend(t *testing.T, h *host, pause time.Duration, change func(*deviceconfig.Block)) *audience {
	t.Helper()
	block := deviceconfig.Default()
	block.StateDir = t.TempDir()
	if change != nil {
		change(&block)
	}
	p := New(hclog.NewNullLogger(), parts(h), time.Now)
	must.NoError(t, p.SetConfig(&base.Config{PluginConfig: encode(t, block)}))
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := p.Fingerprint(ctx)
	must.NoError(t, err)
	a := &audience{host: h, plugin: p, groupOf: map[string]string{}, before: map[[2]string]bool{}, seen: map[string]bool{}}
	var reading sync.WaitGroup
	reading.Go(func() {
		for r := range stream {
			a.hear(r)
			sleep(ctx, pause)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.ended = true
	})
	t.Cleanup(func() {
		cancel()
		reading.Wait()
		must.NoError(t, p.Close())
		must.True(t, h.closed)
	})
	return a
}

// hear checks what must hold of every message, whatever happens.
func (a *audience) hear(r *device.FingerprintResponse) {
	a.mu.Lock()
	defer a.mu.Unlock()
	problem := func(format string, args ...any) {
		a.problems = append(a.problems, fmt.Sprintf("message %d: ", len(a.messages))+fmt.Sprintf(format, args...))
	}
	if r.Error != nil {
		problem("it carries the error %v", r.Error)
	}
	if n := len(a.messages); n > 0 && text(a.messages[n-1]) == text(r) {
		problem("it is the one before again: %v", health(r))
	}
	var names, ids []string
	buses := map[string]bool{}
	for _, g := range r.Devices {
		name := gpu.DeviceName(g.Vendor, g.Type, g.Name)
		names = append(names, g.Vendor+"\x00"+g.Type+"\x00"+g.Name)
		if err := g.Validate(); err != nil {
			problem("Nomad refuses group %s: %v", name, err)
		}
		for _, d := range g.Devices {
			if was, known := a.groupOf[d.ID]; known && was != name {
				problem("%s was in %s and is in %s", d.ID, was, name)
			}
			if slices.Contains(ids, d.ID) {
				problem("%s is there twice", d.ID)
			}
			for _, earlier := range ids {
				if a.before[[2]string{d.ID, earlier}] {
					problem("%s was before %s and is after it", d.ID, earlier)
				}
				a.before[[2]string{earlier, d.ID}] = true
			}
			a.groupOf[d.ID] = name
			buses[d.HwLocality.PciBusID] = true
			ids = append(ids, d.ID)
		}
	}
	if sorted := slices.Compact(slices.Sorted(slices.Values(names))); !slices.Equal(sorted, names) {
		problem("the groups are not sorted, or there are two of one name: %q", names)
	}
	for gone := range a.seen {
		if !buses[gone] {
			problem("the GPU at %s is forgotten", gone)
		}
	}
	maps.Copy(a.seen, buses)
	a.messages = append(a.messages, r)
}

// text is a message as Nomad compares it.
func text(r *device.FingerprintResponse) string {
	raw, err := json.Marshal(r.Devices)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// verdict is what was wrong with the messages; nil when nothing was.
func (a *audience) verdict() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	problems := a.problems
	if a.ended {
		problems = append(problems, "the stream ended")
	}
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("%s", strings.Join(problems, "\n"))
}

// wait lets time pass and returns the latest message then.
func (a *audience) wait(d time.Duration) *device.FingerprintResponse {
	time.Sleep(d)
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.messages) == 0 {
		return nil
	}
	return a.messages[len(a.messages)-1]
}

func (a *audience) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.messages)
}

// health is what a message says of each device, by id: its description, or
// "healthy".
func health(r *device.FingerprintResponse) map[string]string {
	health := map[string]string{}
	for _, g := range r.Devices {
		for _, d := range g.Devices {
			switch {
			case d.Healthy && d.HealthDesc == "":
				health[d.ID] = "healthy"
			case d.Healthy == strings.HasPrefix(d.HealthDesc, "degraded: ") && d.HealthDesc != "":
				health[d.ID] = d.HealthDesc
			default:
				health[d.ID] = fmt.Sprintf("healthy is %t, and the description %q", d.Healthy, d.HealthDesc)
			}
		}
	}
	return health
}
