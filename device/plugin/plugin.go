package plugin

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/version"
)

// Name is the plugin's name: its file name in plugin_dir and the label of its
// plugin block.
const Name = "nomad-device-gpu"

// firstFingerprint is how long the first response waits for the first read, so
// that a node usually registers once and not twice. Nomad waits for 50 s.
const firstFingerprint = 3 * time.Second

// statsLeast bounds how often the GPUs are sampled whatever Nomad asks for.
const statsLeast = 100 * time.Millisecond

// Plugin is the device plugin. It is safe for concurrent use.
type Plugin struct {
	logger hclog.Logger
	parts  Parts
	now    func() time.Time
	// callTimeout is how long one call into NVML may take.
	callTimeout time.Duration

	mu        sync.Mutex
	block     Settings // without the configuration file
	settings  Settings
	monitor   *monitor
	injector  injector
	occupants occupants
	cancel    context.CancelFunc
	running   sync.WaitGroup // the monitor and the listener
	closed    bool
}

var _ device.DevicePlugin = (*Plugin)(nil)

// Source is what the plugin reads GPUs from; worker.Supervisor is one.
type Source = source

// New returns a plugin of these parts.
func New(logger hclog.Logger, parts Parts, now func() time.Time) *Plugin {
	s, err := decodeConfig(nil)
	if err != nil {
		panic(err) // the defaults are constants
	}
	return &Plugin{logger: logger.Named(Name), parts: parts, now: now, callTimeout: callTimeout, block: s, settings: s}
}

// Serve serves the plugin until Nomad ends the process. It must be called only
// in a process that Nomad started.
func Serve(p *Plugin, logger hclog.Logger) { device.Serve(p, logger) }

// StartedByNomad reports whether Nomad started this process as a plugin.
func StartedByNomad(getenv func(string) string) bool {
	return getenv(base.Handshake.MagicCookieKey) == base.Handshake.MagicCookieValue
}

// WithoutHandshake is an environment without what makes a process a plugin of
// Nomad's, for processes that the plugin starts.
func WithoutHandshake(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return name == base.Handshake.MagicCookieKey || strings.HasPrefix(name, "PLUGIN_")
	})
}

// PluginInfo implements base.BasePlugin.
func (p *Plugin) PluginInfo() (*base.PluginInfoResponse, error) {
	return &base.PluginInfoResponse{
		Type: base.PluginTypeDevice, PluginApiVersions: []string{device.ApiVersion010},
		PluginVersion: version.String(), Name: Name}, nil
}

// ConfigSchema implements base.BasePlugin.
func (p *Plugin) ConfigSchema() (*hclspec.Spec, error) { return configSpec, nil }

// SetConfig implements base.BasePlugin. Nomad calls it before the first
// Fingerprint; a block that is not valid keeps the agent from starting.
func (p *Plugin) SetConfig(c *base.Config) error {
	decoded, err := decodeConfig(c.PluginConfig)
	if err != nil {
		return err
	}
	return p.Configure(decoded)
}

