package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/nomad-governor/governor/device/plugin"
)

// groups prints the topology groups and names that are kept for this node's
// GPUs, or forgets them.
func groups(o options, stdout, stderr io.Writer) int {
	file := plugin.IdentityPath(o.settings.StateDir)
	if o.reset {
		err := os.Remove(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(stderr, "forget the groups: %v\n", err)
			return 1
		}
		fmt.Fprintf(stdout, "removed %s\nRestart the Nomad client while the node is drained: GPUs whose group changes under an allocation are handed out twice.\n", file)
		return 0
	}
	id, err := plugin.LoadIdentity(o.settings.StateDir)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	if id.Grouping == "" {
		fmt.Fprintf(stdout, "no groups are kept in %s: the plugin has not seen a GPU here\n", file)
		return 0
	}
	fmt.Fprintf(stdout, "%s, kept in %s\n", id.Grouping, file)
	for _, uuid := range slices.Sorted(maps.Keys(id.Islands)) {
		name := id.Islands[uuid]
		if name == "" {
			name = "-"
		}
		fmt.Fprintf(stdout, "  %s  %s  %s\n", uuid, name, id.Names[uuid])
	}
	return 0
}
