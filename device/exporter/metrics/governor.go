package metrics

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/device/occupancy"
)

// Write writes the page of a snapshot.
func Write(w io.Writer, s Snapshot) error {
	var p page
	places := s.places()
	p.dcgm(s, places)
	p.devices(s)
	p.places(s, places)
	p.processes(s, places)
	p.plugin(s)
	if _, err := w.Write(p.text.Bytes()); err != nil {
		return fmt.Errorf("write the metrics: %w", err)
	}
	return nil
}

// dcgmBusID is a PCI address in the form that DCGM and nvidia-smi use: an eight
// digit domain, and capitals.
func dcgmBusID(sysfs string) string {
	domain, rest, ok := strings.Cut(sysfs, ":")
	if !ok {
		return sysfs
	}
	return strings.ToUpper(strings.Repeat("0", max(0, 8-len(domain))) + domain + ":" + rest)
}

// labels name a device.
func (d Device) labels(s Snapshot, more ...label) []label {
	labels := append([]label{{"device_id", d.ID}, {"gpu", strconv.Itoa(d.Index)}, {"UUID", d.GPU}}, d.instanceLabels()...)
	return append(append(labels, label{"Hostname", s.Hostname}), more...)
}

// labels name a place.
func (p place) labels(s Snapshot, more ...label) []label {
	labels := append([]label{{"gpu", strconv.Itoa(p.device.Index)}, {"UUID", p.device.GPU}}, p.instanceLabels()...)
	return append(append(labels, label{"Hostname", s.Hostname}), more...)
}

// devices writes what Nomad is told of each device.
func (p *page) devices(s Snapshot) {
	var info, healthy, unhealthy, degraded []series
	for _, d := range s.devices() {
		info = append(info, series{d.labels(s, label{"group", d.Group}, label{"model", d.Model}, label{"pci_bus_id", dcgmBusID(d.PCIBusID)},
			label{"device", d.node()}, label{"driver_version", s.DriverVersion}, label{"cuda_version", s.CUDAVersion}), "1"})
		healthy = append(healthy, series{d.labels(s), bit(d.Unhealthy == "")})
		if d.Unhealthy != "" {
			unhealthy = append(unhealthy, series{d.labels(s, label{"reason", code(d.Unhealthy)}), "1"})
		}
		for _, reason := range codes(d.Degraded) {
			degraded = append(degraded, series{d.labels(s, label{"reason", reason}), "1"})
		}
	}
	p.family("governor_gpu_info", gauge, "A device that Nomad is told of, with what does not change; always 1.", info)
	p.family("governor_gpu_healthy", gauge, "1 when the device is offered, 0 when it is not.", healthy)
	p.family("governor_gpu_unhealthy", gauge, "1 for the reason why the device is not offered.", unhealthy)
	p.family("governor_gpu_degraded", gauge, "1 for each thing that is wrong with the device though it is offered.", degraded)
}

// codes sorts codes and says each once.
func codes(list []string) []string {
	cleaned := make([]string, 0, len(list))
	for _, text := range list {
		cleaned = append(cleaned, code(text))
	}
	slices.Sort(cleaned)
	cleaned = slices.Compact(cleaned)
	return cleaned[:min(len(cleaned), degradedMax)]
}

// places writes what belongs to GPUs and instances and has no name in DCGM.
func (p *page) places(s Snapshot, places []place) {
	fields := []field{
		{"governor_gpu_nvlink_sent_bytes_total", counter, "Data sent over all NVLinks since the driver was loaded.", scaled(1024, func(s sample) number { return s.NVLinkSentKiB })},
		{"governor_gpu_nvlink_received_bytes_total", counter, "Data received over all NVLinks since the driver was loaded.", scaled(1024, func(s sample) number { return s.NVLinkReceivedKiB })},
		{"governor_gpu_nvlink_crc_errors_total", counter, "NVLink checksum errors, all links.", whole(func(s sample) number { return s.NVLinkCRC })},
		{"governor_gpu_pcie_sent_bytes_per_second", gauge, "PCIe traffic from the GPU.", scaled(1000, func(s sample) number { return s.PCIeSentKBps })},
		{"governor_gpu_pcie_received_bytes_per_second", gauge, "PCIe traffic to the GPU.", scaled(1000, func(s sample) number { return s.PCIeReceivedKBps })},
	}
	for _, f := range fields {
		var lines []series
		for _, at := range places {
			if value, known := f.of(at, 0); known {
				lines = append(lines, series{at.labels(s), value})
			}
		}
		p.family(f.name, f.kind, f.help, lines)
	}
	var xids []series
	for _, at := range places {
		if at.whole {
			xids = append(xids, at.xids(s)...)
		}
	}
	p.family("governor_gpu_xid_errors_total", counter, "XIDs that the driver reported since the plugin started, by number.", xids)
}

