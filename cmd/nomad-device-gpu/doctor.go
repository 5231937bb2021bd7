package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nomad-governor/governor/device/inject"
	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/nic"
	"github.com/nomad-governor/governor/device/nvml"
	"github.com/nomad-governor/governor/device/plugin"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// mark is how bad a finding is.
type mark string

const (
	good mark = "ok"
	note mark = "note" // works, and may not be what was meant
	bad  mark = "FAIL"
)

// checkup prints findings and remembers whether any was bad.
type checkup struct {
	out    io.Writer
	failed bool
}

func (c *checkup) say(m mark, what, advice string) {
	c.failed = c.failed || m == bad
	fmt.Fprintf(c.out, "[%-4s] %s\n", m, what)
	if m != good && advice != "" {
		fmt.Fprintf(c.out, "       %s\n", strings.ReplaceAll(advice, "\n", "\n       "))
	}
}

// sayIf says one thing when it holds, and another when it does not.
func (c *checkup) sayIf(holds bool, what string, otherwise mark, but, advice string) {
	if holds {
		c.say(good, what, "")
		return
	}
	c.say(otherwise, but, advice)
}

// doctor says what works, what does not, and what to do.
func doctor(o options, stdout, _ io.Writer) int {
	c := &checkup{out: stdout}
	if o.configFile != "" {
		c.say(good, "configuration: "+o.configFile, "")
	}
	c.process(o.settings)
	readings, err := o.reader.Read()
	if err != nil {
		c.say(bad, err.Error(), advice(err))
		return 1
	}
	c.say(good, "NVML library: "+o.reader.Path(), "")
	c.say(good, fmt.Sprintf("driver %s, CUDA %s", orUnknown(readings.DriverVersion), orUnknown(readings.CUDAVersion)), "")
	c.sayIf(len(readings.GPUs) > 0, fmt.Sprintf("%d GPUs", len(readings.GPUs)), bad, "no GPUs",
		"The driver is loaded and sees no GPU. Check lspci -d 10de: and the kernel log.")
	inv := inventory.Inventory{Policy: o.settings.Policy}
	for range lasting {
		inv = inventory.Observe(inv, readings)
	}
	layout, err := layoutOf(o.settings, inv)
	if err != nil {
		c.say(bad, err.Error(), "")
		return 1
	}
	c.devices(inv, layout)
	c.network(o.settings, inv)
	c.layout(o.settings, inv, layout)
	c.injection(o.settings, readings.DriverVersion, inv.Units(layout))
	if c.failed {
		return 1
	}
	return 0
}

