package injection

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inject"
	"github.com/nomad-governor/governor/device/inject/injecttest"
)

// container is what a container engine makes of CDI devices.
type container struct {
	Process struct{ Env []string }
	Linux   struct {
		Devices []struct {
			Path, Type   string
			Major, Minor int64
		}
		Resources struct {
			Devices []struct {
				Allow  bool
				Access string
			}
		}
	}
	Mounts []struct {
		Source, Destination string
		Options             []string
	}
}

// TestEnginesGiveWhatTheModeDevicesGives has the library of podman and Docker
// read our specification: a container with the CDI devices gets the nodes, the
// mounts and the search path of a task in the mode devices.
func TestEnginesGiveWhatTheModeDevicesGives(t *testing.T) {
	t.Parallel()
	root, nvcdi := node(t, "/usr/lib64")
	spec, err := discover(t, inject.CDI, root).Spec(devices)
	must.NoError(t, err)
	// The engine sees the node's files at its root.
	text := strings.ReplaceAll(string(spec), root+"/", "/")
	must.NoError(t, injecttest.Write(filepath.Join(root, "var/run/cdi/governor.nomad-gpu.json"), []byte(text), 0o644))

	asks := map[string][]inject.Device{"all devices": devices, "a MIG instance and a GPU": {devices[2], devices[0]}}
	for _, d := range devices {
		asks[d.UUID] = []inject.Device{d}
	}
	for name, ask := range asks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			named, err := discover(t, inject.CDI, root).Reserve(ask)
			must.NoError(t, err)
			var got container
			names := strings.Split(named.Envs[inject.EnvCDIDevices], ",")
			run(t, &got, "", nvcdi, append([]string{"inject", root}, names...)...)

			want, err := discover(t, inject.Devices, root).Reserve(ask)
			must.NoError(t, err)
			compareContainer(t, root, want, got)
			must.Eq(t, want.Nodes, named.Nodes, must.Sprint("other drivers get the nodes by the grant"))
		})
	}
}

func compareContainer(t *testing.T, root string, want inject.Grant, got container) {
	t.Helper()
	wanted, seen := []string{}, []string{}
	for _, n := range want.Nodes {
		wanted = append(wanted, fmt.Sprintf("node %s c 1:3", n.TaskPath))
	}
	for _, m := range want.Mounts {
		wanted = append(wanted, fmt.Sprintf("mount %s from %s", m.TaskPath, strings.TrimPrefix(m.HostPath, root)))
	}
	wanted = append(wanted, "env "+inject.EnvLibraryPath+"="+want.Envs[inject.EnvLibraryPath])
	for _, d := range got.Linux.Devices {
		seen = append(seen, fmt.Sprintf("node %s %s %d:%d", d.Path, d.Type, d.Major, d.Minor))
	}
	for _, m := range got.Mounts {
		seen = append(seen, fmt.Sprintf("mount %s from %s", m.Destination, m.Source))
		must.SliceContains(t, m.Options, "ro")
	}
	for _, pair := range got.Process.Env {
		seen = append(seen, "env "+pair)
	}
	slices.Sort(wanted)
	slices.Sort(seen)
	must.Eq(t, wanted, seen)
	for _, rule := range got.Linux.Resources.Devices {
		must.True(t, rule.Allow)
		must.Eq(t, "rw", rule.Access)
	}
	must.GreaterEq(t, len(want.Nodes), len(got.Linux.Resources.Devices), must.Sprint("two instances of a GPU allow its node twice"))
}
