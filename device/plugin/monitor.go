package plugin

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/device/inventory"
)

// source is where readings come from: a worker process that owns NVML. Its
// methods may hang; the monitor guards each call.
type source interface {
	// Read reads every GPU; an error means that none can be read.
	Read() (inventory.Readings, error)
	// Sample reads the numbers that move.
	Sample() ([]inventory.Sample, error)
	// Watch waits for XIDs, at most that long, and says how the GPUs are in a
	// digest that differs when a Read would.
	Watch(timeout time.Duration) (inventory.Watched, error)
	// Release lets go of the driver until the next Read.
	Release()
	// Close ends the source and makes calls that are under way return.
	Close()
}

const (
	callTimeout  = 10 * time.Second // a healthy driver needs milliseconds a GPU
	retryLeast   = time.Second      // after a read of NVML as a whole failed
	retryMost    = 30 * time.Second
	closeTimeout = 2 * time.Second
)

// reasoned is an error that is a health description of its own.
type reasoned interface {
	error
	Reason() string
}

// reason is what is wrong with every device when NVML as a whole fails.
func reason(err error) string {
	var r reasoned
	if errors.As(err, &r) {
		return r.Reason()
	}
	return "nvml_unavailable: " + err.Error()
}

var errHangs = errors.New("nvml_hang: a call into the driver does not return")

// monitor reads the GPUs and keeps the inventory. Its fields below mu may be
// read from any goroutine; only run changes them.
type monitor struct {
	source   source
	injector injector
	settings Settings
	logger   hclog.Logger
	guard    *guard
	now      func() time.Time
	// callTimeout is how long one call into the source may take.
	callTimeout time.Duration
	// failing says that the latest read failed.
	failing atomic.Bool
	stats   bool // whether there are any
	// healthPeriod is the settings', for the goroutine that follows.
	healthPeriod atomic.Int64
	// block is the settings without the configuration file, which file follows.
	block Settings
	file  follower
	// wasReleased says that the driver is released.
	wasReleased bool
	// warned says that a topology_groups that is not in force was reported,
	// reworded that a model has another name than its group.
	warned, reworded bool

	mu        sync.Mutex
	identity  inventory.Identity
	layout    inventory.Layout
	inventory inventory.Inventory // every device, ignored ones too
	units     []inventory.Unit    // what is offered
	groups    []inventory.Group   // what Nomad is told
	samples   []inventory.Sample  // the latest
	sampled   time.Time
	lastError string
	changed   chan struct{} // closed and replaced when groups change

	ready     chan struct{} // closed after the first read
	readyOnce sync.Once
}

func newMonitor(s source, i injector, block, settings Settings, id inventory.Identity, logger hclog.Logger, now func() time.Time, callTimeout time.Duration) *monitor {
	m := &monitor{source: s, injector: i, block: block, file: follower{path: block.ConfigFile}, stats: settings.Stats,
		settings: settings, layout: settings.Layout, identity: id,
		inventory: inventory.Inventory{Policy: settings.Policy}, logger: logger, guard: newGuard(now), now: now, callTimeout: callTimeout,
		groups: []inventory.Group{}, changed: make(chan struct{}), ready: make(chan struct{})}
	m.healthPeriod.Store(int64(settings.HealthPeriod))
	m.file.changed() // as it is now it is in the settings
	return m
}

// run reads until ctx ends: fully each fingerprint period, and at once when an
// XID arrives or the GPUs' digest differs, which is looked at each health period.
func (m *monitor) run(ctx context.Context) {
	news := make(chan inventory.Watched)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.follow(ctx, news) })

	var digest string
	failures := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-news:
			if len(w.Events) > 0 {
				m.note(w.Events)
			} else if m.released() == m.wasReleased && w.Digest == digest || failures > 0 { // only the read with its back-off opens NVML again
				continue
			}
			digest = w.Digest
		case <-timer.C:
		}
		m.reload()
		if m.wasReleased = m.released(); m.wasReleased {
			m.release()
			failures = 1 // looks again in retryLeast, for the end of it
		} else {
			failures = m.read(ctx, failures)
		}
		m.failing.Store(failures > 0)
		timer.Reset(m.nextPeriod(failures))
	}
}