func scaled(factor int64, get func(sample) number) func(place, time.Duration) (string, bool) {
	return func(p place, _ time.Duration) (string, bool) {
		v := get(p.sample)
		return strconv.FormatInt(v.Value*factor, 10), v.Known
	}
}

// xids counts the GPU's XIDs; those of the greatest numbers beyond the limit
// are counted together.
func (p place) xids(s Snapshot) []series {
	var lines []series
	var others int64
	for i, xid := range slices.Sorted(maps.Keys(p.device.XIDs)) {
		if i >= xidsMax {
			others += p.device.XIDs[xid]
			continue
		}
		lines = append(lines, series{p.labels(s, label{"xid", strconv.FormatInt(xid, 10)}), strconv.FormatInt(p.device.XIDs[xid], 10)})
	}
	if others > 0 {
		lines = append(lines, series{p.labels(s, label{"xid", "other"}), strconv.FormatInt(others, 10)})
	}
	return lines
}

// processes writes how many processes there are, and how many should not be.
// Where somebody looks, none is a count too.
func (p *page) processes(s Snapshot, places []place) {
	var all, rogue, unjudged []series
	counts := tally(s.Uses, places)
	byInstances := map[string]bool{} // which list the processes of their GPU
	for _, at := range places {
		if !at.whole && at.sample.ProcessesKnown {
			byInstances[at.device.GPU] = true
		}
	}
	for _, at := range places {
		if at.sample.ProcessesKnown && (!at.whole || !byInstances[at.device.GPU]) {
			all = append(all, series{at.labels(s), strconv.Itoa(len(at.sample.Processes))})
		}
		if !s.UsesKnown || !at.sample.ProcessesKnown {
			continue
		}
		count := func(v occupancy.Verdict) string { return strconv.Itoa(counts[tallyKey{at.uuid, v}]) }
		for _, v := range []occupancy.Verdict{occupancy.NotHeld, occupancy.Outside} {
			rogue = append(rogue, series{at.labels(s, label{"verdict", v.String()}), count(v)})
		}
		unjudged = append(unjudged, series{at.labels(s), count(occupancy.Unknown)})
	}
	p.family("governor_gpu_processes", gauge, "Compute processes.", all)
	p.family("governor_gpu_rogue_processes", gauge, "Compute processes that use the GPU without holding it: of an allocation that was not given it (not_held), or of none (outside).", rogue)
	p.family("governor_gpu_unjudged_processes", gauge, "Compute processes of which it is not known whether they hold the GPU.", unjudged)
}

type tallyKey struct {
	uuid    string
	verdict occupancy.Verdict
}

// tally counts uses by place and verdict. A use of a share, or of an instance
// that is not offered, is one of the GPU.
func tally(uses []occupancy.Use, places []place) map[tallyKey]int {
	counts := map[tallyKey]int{}
	for _, u := range uses {
		uuid := u.GPU
		if slices.ContainsFunc(places, func(p place) bool { return p.uuid == u.DeviceID && p.sample.ProcessesKnown }) {
			uuid = u.DeviceID
		}
		counts[tallyKey{uuid, u.Verdict}]++
	}
	return counts
}

// plugin writes about the plugin itself.
func (p *page) plugin(s Snapshot) {
	one := func(name, kind, help, value string, known bool) {
		if known {
			p.family(name, kind, help, []series{{[]label{{"Hostname", s.Hostname}}, value}})
		}
	}
	one("governor_gpu_worker_starts_total", counter, "Worker processes started since the plugin started; each after the first replaced one that failed, or an old driver's.",
		strconv.FormatInt(s.WorkerStarts.Value, 10), s.WorkerStarts.Known)
	one("governor_gpu_fingerprints_total", counter, "Times Nomad was told of a change since the plugin started.",
		strconv.FormatInt(s.Fingerprints.Value, 10), s.Fingerprints.Known)
	one("governor_gpu_last_success_timestamp_seconds", gauge, "When the GPUs were last sampled, seconds since 1970.",
		strconv.FormatFloat(float64(s.LastSuccess.UnixMilli())/1000, 'f', -1, 64), !s.LastSuccess.IsZero())
	if s.PluginVersion != "" {
		p.family("governor_gpu_build_info", gauge, "The plugin's version; always 1.", []series{{[]label{{"Hostname", s.Hostname}, {"version", s.PluginVersion}}, "1"}})
	}
}
