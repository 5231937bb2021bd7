package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/nvml"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// options are the flags of every command that reads GPUs.
type options struct {
	json   bool
	reader *nvml.Reader
}

// command parses the flags, opens NVML and runs one command.
func command(args []string, stdout, stderr io.Writer, do func(options, io.Writer, io.Writer) int) int {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	library := flags.String("nvml-library-path", "", "the NVML library file")
	asJSON := false
	if args[0] == "fingerprint" {
		flags.BoolVar(&asJSON, "json", false, "write JSON")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "%s takes no arguments, got %q\n", args[0], flags.Args())
		return 2
	}
	reader := nvml.New(*library, time.Now)
	defer reader.Close()
	return do(options{json: asJSON, reader: reader}, stdout, stderr)
}

// read is one reading, as the plugin would start with.
func read(o options, stderr io.Writer) (inventory.Inventory, bool) {
	readings, err := o.reader.Read()
	if err != nil {
		fmt.Fprintf(stderr, "read the GPUs: %v\n\nRun nomad-device-gpu doctor for what to do.\n", err)
		return inventory.Inventory{}, false
	}
	inv := inventory.Observe(inventory.Inventory{}, readings)
	for _, failure := range inv.Unidentified {
		fmt.Fprintf(stderr, "warning: a GPU does not answer and is left out: %s\n", failure)
	}
	return inv, true
}

func fingerprint(o options, stdout, stderr io.Writer) int {
	inv, ok := read(o, stderr)
	if !ok {
		return 1
	}
	groups := inv.Groups(inventory.Layout{})
	if o.json {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(jsonGroups(groups)); err != nil {
			fmt.Fprintf(stderr, "write the fingerprint: %v\n", err)
			return 1
		}
		return 0
	}
	for i, g := range groups {
		if i > 0 {
			fmt.Fprintln(stdout)
		}
		fmt.Fprintf(stdout, "%s\n", gpu.DeviceName(g.Vendor, g.Type, g.Name))
		for _, name := range slices.Sorted(maps.Keys(g.Attributes)) {
			fmt.Fprintf(stdout, "  %-22s %s\n", name, g.Attributes[name])
		}
		for _, d := range g.Instances {
			fmt.Fprintf(stdout, "  %s  %s  %s\n", d.ID, d.PCIBusID, d.Health())
		}
	}
	if len(groups) == 0 {
		fmt.Fprintln(stdout, "no GPUs")
	}
	return 0
}

type jsonGroup struct {
	Name       string         `json:"name"`
	Attributes map[string]any `json:"attributes"`
	Devices    []jsonDevice   `json:"devices"`
}

type jsonDevice struct {
	ID         string `json:"id"`
	PCIBusID   string `json:"pci_bus_id"`
	Healthy    bool   `json:"healthy"`
	HealthDesc string `json:"health_desc,omitempty"`
}

func jsonGroups(groups []inventory.Group) []jsonGroup {
	out := []jsonGroup{}
	for _, g := range groups {
		jg := jsonGroup{Name: gpu.DeviceName(g.Vendor, g.Type, g.Name), Attributes: map[string]any{}}
		for name, v := range g.Attributes {
			switch {
			case v.IsText:
				jg.Attributes[name] = v.Text
			case v.Unit == "":
				jg.Attributes[name] = v.Number
			default:
				jg.Attributes[name] = v.String()
			}
		}
		for _, d := range g.Instances {
			jg.Devices = append(jg.Devices, jsonDevice{
				ID: d.ID, PCIBusID: d.PCIBusID, Healthy: d.Healthy, HealthDesc: d.HealthDesc})
		}
		out = append(out, jg)
	}
	return out
}