// process checks what the plugin needs from its own surroundings.
func (c *checkup) process(s deviceconfig.Settings) {
	c.sayIf(os.Geteuid() == 0, "running as root, as a Nomad client does", note, "not running as root",
		"What a Nomad client can see and open may differ. Run doctor as the client's user.")
	if os.Getenv("LD_BIND_NOW") != "" {
		c.say(bad, "LD_BIND_NOW is set", "The dynamic linker then looks for all of NVML at start, before there is a library. Unset it for the Nomad client.")
	}
	dir := s.StateDir
	for { // the first directory that is there decides
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	probe, err := os.CreateTemp(dir, ".doctor-*")
	if err == nil {
		err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	c.sayIf(err == nil, "state directory "+s.StateDir+" can be written", bad, "state directory "+s.StateDir+": "+text,
		"The plugin keeps the GPUs' groups there, and what proves who holds which GPU. Set state_dir to a directory that the client can write.")
}

// devices checks each GPU and what the driver says of it.
func (c *checkup) devices(inv inventory.Inventory, layout inventory.Layout) {
	for _, u := range inv.Units(layout) {
		m, text, what := good, "", "Nomad will not use this device until the cause is gone."
		switch reason := u.Reason(); {
		case reason != "":
			m, text = bad, "  "+reason
		case u.Degradation() != "":
			m, text, what = note, "  "+u.HealthDesc(), "Nomad uses the device. To keep jobs away set withhold_degraded in the health block."
		}
		c.say(m, fmt.Sprintf("%s  %s  %s%s", u.Device.GPU.PCIBusID, u.ID, u.Name, text), what)
	}
	for _, failure := range inv.Unidentified {
		c.say(bad, "a GPU that never answered: "+failure, "See the kernel log (dmesg) for NVRM lines. A GPU reset or a reboot may be needed.")
	}
	var modes, prohibited []string
	for _, d := range inv.Devices {
		if d.GPU.Persistence.Known && !d.GPU.Persistence.Value {
			modes = append(modes, d.GPU.PCIBusID)
		}
		if d.GPU.ComputeMode == "prohibited" {
			prohibited = append(prohibited, d.GPU.PCIBusID)
		}
	}
	if len(modes) > 0 {
		c.say(note, "persistence mode is off on "+strings.Join(modes, ", "),
			"The driver is unloaded from an idle GPU, and the first task waits for seconds. Run nvidia-persistenced.")
	}
	if len(prohibited) > 0 {
		c.say(bad, "compute mode is prohibited on "+strings.Join(prohibited, ", "), "No task can use CUDA there: nvidia-smi -c DEFAULT")
	}
}

// network says which NICs placement knows of. A node of one GPU has no set to choose.
func (c *checkup) network(s deviceconfig.Settings, inv inventory.Inventory) {
	var names []string
	near := 0
	for _, nic := range inv.NICs {
		names = append(names, nic.Name)
	}
	for _, d := range inv.Devices {
		if slices.ContainsFunc(inv.NICs, func(n inventory.NIC) bool { return n.Paths[d.GPU.PCIBusID] != topology.PathUnknown }) {
			near++
		}
	}
	switch {
	case len(names) == 0:
		c.say(good, "no NICs with RDMA that are up: placement does not consider the network", "")
	case near < len(inv.Devices):
		c.say(note, fmt.Sprintf("NICs: %s; the way to them is known for %d of %d GPUs", strings.Join(names, ", "), near, len(inv.Devices)),
			"Placement considers the network only for sets of GPUs of which all are known. Is sysfs mounted at "+cmp.Or(s.SysfsPath, nic.DefaultRoot)+"?")
	default:
		c.say(good, "NICs: "+strings.Join(names, ", "), "")
	}
}

// layout checks that the configuration fits the GPUs.
func (c *checkup) layout(s deviceconfig.Settings, inv inventory.Inventory, layout inventory.Layout) {
	units := inv.Units(layout)
	for i, rule := range s.Layout.Sharing {
		matched := slices.ContainsFunc(inv.Devices, func(d inventory.Device) bool { return rule.GPUs.Match(layout.Named(d.GPU)) })
		c.sayIf(matched, fmt.Sprintf("sharing block %d: %s, %d shares a GPU", i+1, rule.Strategy, rule.Replicas), note,
			fmt.Sprintf("sharing block %d matches no GPU: %q", i+1, rule.GPUs), "Write UUIDs, PCI addresses, indices or model names as shown above.")
	}
	usesMPS := slices.ContainsFunc(s.Layout.Sharing, func(r inventory.ShareRule) bool { return r.Strategy == inventory.MPS })
	if usesMPS {
		c.sayIf(layout.MPSProblem == "", "MPS control daemon at "+s.MPSPipeDirectory, bad, layout.MPSProblem,
			"See docs/device.md for a systemd unit.")
	}
	for _, id := range s.Layout.Ignored {
		_, found := inv.Device(id)
		found = found || slices.ContainsFunc(inv.Devices, func(d inventory.Device) bool {
			return slices.ContainsFunc(d.MIG, func(m inventory.MIGDevice) bool { return m.UUID == id })
		})
		c.sayIf(found, "ignored: "+id, note, "ignored_gpu_ids has "+id+", which this node does not have", "")
	}
	id, err := plugin.LoadIdentity(s.StateDir)
	if err == nil && id.Grouping != "" {
		_, ok := id.Adopt(inv, s.Grouping)
		c.sayIf(ok, fmt.Sprintf("topology groups: %s, kept in %s", id.Grouping, plugin.IdentityPath(s.StateDir)), note,
			fmt.Sprintf("topology_groups is %q and not in force: the node's groups were made by %q", s.Grouping, id.Grouping),
			"Drain the node, run nomad-device-gpu groups -reset, and restart the client.")
	}
	if len(units) > 0 && slices.ContainsFunc(inv.Devices, func(d inventory.Device) bool { return d.Switched }) {
		c.say(good, "NVSwitch: "+fabricSummary(inv), "")
	}
}

func fabricSummary(inv inventory.Inventory) string {
	counts := map[string]int{}
	for _, d := range inv.Devices {
		counts[fabricWord(d.GPU.Fabric.State)]++
	}
	var parts []string
	for _, word := range []string{"completed", "in progress", "not started", "not supported"} {
		if n := counts[word]; n > 0 {
			parts = append(parts, fmt.Sprintf("fabric %s on %d GPUs", word, n))
		}
	}
	return strings.Join(parts, ", ")
}

// injection checks what tasks would get.
func (c *checkup) injection(s deviceconfig.Settings, driver string, units []inventory.Unit) {
	o, err := injectOptions(s)
	if err != nil {
		c.say(bad, err.Error(), "")
		return
	}
	host, err := inject.Discover(o, driver)
	if err != nil {
		c.say(bad, err.Error(), "")
		return
	}
	c.say(good, fmt.Sprintf("injection %s: %s", host.Mode, host.Reason), "")
	if len(host.Libraries) > 0 {
		c.say(good, fmt.Sprintf("%d driver libraries for tasks", len(host.Libraries)), "")
	}
	m := note
	if host.Mode != inject.Env {
		m = bad
	}
	for _, f := range host.Findings {
		c.say(m, f.What, f.Advice)
	}
	for _, u := range units {
		if u.Reason() != "" {
			continue
		}
		if _, err := host.Reserve(injectDevices(s, []inventory.Unit{u})); err != nil {
			c.say(bad, fmt.Sprintf("a task with %s: %v", u.ID, err), "")
		}
	}
}

func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}

func advice(err error) string {
	switch {
	case errors.Is(err, nvml.ErrNotFound):
		return "Install NVIDIA's driver, or say where the library is:\n" +
			"  here:      nomad-device-gpu doctor -nvml-library-path /path/to/libnvidia-ml.so.1\n" +
			"  in Nomad:  nvml_library_path in the plugin block\n" +
			"On a node without GPUs this is as it should be: the plugin offers none."
	case errors.Is(err, nvml.ErrUnusable):
		return "Install the driver's user-space package again; the file named above is not a whole NVML of this machine."
	case errors.Is(err, nvml.ErrNotReady):
		return "Load the kernel driver (modprobe nvidia) and see dmesg for NVRM lines.\n" +
			"After a driver upgrade reboot, or unload and load the modules."
	}
	return ""
}
