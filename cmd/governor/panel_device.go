package main

import (
	"strings"

	nomad "github.com/hashicorp/nomad/api"
)

// panelDevice is one GPU, MIG instance or share of an allocation. What is not known of it
// is nil.
type panelDevice struct {
	ID     string `json:"id"`
	Task   string `json:"task"`
	Device string `json:"device"`
	// Health is healthy, or what is wrong; "" where nobody knows.
	Health string `json:"health,omitempty"`
	// UtilizationPercent is the share of time in which a kernel ran.
	UtilizationPercent *int64 `json:"utilization_percent,omitempty"`
	MemoryUsedMiB      *int64 `json:"memory_used_mib,omitempty"`
	MemoryTotalMiB     *int64 `json:"memory_total_mib,omitempty"`
	TemperatureC       *int64 `json:"temperature_c,omitempty"`
	PowerW             *int64 `json:"power_w,omitempty"`
	PowerLimitW        *int64 `json:"power_limit_w,omitempty"`
	// WholeGPU says that temperature and power are those of the GPU that it is a part of.
	WholeGPU bool `json:"whole_gpu,omitempty"`
}

// measure takes in what the client said. Every device of a task that it names nothing of
// stays as it is.
func (a *panelAllocation) measure(usage *nomad.AllocResourceUsage, err error) {
	if err != nil {
		a.Silent = "the node does not say how busy its GPUs are"
		return
	}
	byID := map[string]map[string]*nomad.StatValue{}
	for _, t := range usage.Tasks {
		if t == nil || t.ResourceUsage == nil {
			continue
		}
		for _, group := range t.ResourceUsage.DeviceStats {
			if group == nil {
				continue
			}
			for id, d := range group.InstanceStats {
				if d != nil && d.Stats != nil {
					byID[id] = d.Stats.Attributes
				}
			}
		}
	}
	for i := range a.Devices {
		if stats, ok := byID[a.Devices[i].ID]; ok {
			a.Devices[i].read(stats)
		}
	}
}

// read takes in the statistics of nomad-device-gpu, or of hashicorp/nomad-device-nvidia,
// which names them in another way.
func (d *panelDevice) read(stats map[string]*nomad.StatValue) {
	d.UtilizationPercent, _ = figure(stats, "gpu.utilization", "GPU utilization")
	d.MemoryUsedMiB, d.MemoryTotalMiB = figure(stats, "memory.used", "Memory state")
	d.TemperatureC, _ = figure(stats, "temperature", "Temperature")
	d.PowerW, d.PowerLimitW = figure(stats, "power.usage", "Power usage")
	if d.TemperatureC == nil && d.PowerW == nil {
		d.TemperatureC, _ = figure(stats, "mig.parent.temperature")
		d.PowerW, d.PowerLimitW = figure(stats, "mig.parent.power")
		d.WholeGPU = d.TemperatureC != nil || d.PowerW != nil || strings.HasPrefix(d.ID, "MIG-")
	}
	if health := stats["health"]; health != nil && health.StringVal != nil && *health.StringVal != "" {
		d.Health = *health.StringVal
	}
}

// figure is the first of some statistics that is there, and what it is a part of.
func figure(stats map[string]*nomad.StatValue, names ...string) (value, of *int64) {
	for _, name := range names {
		s := stats[name]
		if s == nil {
			continue
		}
		if v := wholeNumber(s.IntNumeratorVal, s.FloatNumeratorVal); v != nil {
			return v, wholeNumber(s.IntDenominatorVal, s.FloatDenominatorVal)
		}
	}
	return nil, nil
}

func wholeNumber(i *int64, f *float64) *int64 {
	if i == nil && f != nil {
		return new(int64(*f))
	}
	return i
}
