// Command nomad-device-gpu is Governor's device plugin for NVIDIA GPUs. Nomad
// starts it without arguments; people start it with one: fingerprint, topo,
// doctor or version.
package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/device/nvml"
	"github.com/nomad-governor/governor/device/plugin"
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

    fingerprint [-json]   the device groups and attributes that Nomad is told
    topo                  the GPUs' connections, as nvidia-smi topo -m, with GB/s
    doctor                what works, what does not, and what to do
    version               the version of this program

Options of the first three:

    -nvml-library-path FILE   the NVML library, when it is not in a usual place
`

func main() {
	if len(os.Args) == 1 && plugin.StartedByNomad(os.Getenv) {
		os.Exit(serve())
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// serve runs until Nomad ends the plugin.
func serve() int {
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, JSONFormat: true, Output: os.Stderr})
	p := plugin.New(logger, open, time.Now)
	plugin.Serve(p, logger)
	if err := p.Close(); err != nil {
		logger.Warn("the plugin did not stop cleanly", "error", err)
		return 1
	}
	return 0
}

func open(libraryPath string) plugin.Source { return nvml.New(libraryPath, time.Now) }

// run is the command line.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stdout, usage)
		return 0
	}
	switch args[0] {
	case "fingerprint":
		return command(args, stdout, stderr, fingerprint)
	case "topo":
		return command(args, stdout, stderr, topo)
	case "doctor":
		return command(args, stdout, stderr, doctor)
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
