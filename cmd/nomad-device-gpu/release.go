package main

import (
	"fmt"
	"io"

	"github.com/nomad-governor/governor/device/plugin"
)

// release makes the plugin on this node let go of the driver.
func release(o options, stdout, stderr io.Writer) int {
	if err := plugin.SetReleased(o.settings.StateDir, true); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintln(stdout, `The plugin lets go of the driver within seconds; its devices are unhealthy meanwhile, and tasks that run are not touched.
The kernel modules can be unloaded when no task uses a GPU: drain the node first. Stop nvidia-persistenced and nvidia-fabricmanager too.
Afterwards run: nomad-device-gpu resume`)
	return 0
}

// resume lets the plugin take the driver again.
func resume(o options, stdout, stderr io.Writer) int {
	if err := plugin.SetReleased(o.settings.StateDir, false); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintln(stdout, "The plugin takes the driver again within seconds.")
	return 0
}
