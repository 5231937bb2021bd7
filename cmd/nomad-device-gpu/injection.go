package main

import (
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/device/inject"
	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/plugin"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
)

// injector gives tasks what package inject finds on the node. It is safe for
// concurrent use.
type injector struct {
	settings deviceconfig.Settings
	logger   hclog.Logger

	mu     sync.Mutex
	driver string // the latest version seen
	said   string // what was last logged
}

func injectOptions(s deviceconfig.Settings) (inject.Options, error) {
	mode, err := inject.ParseMode(s.Injection)
	if err != nil {
		return inject.Options{}, err
	}
	o := inject.Options{Mode: mode, DriverRoot: s.DriverRoot, DevRoot: s.DevRoot, LibraryDir: s.LibraryDir, SpecDir: s.CDISpecDir,
		DockerRuntime: s.DockerRuntime, IMEXChannels: s.IMEXChannels, GDS: s.GDS, GDRCopy: s.GDRCopy, RDMA: s.RDMA}
	return o, o.Validate()
}

func newInjector(s deviceconfig.Settings, logger hclog.Logger) (*injector, error) {
	if _, err := injectOptions(s); err != nil {
		return nil, err
	}
	return &injector{settings: s, logger: logger}, nil
}

// discover looks at the node: nodes and libraries come and go with the driver.
func (i *injector) discover() (inject.Host, error) {
	o, err := injectOptions(i.settings)
	if err != nil {
		return inject.Host{}, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return inject.Discover(o, i.driver)
}

// Observe implements plugin.Injector. It says what changed in how tasks get
// their GPUs, and keeps the CDI specification.
func (i *injector) Observe(inv inventory.Inventory, units []inventory.Unit) {
	i.mu.Lock()
	i.driver = inv.DriverVersion
	i.mu.Unlock()
	host, err := i.discover()
	if err != nil {
		i.logger.Error("what tasks get for their GPUs cannot be found out", "error", err)
		return
	}
	i.report(host)
	if host.Mode != inject.CDI {
		return
	}
	changed, err := host.WriteSpec(injectDevices(i.settings, units))
	switch {
	case err != nil:
		i.logger.Error("the CDI specification cannot be kept: tasks that name its devices do not start", "error", err)
	case changed:
		i.logger.Info("the CDI specification was written", "file", host.SpecPath())
	}
}

// report logs the mode and what is missing, when it differs from last time.
func (i *injector) report(host inject.Host) {
	text := string(host.Mode) + host.Reason
	for _, f := range host.Findings {
		text += "\n" + f.What
	}
	i.mu.Lock()
	same := i.said == text
	i.said = text
	i.mu.Unlock()
	if same {
		return
	}
	i.logger.Info("how tasks get their GPUs", "injection", host.Mode, "reason", host.Reason, "libraries", len(host.Libraries))
	for _, f := range host.Findings {
		i.logger.Warn("tasks may lack something for their GPUs", "finding", f.What, "advice", f.Advice)
	}
}

// Reserve implements plugin.Injector.
func (i *injector) Reserve(units []inventory.Unit) (plugin.Reservation, error) {
	host, err := i.discover()
	if err != nil {
		return plugin.Reservation{}, err
	}
	grant, err := host.Reserve(injectDevices(i.settings, units))
	if err != nil {
		return plugin.Reservation{}, err
	}
	r := plugin.Reservation{Envs: grant.Envs}
	for _, m := range grant.Mounts {
		r.Mounts = append(r.Mounts, plugin.Mount{TaskPath: m.TaskPath, HostPath: m.HostPath, Writable: !m.ReadOnly})
	}
	for _, n := range grant.Nodes {
		r.Devices = append(r.Devices, plugin.DeviceNode{TaskPath: n.TaskPath, HostPath: n.HostPath, Permissions: n.Permissions})
	}
	return r, nil
}

// injectDevices says of each device what a task needs for it.
func injectDevices(s deviceconfig.Settings, units []inventory.Unit) []inject.Device {
	var devices []inject.Device
	for _, u := range units {
		d := inject.Device{UUID: u.VisibleID(), Minor: u.Device.GPU.Minor}
		if u.MIG != nil {
			d.MIG = &inject.MIG{GPUInstance: u.MIG.GPUInstance, ComputeInstance: u.MIG.ComputeInstance}
		}
		if u.Share != nil {
			d.Share = &inject.Share{Strategy: inject.Strategy(u.Share.Strategy), Replicas: int64(u.Share.Replicas)}
			if u.Share.Strategy == inventory.MPS {
				d.Share.MemoryMiB = u.MemoryMiB().Value
				d.Share.PipeDirectory, d.Share.ShmDirectory = s.MPSPipeDirectory, s.MPSShmDirectory
			}
		}
		devices = append(devices, d)
	}
	return devices
}
