package inject

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Mode is the way in which a task gets its GPUs.
type Mode string

// The modes. What each gives, and to which task driver, is in the package
// comment.
const (
	// Runtime leaves libraries to NVIDIA's container runtime.
	Runtime Mode = "runtime"
	// Devices mounts the driver's libraries and programs file by file.
	Devices Mode = "devices"
	// CDI names entries of a specification file that WriteSpec keeps.
	CDI Mode = "cdi"
	// Env sets variables and isolates nothing, as nomad-device-nvidia does.
	Env Mode = "env"
	// Auto chooses Runtime, CDI or Env by what the node has. It never chooses
	// Devices, whose mounts make Nomad forget a task's volumes.
	Auto Mode = "auto"
)

func modes() []Mode { return []Mode{Auto, Runtime, Devices, CDI, Env} }

// ParseMode reads a mode; the empty text is Auto.
func ParseMode(text string) (Mode, error) {
	if text == "" {
		return Auto, nil
	}
	if m := Mode(text); slices.Contains(modes(), m) {
		return m, nil
	}
	return "", fmt.Errorf("the mode is %q; it must be one of %s", text, listModes())
}

func listModes() string {
	names := []string{}
	for _, m := range modes() {
		names = append(names, string(m))
	}
	return strings.Join(names, ", ")
}

// The defaults of Options.
const (
	DefaultLibraryDir    = "/usr/local/nvidia/lib64" // images made for NVIDIA GPUs search it
	DefaultSpecDir       = "/var/run/cdi"            // podman and Docker read it
	DefaultKind          = "governor.nomad/gpu"
	DefaultDockerRuntime = "nvidia" // also the default of Nomad's Docker driver
)

// Options say where things are and what tasks get beyond their GPUs. The zero
// value is right for a node whose driver is installed in the usual way.
type Options struct {
	// Mode is empty for Auto.
	Mode Mode
	// HostRoot holds etc/docker, proc and usr of the host; empty is "/", and
	// anything else is for tests.
	HostRoot string
	// DriverRoot holds the driver's libraries and programs; empty is "/". A
	// driver container has them in a directory of its own.
	DriverRoot string
	// DevRoot holds dev with the device nodes; empty is "/".
	DevRoot string
	// LibraryDir is where a task finds the libraries; empty is
	// DefaultLibraryDir. A directory that the dynamic linker searches anyway
	// needs no LD_LIBRARY_PATH, and then none is set.
	LibraryDir string
	// SpecDir is where the CDI specification is kept; empty is DefaultSpecDir.
	SpecDir string
	// Kind is the CDI kind, vendor/class, of the devices; empty is DefaultKind.
	Kind string
	// DockerRuntime is the name of NVIDIA's runtime in Docker, as
	// nvidia_runtime in the block of Nomad's Docker driver; empty is
	// DefaultDockerRuntime.
	DockerRuntime string
	// IMEXChannels are the channels of a multi-node NVLink domain that every
	// task with a GPU may use.
	IMEXChannels []int
	// GDS, GDRCopy and RDMA give every task with a GPU the nodes of
	// GPUDirect Storage, GDRCopy and the InfiniBand verbs.
	GDS, GDRCopy, RDMA bool
}

// imexChannelMost is the greatest IMEX channel: it is a minor number of 20 bits.
const imexChannelMost = 1<<20 - 1

// kindPattern is the CDI specification's rule for a kind.
var kindPattern = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// Validate says what is wrong with the options; it reads no files.
func (o Options) Validate() error {
	if _, err := ParseMode(string(o.Mode)); err != nil {
		return err
	}
	for _, p := range []struct{ name, path string }{
		{"host root", o.HostRoot}, {"driver root", o.DriverRoot}, {"device root", o.DevRoot},
		{"library directory", o.LibraryDir}, {"CDI directory", o.SpecDir},
	} {
		if p.path != "" && !path.IsAbs(p.path) {
			return fmt.Errorf("the %s is %q; it must be an absolute path", p.name, p.path)
		}
	}
	if dir := path.Clean(o.LibraryDir); dir == "/" || strings.ContainsAny(dir, ":;$") {
		return fmt.Errorf("the library directory is %q; it must be below / and free of \":\", \";\" and \"$\", because LD_LIBRARY_PATH has to name it", o.LibraryDir)
	}
	if o.Kind != "" && !kindPattern.MatchString(o.Kind) {
		return fmt.Errorf("the CDI kind is %q; it must be a vendor and a class of letters, digits, \".\", \"_\" and \"-\", such as %q", o.Kind, DefaultKind)
	}
	for _, channel := range o.IMEXChannels {
		if channel < 0 || channel > imexChannelMost {
			return fmt.Errorf("the IMEX channel is %d; it must be between 0 and %d", channel, imexChannelMost)
		}
	}
	return nil
}

// withDefaults fills what is empty, cleans the paths and sorts the channels.
func (o Options) withDefaults() Options {
	o.Mode = cmp.Or(o.Mode, Auto)
	o.HostRoot = path.Clean(cmp.Or(o.HostRoot, "/"))
	o.DriverRoot = path.Clean(cmp.Or(o.DriverRoot, "/"))
	o.DevRoot = path.Clean(cmp.Or(o.DevRoot, "/"))
	o.LibraryDir = path.Clean(cmp.Or(o.LibraryDir, DefaultLibraryDir))
	o.SpecDir = path.Clean(cmp.Or(o.SpecDir, DefaultSpecDir))
	o.Kind = cmp.Or(o.Kind, DefaultKind)
	o.DockerRuntime = cmp.Or(o.DockerRuntime, DefaultDockerRuntime)
	o.IMEXChannels = slices.Compact(slices.Sorted(slices.Values(o.IMEXChannels)))
	return o
}
