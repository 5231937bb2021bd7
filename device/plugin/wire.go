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

// statsGroups gives every published device an entry: Nomad's CLI dereferences
// the entry of each (command/helper_devices.go).
func statsGroups(inv inventory.Inventory, samples []inventory.Sample, failure string, now time.Time) []*device.DeviceGroupStats {
	byUUID := map[string]inventory.Sample{}
	for _, s := range samples {
		byUUID[s.UUID] = s
	}
	out := []*device.DeviceGroupStats{}
	for _, g := range inv.Groups() {
		group := &device.DeviceGroupStats{Vendor: g.Vendor, Type: g.Type, Name: g.Name,
			InstanceStats: make(map[string]*device.DeviceStats, len(g.Instances))}
		for _, i := range g.Instances {
			d, _ := inv.Device(i.ID) // every instance is a device
			s, answered := byUUID[i.ID]
			if !answered {
				s.Failure = "the GPU did not answer"
			}
			if failure != "" {
				s.Failure = failure
			}
			group.InstanceStats[i.ID] = deviceStats(d, s, now)
		}
		out = append(out, group)
	}
	return out
}

func deviceStats(d inventory.Device, s inventory.Sample, now time.Time) *device.DeviceStats {
	summary, all := inventory.Metrics(d, s)
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

func list(inv inventory.Inventory) string {
	if len(inv.Devices) == 0 {
		return "none"
	}
	ids := []string{}
	for _, d := range inv.Devices {
		ids = append(ids, gpu.DeviceName(gpu.Vendor, gpu.TypeGPU, d.GPU.Name)+"["+d.GPU.UUID+"]")
	}
	return strings.Join(ids, ", ")
}
