// Command nomad-device-gpu is Governor's device plugin for NVIDIA GPUs. Nomad
// starts it without arguments; people start it with the name of a command.
package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/nic"
	"github.com/nomad-governor/governor/device/nvml"
	"github.com/nomad-governor/governor/device/plugin"
	"github.com/nomad-governor/governor/device/worker"
	"github.com/nomad-governor/governor/internal/version"
)

const usage = `nomad-device-gpu is a Nomad device plugin for NVIDIA GPUs.

Nomad starts it as a plugin: put this file in the client's plugin_dir and add
to the client's configuration

    plugin "nomad-device-gpu" {
      config {
        enabled = true
      }
    }

To see what it sees on this machine, run it with one of these commands:

    doctor                what works, what does not, and what to do
    fingerprint [-json]   the device groups and attributes that Nomad is told
    health [-json]        how each device is, and why; exit code 1 when one is unhealthy
    topo                  the GPUs' connections, as nvidia-smi topo -m, with GB/s
    groups [-reset]       the topology groups that are kept for this node's GPUs
    release, resume       make the plugin let go of the driver, so that its modules can
                          be unloaded, and take it again
    version               the version of this program

Options of all but the last:

    -config FILE              the Nomad client's configuration, for its plugin block
    -nvml-library-path FILE   the NVML library, when it is not in a usual place
`

func main() {
	if len(os.Args) == 1 && plugin.StartedByNomad(os.Getenv) {
		os.Exit(serve())
	}
	if len(os.Args) > 1 && os.Args[1] == worker.Argument {
		os.Exit(work(os.Args[2:], os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// serve runs until Nomad ends the plugin.
func serve() int {
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, JSONFormat: true, Output: os.Stderr})
	p := plugin.New(logger, parts(logger), time.Now)
	plugin.Serve(p, logger)
	if err := p.Close(); err != nil {
		logger.Warn("the plugin did not stop cleanly", "error", err)
		return 1
	}
	return 0
}

// parts is what the plugin is made of.
func parts(logger hclog.Logger) plugin.Parts {
	var watching *occupants // nil until the plugin starts, and where it cannot watch
	return plugin.Parts{
		Source: supervise("", logger),
		Injector: func(s plugin.Settings) (plugin.Injector, error) {
			return newInjector(s, logger.Named(plugin.Name+".injection"))
		},
		Occupants: func(s plugin.Settings) (plugin.Occupants, error) {
			o, err := newOccupants(s, logger.Named(plugin.Name+".occupancy"))
			if err != nil {
				return nil, err
			}
			watching = o
			return o, nil
		},
		Listen: func(ctx context.Context, s plugin.Settings, view func(context.Context) plugin.View, logger hclog.Logger) error {
			return listen(ctx, s.PrometheusAddress, view, watching, logger.Named("exporter"))
		},
	}
}

// workerProcs gives the worker's Go code one processor: it waits in C nearly all
// the time, and with two Go's monitor thread wakes a hundred times a second to
// look after the call that waits (BenchmarkIdle: 0.14 % of a core with two, 0.05 %
// with one).
const workerProcs = "GOMAXPROCS=1"

// supervise reads GPUs through a worker process: program, or this program when
// it is empty, started again.
func supervise(program string, logger hclog.Logger) func(plugin.Settings) plugin.Source {
	return func(s plugin.Settings) plugin.Source {
		return worker.New(worker.Options{
			Path: program, Args: append([]string{plugin.Name, worker.Argument, s.LibraryPath, s.SysfsPath}, s.NICs...),
			Env:    append(plugin.WithoutHandshake(os.Environ()), workerProcs),
			Jitter: rand.Float64, Now: time.Now, Logger: logger.Named(plugin.Name + ".worker")})
	}
}

// work is the worker process. It ends when its supervisor does.
func work(args []string, stderr io.Writer) int {
	requests, answers, err := worker.Pipes()
	if err == nil && len(args) < 2 {
		err = fmt.Errorf("%s takes the paths of the library and of sysfs, and the names of NICs, got %q", worker.Argument, args)
	}
	if err == nil {
		err = worker.Serve(newHost(args[0], nic.Host{Root: args[1], Names: args[2:]}), requests, answers)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", worker.Argument, err)
		return 1
	}
	return 0
}

// host reads the GPUs, and the NICs beside them.
type host struct {
	*nvml.Reader

	nics *nic.Source
}

func newHost(library string, nics nic.Host) *host {
	return &host{nvml.New(library, time.Now), nic.NewSource(nics)}
}

// Read is that of the GPUs, with the NICs, which it does not wait for.
func (h *host) Read() (inventory.Readings, error) {
	readings, err := h.Reader.Read()
	if err != nil {
		return readings, err
	}
	var addresses []string
	for _, g := range readings.GPUs {
		if g.Failure == "" {
			addresses = append(addresses, g.PCIBusID)
		}
	}
	readings.NICs = h.nics.Read(addresses)
	return readings, nil
}

// run is the command line.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stdout, usage)
		return 0
	}
	commands := map[string]func(options, io.Writer, io.Writer) int{
		"doctor": doctor, "fingerprint": fingerprint, "health": health, "topo": topo, "groups": groups,
		"release": release, "resume": resume}
	if do, found := commands[args[0]]; found {
		return command(args, stdout, stderr, do)
	}
	switch args[0] {
	case "version", "-version", "--version", "-v":
		fmt.Fprintf(stdout, "nomad-device-gpu %s\n", version.String())
		return 0
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage)
		return 0
	}
	fmt.Fprintf(stderr, "unknown command %q; run nomad-device-gpu without arguments for help\n", args[0])
	return 2
}
