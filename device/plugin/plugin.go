package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

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
	open   func(libraryPath string) source
	now    func() time.Time
	// callTimeout is how long one call into NVML may take.
	callTimeout time.Duration

	mu      sync.Mutex
	config  config
	monitor *monitor
	cancel  context.CancelFunc
	done    chan struct{} // closed when the monitor has ended
	closed  bool
}

var _ device.DevicePlugin = (*Plugin)(nil)

// Source is what the plugin reads GPUs from; worker.Supervisor is one.
type Source = source

// New returns a plugin that reads GPUs from what open returns.
func New(logger hclog.Logger, open func(libraryPath string) Source, now func() time.Time) *Plugin {
	c, err := decodeConfig(nil)
	if err != nil {
		panic(err) // the defaults are constants
	}
	return &Plugin{logger: logger.Named(Name), open: open, now: now, callTimeout: callTimeout, config: c}
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
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.monitor != nil {
		p.logger.Warn("the plugin block changed while the plugin runs; it counts from the next start of the client")
		return nil
	}
	p.config = decoded
	return nil
}

// start returns the monitor, running.
func (p *Plugin) start() (*monitor, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.config.enabled {
		return nil, device.ErrPluginDisabled
	}
	if p.closed {
		return nil, fmt.Errorf("%s is stopping", Name)
	}
	if p.monitor == nil {
		ctx, cancel := context.WithCancel(context.Background())
		m := newMonitor(p.open(p.config.libraryPath), p.config, p.logger, p.now, p.callTimeout)
		done := make(chan struct{})
		p.monitor, p.cancel, p.done = m, cancel, done
		go func() {
			defer close(done)
			m.run(ctx)
		}()
	}
	return p.monitor, nil
}

// Close ends the monitor and the session with NVML, and waits for both.
func (p *Plugin) Close() error {
	p.mu.Lock()
	m, cancel, done := p.monitor, p.cancel, p.done
	p.closed = true
	p.mu.Unlock()
	if m == nil {
		return nil
	}
	cancel()
	<-done
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
	for {
		groups, changed := m.watch()
		select {
		case out <- device.NewFingerprint(deviceGroups(groups)...):
		case <-ctx.Done():
			return
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
	inv := m.current()
	var unknown, unhealthy, chosen []string
	for i, id := range ids {
		d, found := inv.Device(id)
		switch {
		case slices.Contains(ids[:i], id):
			return nil, fmt.Errorf("reserve GPU %s: it is asked for twice", id)
		case !found:
			unknown = append(unknown, id)
		case d.Reason() != "":
			unhealthy = append(unhealthy, fmt.Sprintf("%s (%s)", id, d.Reason()))
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("reserve GPU %s: this node has no such GPU; it has %s", strings.Join(unknown, ", "), list(inv))
	}
	if len(unhealthy) > 0 {
		return nil, fmt.Errorf("reserve GPU %s: unhealthy; Nomad will place the allocation again", strings.Join(unhealthy, ", "))
	}
	for _, d := range inv.Devices { // in the order of the published topology
		if slices.Contains(ids, d.GPU.UUID) {
			chosen = append(chosen, d.GPU.UUID)
		}
	}
	visible := strings.Join(chosen, ",")
	return &device.ContainerReservation{Envs: map[string]string{
		gpu.EnvNVIDIAVisible: visible, gpu.EnvCUDAVisible: visible}}, nil
}
