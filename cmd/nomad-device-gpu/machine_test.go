package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/device/plugin"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
)

// machine is a GPU node: a directory with a driver's library and what it answers.
// Unlike connect it changes no environment, so that tests of machines may run at
// once.
type machine struct {
	t       *testing.T
	dir     string
	control *control.Control
	logger  hclog.Logger
}

// newMachine is a machine with a fixture's GPUs.
func newMachine(t *testing.T, fixture string) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), logger: hclog.NewNullLogger()}
	m.place("libnvidia-ml.so.1", contents(t, library()))
	m.place("node.flat", contents(t, flat(fixture)))
	var err error
	m.control, err = control.New(filepath.Join(m.dir, "control"))
	must.NoError(t, err)
	return m
}

// place puts a file into the machine's directory, as an installer does.
func (m *machine) place(name string, raw []byte) {
	m.t.Helper()
	must.NoError(m.t, os.WriteFile(filepath.Join(m.dir, "new"), raw, 0o755))
	must.NoError(m.t, os.Rename(filepath.Join(m.dir, "new"), filepath.Join(m.dir, name)))
}

// launcher is the shipped program as a worker, in an environment in which the fake
// library finds the other files of its directory.
var launcher = sync.OnceValues(func() (string, error) {
	script := fmt.Sprintf("#!/bin/sh\ndir=$(dirname \"$2\")\nFAKENVML_FIXTURE=$dir/node.flat FAKENVML_CONTROL=$dir/control exec %q \"$@\"\n", program)
	path := filepath.Join(filepath.Dir(program), "launcher")
	syscall.ForkLock.RLock() // a process that forks meanwhile would have it open for writing, and then it cannot be run
	defer syscall.ForkLock.RUnlock()
	return path, os.WriteFile(path, []byte(script), 0o755)
})

// settings are those of a plugin block with the machine's library, short periods
// and more.
func (m *machine) settings(more string) plugin.Settings {
	m.t.Helper()
	text := fmt.Sprintf("nvml_library_path = %q\nstate_dir = %q\nhealth_period = \"100ms\"\nfingerprint_period = \"1s\"\n%s\n",
		filepath.Join(m.dir, "libnvidia-ml.so.1"), filepath.Join(m.dir, "state"), more)
	s, err := deviceconfig.Parse([]byte(text), "config.hcl", plugin.Name)
	must.NoError(m.t, err)
	return s
}

// newPlugin is the plugin as it ships; only its worker is started by launcher.
func (m *machine) newPlugin() *plugin.Plugin {
	m.t.Helper()
	worker, err := launcher()
	must.NoError(m.t, err)
	parts := parts(m.logger)
	parts.Source = supervise(worker, m.logger)
	return plugin.New(m.logger, parts, time.Now)
}

// nomad is the machine's Nomad client: it keeps every message about the devices.
type nomad struct {
	*machine
	plugin *plugin.Plugin
	end    context.CancelFunc
	closed func()

	mu       sync.Mutex
	messages []*device.FingerprintResponse
	broken   error
}

// start starts the plugin and waits for its first message. A stream that ends, or
// a message with an error, fails the test.
func (m *machine) start(more string) *nomad {
	m.t.Helper()
	p := m.newPlugin()
	must.NoError(m.t, p.Configure(m.settings(more)))
	return m.attend(p)
}

// attend reads the fingerprints of a plugin.
func (m *machine) attend(p *plugin.Plugin) *nomad {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &nomad{machine: m, plugin: p, end: cancel}
	stream, err := p.Fingerprint(ctx)
	must.NoError(m.t, err)
	var reading sync.WaitGroup
	reading.Go(func() {
		for r := range stream {
			n.hear(r)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if ctx.Err() == nil {
			n.broken = errors.Join(n.broken, errors.New("the stream ended"))
		}
	})
	n.closed = sync.OnceFunc(func() {
		cancel()
		reading.Wait()
		must.NoError(m.t, p.Close())
		must.NoError(m.t, n.broken)
	})
	m.t.Cleanup(n.closed)
	n.wait("a first message", func(*device.FingerprintResponse) error { return nil })
	return n
}

func (n *nomad) hear(r *device.FingerprintResponse) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.Error != nil {
		n.broken = errors.Join(n.broken, fmt.Errorf("message %d carries the error %w", len(n.messages), r.Error))
	}
	n.messages = append(n.messages, r)
}

// heard are all messages since mark, an earlier number of them.
func (n *nomad) heard(mark int) []*device.FingerprintResponse {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.messages[mark:])
}