// Configure sets what counts when the plugin starts, once.
func (p *Plugin) Configure(s Settings) error {
	merged, err := Merge(s)
	if err != nil {
		return fmt.Errorf("config_file: %w", err)
	}
	if err := checkIdentity(merged); err != nil {
		return err
	}
	var i injector
	if p.parts.Injector != nil { // now: Nomad would not ask again after an error of Fingerprint
		if i, err = p.parts.Injector(merged); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.monitor != nil {
		p.logger.Warn("the plugin block changed while the plugin runs; it counts from the next start of the client")
		return nil
	}
	p.block, p.settings, p.injector = s, merged, i
	return nil
}

// checkIdentity makes sure that group identities can be read and, where groups
// are made, kept.
func checkIdentity(s Settings) error {
	id, err := LoadIdentity(s.StateDir)
	if err != nil {
		return err
	}
	if s.Enabled && s.Grouping != inventory.GroupOff {
		if err := saveIdentity(s.StateDir, id); err != nil {
			return fmt.Errorf("topology_groups is %q and needs a state_dir that can be written: %w", s.Grouping, err)
		}
	}
	return nil
}

// start returns the monitor, running.
func (p *Plugin) start() (*monitor, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.settings.Enabled {
		return nil, device.ErrPluginDisabled
	}
	if p.closed {
		return nil, fmt.Errorf("%s is stopping", Name)
	}
	if p.monitor != nil {
		return p.monitor, nil
	}
	s := p.settings
	id, err := LoadIdentity(s.StateDir)
	if err != nil {
		return nil, err
	}
	s.Layout.Islands, s.Layout.Names = id.Islands, id.Names
	if p.parts.Injector != nil && p.injector == nil { // Nomad sent no configuration
		if p.injector, err = p.parts.Injector(s); err != nil {
			return nil, err
		}
	}
	if p.parts.Occupants != nil {
		if p.occupants, err = p.parts.Occupants(s); err != nil {
			p.logger.Warn("who uses the GPUs is not watched", "error", err)
			p.occupants = nil
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := newMonitor(p.parts.Source(s), p.injector, p.block, s, id, p.logger, p.now, p.callTimeout)
	p.monitor, p.cancel = m, cancel
	p.running.Go(func() { m.run(ctx) })
	if p.parts.Listen != nil && s.PrometheusAddress != "" {
		p.running.Go(func() { p.listen(ctx, s, m) })
	}
	return m, nil
}

// viewAge is how old the figures of a scrape may be.
const viewAge = time.Second

// listen serves metrics. Whatever becomes of it, the GPUs are offered: an
// address that is taken is tried again.
func (p *Plugin) listen(ctx context.Context, s Settings, m *monitor) {
	view := func(ctx context.Context) View { return m.view(ctx, viewAge) }
	for ctx.Err() == nil {
		if err := p.parts.Listen(ctx, s, view, p.logger); err != nil {
			p.logger.Error("metrics are not served; trying again", "address", s.PrometheusAddress, "error", err)
		}
		sleep(ctx, retryMost)
	}
}

// Close ends the monitor and the session with NVML, and waits for both.
func (p *Plugin) Close() error {
	p.mu.Lock()
	m, cancel := p.monitor, p.cancel
	p.closed = true
	p.mu.Unlock()
	if m == nil {
		return nil
	}
	cancel()
	p.running.Wait()
	return m.close()
}

// Fingerprint implements device.DevicePlugin. The channel stays open until ctx
// ends and never carries an error.
func (p *Plugin) Fingerprint(ctx context.Context) (<-chan *device.FingerprintResponse, error) {
	m, err := p.start()
	if err != nil {
		return nil, err
	}
	out := make(chan *device.FingerprintResponse)
	go func() {
		defer close(out)
		p.stream(ctx, m, out)
	}()
	return out, nil
}

func (p *Plugin) stream(ctx context.Context, m *monitor, out chan<- *device.FingerprintResponse) {
	timer := time.NewTimer(firstFingerprint)
	defer timer.Stop()
	select {
	case <-m.ready:
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	var sent []inventory.Group // nil before the first
	for {
		groups, changed := m.watch()
		if sent == nil || !inventory.Equal(sent, groups) { // it may be as before again
			select {
			case out <- device.NewFingerprint(deviceGroups(groups)...):
				sent = groups
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Reserve implements device.DevicePlugin. Nomad's scheduler may choose a device
// that became unhealthy a moment ago, and does not look again; this is the last
// place to refuse it.
func (p *Plugin) Reserve(ids []string) (*device.ContainerReservation, error) {
	if len(ids) == 0 {
		return nil, fmt.Errorf("reserve no GPU: Nomad gave no device ids")
	}
	m, err := p.start()
	if err != nil {
		return nil, err
	}
	select {
	case <-m.ready:
	case <-time.After(firstFingerprint):
	}
	units, _ := m.offered()
	chosen, err := choose(units, ids)
	if err != nil {
		return nil, err
	}
	r := Reservation{Envs: visible(chosen)}
	if p.injector != nil {
		if r, err = p.injector.Reserve(chosen); err != nil {
			return nil, fmt.Errorf("reserve GPU %s: %w", strings.Join(ids, ", "), err)
		}
	}
	if p.occupants != nil {
		granted, err := p.occupants.Grant(ids)
		if err != nil {
			return nil, fmt.Errorf("reserve GPU %s: %w", strings.Join(ids, ", "), err)
		}
		maps.Copy(r.Envs, granted)
	}
	return containerReservation(r), nil
}

// visible is the environment that every task gets at least.
func visible(units []inventory.Unit) map[string]string {
	var ids []string
	for _, u := range units {
		ids = append(ids, u.VisibleID())
	}
	list := strings.Join(ids, ",")
	return map[string]string{gpu.EnvNVIDIAVisible: list, gpu.EnvCUDAVisible: list}
}

// choose finds the devices with these ids, in the order of their PCI addresses,
// and refuses what a task cannot use.
func choose(units []inventory.Unit, ids []string) ([]inventory.Unit, error) {
	var chosen []inventory.Unit
	var unknown, unhealthy []string
	for i, id := range ids {
		at := slices.IndexFunc(units, func(u inventory.Unit) bool { return u.ID == id })
		switch {
		case slices.Contains(ids[:i], id):
			return nil, fmt.Errorf("reserve GPU %s: it is asked for twice", id)
		case at < 0:
			unknown = append(unknown, id)
		case units[at].Reason() != "":
			unhealthy = append(unhealthy, fmt.Sprintf("%s (%s)", id, units[at].Reason()))
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("reserve GPU %s: this node has no such GPU; it has %s", strings.Join(unknown, ", "), list(units))
	}
	if len(unhealthy) > 0 {
		return nil, fmt.Errorf("reserve GPU %s: unhealthy; Nomad will place the allocation again", strings.Join(unhealthy, ", "))
	}
	for _, u := range units {
		if !slices.Contains(ids, u.ID) {
			continue
		}
		for _, other := range chosen {
			if other.Device.GPU.UUID == u.Device.GPU.UUID && u.Share != nil {
				return nil, fmt.Errorf("reserve GPU %s and %s: both are shares of one GPU, and two shares give a task no more than one; ask for a count of 1, or for whole GPUs", other.ID, u.ID)
			}
		}
		chosen = append(chosen, u)
	}
	slices.SortStableFunc(chosen, func(a, b inventory.Unit) int {
		return strings.Compare(a.Device.GPU.PCIBusID, b.Device.GPU.PCIBusID)
	})
	return chosen, nil
}