func topo(o options, stdout, stderr io.Writer) int {
	inv, ok := read(o, stderr)
	if !ok {
		return 1
	}
	if len(inv.Devices) == 0 {
		fmt.Fprintln(stdout, "no GPUs")
		return 0
	}
	m := inv.Matrix()
	if m == nil {
		fmt.Fprintf(stderr, "%d GPUs are more than a topology of %d holds\n", len(inv.Devices), topology.MaxGPUs)
		return 1
	}
	topoTable(stdout, inv, m, "connections", func(i, j int) string {
		if n := m.Links(i, j); n > 0 {
			return fmt.Sprintf("NV%d", n)
		}
		return m.Path(i, j).String()
	})
	fmt.Fprintln(stdout)
	topoTable(stdout, inv, m, "GB/s one way, as a collective sees it", func(i, j int) string {
		tenths := (m.EffectiveMBps(i, j) + 50) / 100
		return fmt.Sprintf("%d.%d", tenths/10, tenths%10)
	})
	fmt.Fprint(stdout, `
NV#   # NVLinks bonded      PIX   one PCIe switch       PXB   several PCIe switches
PHB   one host bridge       NODE  one NUMA node         SYS   across NUMA nodes
`)
	return 0
}

func topoTable(w io.Writer, inv inventory.Inventory, m *topology.Matrix, title string, cell func(i, j int) string) {
	fmt.Fprintln(w, title)
	fmt.Fprintf(w, "%-8s", "")
	for i := range inv.Devices {
		fmt.Fprintf(w, "%-7s", fmt.Sprintf("GPU%d", i))
	}
	fmt.Fprintln(w, "NUMA  PCI address   UUID")
	for i, d := range inv.Devices {
		fmt.Fprintf(w, "%-8s", fmt.Sprintf("GPU%d", i))
		for j := range inv.Devices {
			text := "X"
			if i != j {
				text = cell(i, j)
			}
			fmt.Fprintf(w, "%-7s", text)
		}
		node := "?"
		if m.NUMA(i) != topology.UnknownNUMA {
			node = fmt.Sprint(m.NUMA(i))
		}
		fmt.Fprintf(w, "%-6s%-14s%s\n", node, d.GPU.PCIBusID, d.GPU.UUID)
	}
}

func doctor(o options, stdout, _ io.Writer) int {
	ok := true
	say := func(good bool, what, advice string) {
		mark := "ok  "
		if !good {
			mark, ok = "FAIL", false
		}
		fmt.Fprintf(stdout, "[%s] %s\n", mark, what)
		if !good && advice != "" {
			fmt.Fprintf(stdout, "       %s\n", strings.ReplaceAll(advice, "\n", "\n       "))
		}
	}
	readings, err := o.reader.Read()
	if err != nil {
		say(false, err.Error(), advice(err))
		return 1
	}
	say(true, "NVML library: "+o.reader.Path(), "")
	say(true, fmt.Sprintf("driver %s, CUDA %s", orUnknown(readings.DriverVersion), orUnknown(readings.CUDAVersion)), "")
	inv := inventory.Observe(inventory.Inventory{}, readings)
	say(len(readings.GPUs) > 0, fmt.Sprintf("%d GPUs", len(readings.GPUs)),
		"The driver is loaded and sees no GPU. Check lspci -d 10de: and the kernel log.")
	for _, u := range inv.Units(inventory.Layout{}) {
		reason := u.Reason()
		say(reason == "", fmt.Sprintf("%s  %s  %s  %s", u.Device.GPU.PCIBusID, u.ID, u.Name, reason),
			"Nomad will not use this GPU until the cause is gone.")
	}
	for _, failure := range inv.Unidentified {
		say(false, "a GPU that never answered: "+failure, "See the kernel log (dmesg) for NVRM lines. A GPU reset or a reboot may be needed.")
	}
	node, err := os.Stat("/dev/nvidiactl")
	switch {
	case errors.Is(err, os.ErrNotExist):
		say(false, "/dev/nvidiactl is missing", "Tasks need the device nodes. Create them: nvidia-modprobe -u -c 0")
	case err != nil:
		say(false, "/dev/nvidiactl: "+err.Error(), "Run the Nomad client as root.")
	default:
		say(node.Mode()&os.ModeDevice != 0, "/dev/nvidiactl is a device node", "It is an ordinary file: remove it and run nvidia-modprobe -u -c 0")
	}
	if !ok {
		return 1
	}
	return 0
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