// wait waits until the latest message is as it should be, and returns it.
func (n *nomad) wait(what string, as func(*device.FingerprintResponse) error) *device.FingerprintResponse {
	n.t.Helper()
	var latest *device.FingerprintResponse
	must.Wait(n.t, wait.InitialSuccess(wait.ErrorFunc(func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.broken != nil || len(n.messages) == 0 {
			return errors.Join(n.broken, errors.New("there is no message"))
		}
		latest = n.messages[len(n.messages)-1]
		return as(latest)
	}), wait.Timeout(30*time.Second), wait.Gap(5*time.Millisecond)), must.Sprint("waiting for ", what))
	return latest
}

// latest is the latest message.
func (n *nomad) latest() *device.FingerprintResponse {
	n.t.Helper()
	return n.wait("a message", func(*device.FingerprintResponse) error { return nil })
}

// look makes the plugin read the GPUs at once: an application suffers from an XID
// that is no concern of the plugin's, and what comes by event is looked at.
func (n *nomad) look() {
	n.t.Helper()
	must.NoError(n.t, n.control.XID(0, 13))
}

// devices are a message's devices in their order.
func devices(r *device.FingerprintResponse) []*device.Device {
	var all []*device.Device
	for _, g := range r.Devices {
		all = append(all, g.Devices...)
	}
	return all
}

func ids(r *device.FingerprintResponse) []string {
	var all []string
	for _, d := range devices(r) {
		all = append(all, d.ID)
	}
	return all
}

// group is the group with that type and name.
func group(t *testing.T, r *device.FingerprintResponse, name string) *device.DeviceGroup {
	t.Helper()
	var names []string
	for _, g := range r.Devices {
		if g.Type+"/"+g.Name == name {
			return g
		}
		names = append(names, g.Type+"/"+g.Name)
	}
	t.Fatalf("there is no group %q; there are %q", name, names)
	return nil
}

// value is an attribute as text; "" when it is absent.
func value(g *device.DeviceGroup, name string) string {
	switch a := g.Attributes[name]; {
	case a == nil:
		return ""
	case a.String != nil:
		return *a.String
	default:
		return strings.TrimSpace(fmt.Sprintf("%d %s", *a.Int, a.Unit))
	}
}

// has is satisfied when the only group has the attribute with that value; "" is
// none.
func has(name, want string) func(*device.FingerprintResponse) error {
	return func(r *device.FingerprintResponse) error {
		if len(r.Devices) != 1 {
			return fmt.Errorf("there are %d groups", len(r.Devices))
		}
		if got := value(r.Devices[0], name); got != want {
			return fmt.Errorf("%s is %q; it must be %q", name, got, want)
		}
		return nil
	}
}

// conditions is satisfied when the devices with these numbers have these health
// descriptions, beginning with "degraded" where they may be used all the same, and
// all others are well.
func conditions(want map[int]string) func(*device.FingerprintResponse) error {
	return func(r *device.FingerprintResponse) error {
		for i, d := range devices(r) {
			if usable := want[i] == "" || strings.HasPrefix(want[i], "degraded: "); d.HealthDesc != want[i] || d.Healthy != usable {
				return fmt.Errorf("device %d: healthy is %t and why %q; it must be %q", i, d.Healthy, d.HealthDesc, want[i])
			}
		}
		return nil
	}
}

func asJSON(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// measure reads statistics until those of all devices are as they should be.
func (n *nomad) measure(what string, as func(stats map[string]*device.DeviceStats) error) map[string]*device.DeviceStats {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := n.plugin.Stats(ctx, 100*time.Millisecond)
	must.NoError(n.t, err)
	defer func() {
		cancel()
		for range stream { // ends
		}
	}()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case r, open := <-stream:
			must.True(n.t, open, must.Sprint("the statistics ended"))
			must.NoError(n.t, r.Error)
			all := map[string]*device.DeviceStats{}
			for _, g := range r.Groups {
				for id, s := range g.InstanceStats {
					must.NotNil(n.t, s.Summary)
					must.NotNil(n.t, s.Stats)
					all[id] = s
				}
			}
			if err = as(all); err == nil {
				return all
			}
		case <-deadline:
			n.t.Fatalf("waiting for %s: %v", what, err)
		}
	}
}

// figure is a metric as text, with its unit; "" when it is absent.
func figure(s *device.DeviceStats, key string) string {
	v := s.Stats.Attributes[key]
	switch {
	case v == nil:
		return ""
	case v.StringVal != nil:
		return *v.StringVal
	case v.IntDenominatorVal != nil:
		return fmt.Sprintf("%d / %d %s", *v.IntNumeratorVal, *v.IntDenominatorVal, v.Unit)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", *v.IntNumeratorVal, v.Unit))
}
