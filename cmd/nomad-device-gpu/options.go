package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/nic"
	"github.com/nomad-governor/governor/device/plugin"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
)

// options are what a command was told.
type options struct {
	json, reset bool
	settings    deviceconfig.Settings
	configFile  string // empty when the defaults count
	reader      *host
}

// command parses the flags, reads the configuration, opens NVML and runs one
// command.
func command(args []string, stdout, stderr io.Writer, do func(options, io.Writer, io.Writer) int) int {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	var o options
	library := flags.String("nvml-library-path", "", "the NVML library `FILE`")
	flags.StringVar(&o.configFile, "config", "", "the Nomad client's configuration `FILE`, for its plugin block")
	if slices.Contains([]string{"fingerprint", "health"}, args[0]) {
		flags.BoolVar(&o.json, "json", false, "write JSON")
	}
	if args[0] == "groups" {
		flags.BoolVar(&o.reset, "reset", false, "forget the groups; the node must be drained")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "%s takes no arguments, got %q\n", args[0], flags.Args())
		return 2
	}
	var err error
	if o.settings, err = configured(o.configFile); err != nil {
		fmt.Fprintf(stderr, "read the configuration: %v\n", err)
		return 2
	}
	if *library != "" {
		o.settings.LibraryPath = *library
	}
	o.reader = newHost(o.settings.LibraryPath, nic.Host{Root: o.settings.SysfsPath, Names: o.settings.NICs})
	defer o.reader.Close()
	return do(o, stdout, stderr)
}

// configured is the plugin block in a file, or the default one.
func configured(file string) (deviceconfig.Settings, error) {
	if file == "" {
		return deviceconfig.Default().Check()
	}
	src, err := os.ReadFile(file)
	if err != nil {
		return deviceconfig.Settings{}, err
	}
	block, err := deviceconfig.Parse(src, file, plugin.Name)
	if err != nil {
		return deviceconfig.Settings{}, err
	}
	return plugin.Merge(block)
}

// read is one reading, as the plugin would start with, and the layout by which
// its GPUs become devices.
func read(o options, stderr io.Writer) (inventory.Inventory, inventory.Layout, bool) {
	readings, err := o.reader.Read()
	if err != nil {
		fmt.Fprintf(stderr, "read the GPUs: %v\n\nRun nomad-device-gpu doctor for what to do.\n", err)
		return inventory.Inventory{}, inventory.Layout{}, false
	}
	inv := inventory.Observe(inventory.Inventory{Policy: o.settings.Policy}, readings)
	for _, failure := range inv.Unidentified {
		fmt.Fprintf(stderr, "warning: a GPU does not answer and is left out: %s\n", failure)
	}
	layout, err := layoutOf(o.settings, inv)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return inventory.Inventory{}, inventory.Layout{}, false
	}
	return inv, layout, true
}

// layoutOf is the layout with the groups that are kept for this node and those
// that new GPUs would get. Nothing is written.
func layoutOf(s deviceconfig.Settings, inv inventory.Inventory) (inventory.Layout, error) {
	id, err := plugin.LoadIdentity(s.StateDir)
	if err != nil {
		return inventory.Layout{}, err
	}
	id, _ = id.Adopt(inv, s.Grouping)
	layout := s.Layout
	layout.Islands, layout.Names = id.Islands, id.Names
	layout.MPSProblem = plugin.MPSProblem(s)
	return layout, nil
}
