package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
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
	must.NoError(t, os.CopyFS(m.sys(), os.DirFS(sysfs(fixture))))
	var err error
	m.control, err = control.New(filepath.Join(m.dir, "control"))
	must.NoError(t, err)
	return m
}

// sys is its sysfs.
func (m *machine) sys() string { return filepath.Join(m.dir, "sys") }

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
	text := fmt.Sprintf("nvml_library_path = %q\nstate_dir = %q\nsysfs_path = %q\nhealth_period = \"100ms\"\nfingerprint_period = \"1s\"\n%s\n",
		filepath.Join(m.dir, "libnvidia-ml.so.1"), filepath.Join(m.dir, "state"), m.sys(), more)
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

// message is what a plugin tells Nomad of its devices.
type message struct {
	err    error
	groups []groupSent
	// all is the message whole, byte for byte.
	all string
}

// groupSent is one group, its name with the type before it: "gpu/Tesla T4".
// Attributes are texts with their units.
type groupSent struct {
	name       string
	attributes map[string]string
	devices    []deviceSent
}

type deviceSent struct {
	id, why, bus string
	healthy      bool
}

// devices are a message's devices in their order.
func (m message) devices() []deviceSent {
	var all []deviceSent
	for _, g := range m.groups {
		all = append(all, g.devices...)
	}
	return all
}

func (m message) ids() []string {
	var all []string
	for _, d := range m.devices() {
		all = append(all, d.id)
	}
	return all
}

// group is the group of that name.
func (m message) group(t *testing.T, name string) groupSent {
	t.Helper()
	i := slices.IndexFunc(m.groups, func(g groupSent) bool { return g.name == name })
	must.NotEq(t, -1, i, must.Sprint("there is no group ", name, " in ", m.all))
	return m.groups[i]
}

// nomad is the machine's Nomad client: it keeps every message about the devices.
type nomad struct {
	*machine
	plugin *plugin.Plugin
	closed func() // ends it all

	mu       sync.Mutex
	messages []message
	broken   error
}

// start starts the plugin and waits until it lists devices.
func (m *machine) start(more string) *nomad {
	m.t.Helper()
	p := m.newPlugin()
	must.NoError(m.t, p.Configure(m.settings(more)))
	n := m.attend(p)
	n.wait("devices", func(m message) error {
		if len(m.groups) == 0 {
			return errors.New("there are none")
		}
		return nil
	})
	return n
}

// attend reads the fingerprints of a plugin. A stream that ends, or a message with
// an error, fails the test.
func (m *machine) attend(p *plugin.Plugin) *nomad {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &nomad{machine: m, plugin: p}
	stream, err := p.Fingerprint(ctx)
	must.NoError(m.t, err)
	var reading sync.WaitGroup
	reading.Go(func() {
		for r := range stream {
			got := message{err: r.Error, all: asJSON(r)}
			for _, g := range r.Devices {
				group := groupSent{name: g.Type + "/" + g.Name, attributes: map[string]string{}}
				for name, a := range g.Attributes {
					if a.String != nil {
						group.attributes[name] = *a.String
					} else {
						group.attributes[name] = strings.TrimSpace(fmt.Sprintf("%d %s", *a.Int, a.Unit))
					}
				}
				for _, d := range g.Devices {
					group.devices = append(group.devices, deviceSent{d.ID, d.HealthDesc, d.HwLocality.PciBusID, d.Healthy})
				}
				got.groups = append(got.groups, group)
			}
			n.hear(got)
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
	n.latest()
	return n
}

func (n *nomad) hear(m message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m.err != nil {
		n.broken = errors.Join(n.broken, fmt.Errorf("message %d carries the error %w", len(n.messages), m.err))
	}
	n.messages = append(n.messages, m)
}

// heard are all messages since mark, an earlier number of them.
func (n *nomad) heard(mark int) []message {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.messages[mark:])
}

// wait waits until the latest message is as it should be, and returns it.
func (n *nomad) wait(what string, as func(message) error) message {
	n.t.Helper()
	var latest message
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
func (n *nomad) latest() message {
	n.t.Helper()
	return n.wait("a message", func(message) error { return nil })
}

// look makes the plugin read the GPUs at once: an application suffers from an XID
// that is no concern of the plugin's, and what comes by event is looked at.
func (n *nomad) look() {
	n.t.Helper()
	must.NoError(n.t, n.control.XID(0, 13))
}

// has is satisfied when the only group has the attribute with that value; "" is
// none.
func has(name, want string) func(message) error {
	return func(m message) error {
		if len(m.groups) != 1 {
			return fmt.Errorf("there are %d groups", len(m.groups))
		}
		if got := m.groups[0].attributes[name]; got != want {
			return fmt.Errorf("%s is %q; it must be %q", name, got, want)
		}
		return nil
	}
}

// conditions is satisfied when the devices with these numbers have these health
// descriptions, beginning with "degraded" where they may be used all the same, and
// all others are well.
func conditions(want map[int]string) func(message) error {
	return func(m message) error {
		for i, d := range m.devices() {
			if usable := want[i] == "" || strings.HasPrefix(want[i], "degraded: "); d.why != want[i] || d.healthy != usable {
				return fmt.Errorf("device %d: healthy is %t and why %q; it must be %q", i, d.healthy, d.why, want[i])
			}
		}
		return nil
	}
}

// many is satisfied when there are so many devices.
func many(want int) func(message) error {
	return func(m message) error {
		if got := len(m.devices()); got != want {
			return fmt.Errorf("there are %d devices", got)
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

// figures are a device's statistics as texts, with their units; "summary" is its
// summary.
type figures map[string]string

// measure reads statistics until those of all devices, by id, are as they should
// be.
func (n *nomad) measure(what string, as func(map[string]figures) error) map[string]figures {
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
			all := map[string]figures{}
			for _, g := range r.Groups {
				for id, s := range g.InstanceStats {
					all[id] = figures{}
					values := maps.Clone(s.Stats.Attributes)
					values["summary"] = s.Summary
					for key, v := range values {
						switch {
						case v.StringVal != nil:
							all[id][key] = *v.StringVal
						case v.IntDenominatorVal != nil:
							all[id][key] = fmt.Sprintf("%d / %d %s", *v.IntNumeratorVal, *v.IntDenominatorVal, v.Unit)
						default:
							all[id][key] = strings.TrimSpace(fmt.Sprintf("%d %s", *v.IntNumeratorVal, v.Unit))
						}
					}
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

// is is satisfied when a device's statistics have that figure; "" is none.
func is(id, key, want string) func(map[string]figures) error {
	return func(stats map[string]figures) error {
		if got := stats[id][key]; got != want || stats[id] == nil {
			return fmt.Errorf("%s of %s is %q; it must be %q", key, id, got, want)
		}
		return nil
	}
}