// nextPeriod is how long until the next full read: soon while something is
// wrong, with back-off while NVML as a whole is away.
func (m *monitor) nextPeriod(failures int) time.Duration {
	if failures > 0 {
		return min(retryLeast<<min(failures-1, 10), retryMost)
	}
	if !m.all().Settled() {
		return m.settings.HealthPeriod
	}
	return m.settings.FingerprintPeriod
}

// read makes one full reading and returns how many in a row have failed.
func (m *monitor) read(ctx context.Context, failures int) int {
	readings, err := call(ctx, m.guard, "read", m.callTimeout, m.source.Read)
	if ctx.Err() != nil {
		return failures
	}
	prev := m.all()
	var hang hangError
	hangs := errors.As(err, &hang)
	if hangs {
		err = errHangs // with its age each would differ from the last
	}
	m.complain(err, len(prev.Devices))
	switch {
	case err == nil:
		m.store(inventory.Observe(prev, readings))
		failures = 0
	case hangs:
		m.store(inventory.Fail(prev, err.Error()))
		failures = 1 // asking again is free while the call is out
	default:
		m.store(inventory.Fail(prev, reason(err)))
		failures++
	}
	m.readyOnce.Do(func() { close(m.ready) })
	return failures
}

// follow waits for news while NVML answers. Where a driver has no events to wait
// for it asks each health period.
func (m *monitor) follow(ctx context.Context, out chan<- inventory.Watched) {
	for ctx.Err() == nil {
		if m.failing.Load() {
			sleep(ctx, time.Duration(m.healthPeriod.Load()))
			continue
		}
		period := time.Duration(m.healthPeriod.Load())
		w, err := call(ctx, m.guard, "watch", m.callTimeout+period, func() (inventory.Watched, error) {
			return m.source.Watch(period)
		})
		if err != nil {
			w = inventory.Watched{Digest: "error: " + err.Error()}
		}
		select {
		case out <- w:
		case <-ctx.Done():
		}
		if err != nil || w.Eventless { // soon again: an XID that nobody waits for is lost
			sleep(ctx, period)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (m *monitor) note(events []inventory.Event) {
	for _, e := range events {
		if e.XID == 0 {
			continue
		}
		facts := []any{"device_id", e.UUID, "xid", e.XID}
		if e.GPUInstance.Known {
			facts = append(facts, "gpu_instance", e.GPUInstance.Value, "compute_instance", e.ComputeInstance.Value)
		}
		m.logger.Warn("the driver reported an XID error", facts...)
	}
	m.store(inventory.Note(m.all(), events))
}

// all is the inventory with ignored devices.
func (m *monitor) all() inventory.Inventory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inventory
}

// offered is the devices that tasks can get, and what is known about the node.
func (m *monitor) offered() ([]inventory.Unit, inventory.Inventory) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.units, m.inventory
}

// store keeps a new inventory and wakes the streams if Nomad would see a
// difference.
func (m *monitor) store(next inventory.Inventory) {
	m.adopt(next)
	m.layout.MPSProblem = MPSProblem(m.settings)
	units, groups := next.Units(m.layout), next.Groups(m.layout)
	m.mu.Lock()
	prev := m.groups
	reloaded := m.inventory.DriverVersion != next.DriverVersion
	m.inventory, m.units, m.groups = next, units, groups
	same := inventory.Equal(prev, groups)
	m.mu.Unlock()
	if m.injector != nil && (!same || reloaded) {
		m.injector.Observe(next, units) // before Nomad can ask for what is new
	}
	if !same {
		m.mu.Lock()
		close(m.changed)
		m.changed = make(chan struct{})
		m.mu.Unlock()
	}
	m.report(inventory.Diff(prev, groups))
}

// report logs what changed: health for operators, the rest for the curious.
func (m *monitor) report(changes []inventory.Change) {
	for _, c := range changes {
		switch {
		case !c.Device:
			m.logger.Debug("attribute changed", "group", c.Group, "attribute", c.Subject, "before", c.Before, "after", c.After)
		case c.Before == "" || c.After == "healthy":
			m.logger.Info("device", "group", c.Group, "device_id", c.Subject, "health", c.After)
		default:
			m.logger.Warn("device", "group", c.Group, "device_id", c.Subject, "health", c.After, "before", c.Before)
		}
	}
}

// adopt gives new GPUs their topology group and keeps it for good.
func (m *monitor) adopt(inv inventory.Inventory) {
	id, ok := m.identity.Adopt(inv, m.settings.Grouping)
	if !ok && !m.warned {
		m.warned = true
		m.logger.Warn("topology_groups is not in force: this node's groups were made otherwise, and GPUs must not change their group while allocations use them; drain the node, remove the file and restart the client",
			"topology_groups", m.settings.Grouping, "in_force", id.Grouping, "file", IdentityPath(m.settings.StateDir))
	}
	for _, d := range inv.Devices {
		if name := id.Names[d.GPU.UUID]; name != d.GPU.Name && !m.reworded {
			m.reworded = true
			m.logger.Warn("the driver calls a model by another name than before; its group keeps the name, as GPUs must not change their group while allocations use them",
				"group", name, "model", d.GPU.Name, "file", IdentityPath(m.settings.StateDir))
		}
	}
	if maps.Equal(id.Islands, m.identity.Islands) && maps.Equal(id.Names, m.identity.Names) && id.Grouping == m.identity.Grouping {
		return
	}
	m.mu.Lock()
	m.identity, m.layout.Islands, m.layout.Names = id, id.Islands, id.Names
	m.mu.Unlock()
	if err := saveIdentity(m.settings.StateDir, id); err != nil {
		m.logger.Warn("the groups of this node's GPUs cannot be kept: they may differ after the next start", "error", err)
	}
}

// complain logs an error when it is new, and its end. A node without a driver
// is not an error: it says so once, quietly.
func (m *monitor) complain(err error, devices int) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	m.mu.Lock()
	before := m.lastError
	m.lastError = text
	m.mu.Unlock()
	switch {
	case text == before:
	case text == "":
		m.logger.Info("NVML answers again")
	case devices > 0:
		m.logger.Error("NVML does not answer; all its devices are unhealthy until it does", "error", err)
	default:
		m.logger.Info("no GPU is offered", "reason", err)
	}
}

