package main

import (
	"context"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/device/exporter"
	"github.com/nomad-governor/governor/device/exporter/metrics"
	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/plugin"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/version"
)

// listen serves the plugin's view to Prometheus until ctx ends. o may be nil.
func listen(ctx context.Context, address string, view func(context.Context) plugin.View, o *occupants, logger hclog.Logger) error {
	listener, err := exporter.Listen(address)
	if err != nil {
		return err
	}
	hostname, err := os.Hostname()
	if err != nil {
		hostname = ""
	}
	logger.Info("metrics are served", "address", listener.Addr().String())
	var lastSuccess time.Time
	return exporter.Serve(ctx, listener, exporter.Options{
		Logger: logger, Now: time.Now,
		Snapshot: func(ctx context.Context) metrics.Snapshot { // one at a time, so that lastSuccess needs no lock
			v := view(ctx)
			s := snapshot(v)
			s.Hostname = hostname
			if v.Failure == "" {
				lastSuccess = v.At
				if o != nil {
					s.Uses, s.UsesKnown = o.look(v.Inventory, v.Samples), true
				}
			}
			s.LastSuccess = lastSuccess
			return s
		}})
}

// snapshot is the plugin's view in the exporter's words.
func snapshot(v plugin.View) metrics.Snapshot {
	s := metrics.Snapshot{DriverVersion: v.Inventory.DriverVersion, CUDAVersion: v.Inventory.CUDAVersion,
		PluginVersion: version.String(), At: v.At}
	if v.Failure == "" {
		s.Samples = v.Samples
	}
	for _, u := range v.Units {
		g := u.Device.GPU
		d := metrics.Device{ID: u.ID, Group: gpu.DeviceName(gpu.Vendor, u.Type, u.Name), GPU: g.UUID, PCIBusID: g.PCIBusID,
			Model: g.Name, Index: g.Index, Minor: g.Minor, Unhealthy: string(u.ReasonCode()),
			LastXID: inventory.Known(u.Device.LastXID), XIDs: u.Device.XIDs()}
		for _, c := range u.Conditions() {
			if c.Severity == inventory.Degraded {
				d.Degraded = append(d.Degraded, string(c.Code))
			}
		}
		if u.MIG != nil {
			d.Instance, d.Profile = u.MIG.UUID, u.MIG.Profile
			d.GPUInstance, d.ComputeInstance = u.MIG.GPUInstance, u.MIG.ComputeInstance
		}
		s.Devices = append(s.Devices, d)
	}
	return s
}
