package plugin

import (
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/structs"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu"
)

// deviceGroups translates to Nomad's types. The slices keep their order:
// Nomad compares them as they are (nomad/node_endpoint.go, equalDevices).
func deviceGroups(groups []inventory.Group) []*device.DeviceGroup {
	out := make([]*device.DeviceGroup, 0, len(groups))
	for _, g := range groups {
		group := &device.DeviceGroup{Vendor: g.Vendor, Type: g.Type, Name: g.Name,
			Attributes: make(map[string]*structs.Attribute, len(g.Attributes))}
		for name, v := range g.Attributes {
			if v.IsText {
				group.Attributes[name] = structs.NewStringAttribute(v.Text)
			} else {
				group.Attributes[name] = structs.NewIntAttribute(v.Number, v.Unit)
			}
		}
		for _, i := range g.Instances {
			group.Devices = append(group.Devices, &device.Device{
				ID: i.ID, Healthy: i.Healthy, HealthDesc: i.HealthDesc,
				HwLocality: &device.DeviceLocality{PciBusID: i.PCIBusID}})
		}
		out = append(out, group)
	}
	return out
}

// figures are what stats are made of.
type figures struct {
	samples   []inventory.Sample
	failure   string // why there are no samples; empty when there are
	processes map[string][]inventory.Metric
	now       time.Time
}

// statsGroups gives every published device an entry: Nomad's CLI dereferences
// the entry of each (command/helper_devices.go). Units come by group.
func statsGroups(units []inventory.Unit, f figures) []*device.DeviceGroupStats {
	byUUID := make(map[string]inventory.Sample, len(f.samples))
	for _, s := range f.samples {
		byUUID[s.UUID] = s
	}
	out := []*device.DeviceGroupStats{}
	for i, u := range units {
		if i == 0 || units[i-1].Type != u.Type || units[i-1].Name != u.Name {
			out = append(out, &device.DeviceGroupStats{Vendor: gpu.Vendor, Type: u.Type, Name: u.Name,
				InstanceStats: map[string]*device.DeviceStats{}})
		}
		sample, answered := byUUID[u.Device.GPU.UUID]
		it := inventory.Figures{GPU: sample, Failure: f.failure, Processes: f.processes[u.ID]}
		if u.MIG != nil {
			it.Instance, answered = byUUID[u.MIG.UUID]
		}
		if !answered && it.Failure == "" {
			it.Failure = "the GPU did not answer"
		}
		out[len(out)-1].InstanceStats[u.ID] = deviceStats(u, it, f.now)
	}
	return out
}

func deviceStats(u inventory.Unit, f inventory.Figures, now time.Time) *device.DeviceStats {
	summary, all := inventory.Metrics(u, f)
	stats := &structs.StatObject{Attributes: make(map[string]*structs.StatValue, len(all))}
	for _, m := range all {
		stats.Attributes[m.Key] = statValue(m)
	}
	return &device.DeviceStats{Summary: statValue(summary), Stats: stats, Timestamp: now}
}

func statValue(m inventory.Metric) *structs.StatValue {
	v := &structs.StatValue{Unit: m.Unit, Desc: m.Desc}
	if m.Text != "" {
		v.StringVal = &m.Text
		return v
	}
	v.IntNumeratorVal = &m.Value.Value
	if m.Denominator.Known {
		v.IntDenominatorVal = &m.Denominator.Value
	}
	return v
}

func containerReservation(r Reservation) *device.ContainerReservation {
	out := &device.ContainerReservation{Envs: r.Envs}
	for _, m := range r.Mounts {
		out.Mounts = append(out.Mounts, &device.Mount{TaskPath: m.TaskPath, HostPath: m.HostPath, ReadOnly: !m.Writable})
	}
	for _, d := range r.Devices {
		out.Devices = append(out.Devices, &device.DeviceSpec{TaskPath: d.TaskPath, HostPath: d.HostPath, CgroupPerms: d.Permissions})
	}
	return out
}

func list(units []inventory.Unit) string {
	if len(units) == 0 {
		return "none"
	}
	ids := []string{}
	for _, u := range units {
		ids = append(ids, gpu.DeviceName(gpu.Vendor, u.Type, u.Name)+"["+u.ID+"]")
	}
	return strings.Join(ids, ", ")
}