// watch returns the groups and a channel that is closed when they change.
func (m *monitor) watch() ([]inventory.Group, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.groups, m.changed
}

// sample reads stats. Two streams at once share one reading: while one is
// under way the other gets the latest.
func (m *monitor) sample(ctx context.Context) ([]inventory.Sample, error) {
	got, err := call(ctx, m.guard, "sample", m.callTimeout, m.source.Sample)
	m.mu.Lock()
	defer m.mu.Unlock()
	var hang hangError
	if errors.As(err, &hang) && hang.age < m.callTimeout {
		return m.samples, nil
	}
	if err != nil {
		return nil, err
	}
	m.samples, m.sampled = got, m.now()
	return got, nil
}

// view is everything about the devices, with figures no older than maxAge.
func (m *monitor) view(ctx context.Context, maxAge time.Duration) View {
	m.mu.Lock()
	samples, at := m.samples, m.sampled
	m.mu.Unlock()
	failure := ""
	if samples == nil || m.now().Sub(at) > maxAge {
		var err error
		if samples, err = m.sample(ctx); err != nil {
			failure = reason(err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if at = m.sampled; failure != "" {
		at = m.now()
	}
	return View{Inventory: m.inventory, Units: m.units, Samples: samples, Failure: failure, At: at}
}

// close ends the source, and with it the calls that are under way.
func (m *monitor) close() error {
	m.source.Close()
	if !m.guard.wait(closeTimeout) {
		return errors.New("a call into NVML hangs and was abandoned")
	}
	return nil
}
