package inject

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu"
)

// The variables that a task gets beside those that CUDA and NVIDIA's runtime
// define.
const (
	// EnvCDIDevices lists the qualified CDI names, comma separated.
	EnvCDIDevices = "GOVERNOR_CDI_DEVICES"
	// EnvCDIDevicePrefix and a number from 0 name one device each, so that a
	// jobspec can list them.
	EnvCDIDevicePrefix = "GOVERNOR_CDI_DEVICE_"
	// EnvLibraryPath makes the dynamic linker search the mounted libraries.
	EnvLibraryPath = "LD_LIBRARY_PATH"
)

// Device is one thing that Nomad hands out: a GPU, a MIG instance, or a share
// of a GPU.
type Device struct {
	// UUID is what CUDA calls it, "GPU-..." or "MIG-..."; a share has its GPU's.
	UUID string
	// Minor numbers the GPU's device node, for a MIG instance its GPU's.
	Minor inventory.Maybe[int64]
	// MIG is nil unless it is a MIG instance.
	MIG *MIG
	// Share is nil unless it is one of several shares of a GPU.
	Share *Share
}

// MIG places a MIG instance in its GPU.
type MIG struct {
	// GPUInstance and ComputeInstance are the driver's ids.
	GPUInstance, ComputeInstance int64
}

// Grant is what a task gets for its devices.
type Grant struct {
	// Envs are variables by name.
	Envs map[string]string
	// Mounts are files and directories, by task path.
	Mounts []Mount
	// Nodes are device nodes, by task path.
	Nodes []Node
}

// Mount is a file or a directory of the host that a task sees.
type Mount struct {
	TaskPath, HostPath string
	ReadOnly           bool
}

// Node is a device node that a task may open.
type Node struct {
	TaskPath, HostPath string
	// Permissions are the device cgroup's: "r" read, "w" write, "m" make.
	Permissions string
}

// nodePermissions are all that CUDA needs: it opens nodes and makes none.
const nodePermissions = "rw"

// byTaskPath orders mounts; one path has one mount.
func byTaskPath(a, b Mount) int {
	return cmp.Or(strings.Compare(a.TaskPath, b.TaskPath), strings.Compare(a.HostPath, b.HostPath))
}

// distinct sorts mounts and keeps the first of each task path.
func distinct(mounts []Mount) []Mount {
	slices.SortFunc(mounts, byTaskPath)
	return slices.CompactFunc(mounts, func(a, b Mount) bool { return a.TaskPath == b.TaskPath })
}

// Reserve says what a task gets for devices. Variables name them in the order
// given; two shares of one GPU count as one larger share. A device node that
// the mode needs and that does not exist is an error that names it and what
// creates it. Beyond the Host it asks only whether an MPS share's directories
// exist.
func (h Host) Reserve(devices []Device) (Grant, error) {
	if h.Mode == "" || h.Mode == Auto {
		return Grant{}, errors.New("reserve GPUs: this node was not looked at yet")
	}
	parts, err := combine(devices)
	if err != nil {
		return Grant{}, err
	}
	uuids := []string{}
	for _, p := range parts {
		uuids = append(uuids, p.UUID)
	}
	grant := Grant{Envs: map[string]string{gpu.EnvCUDAVisible: strings.Join(uuids, ",")}}
	if err := h.fill(&grant, parts, uuids); err != nil {
		return Grant{}, fmt.Errorf("reserve %s: %w", strings.Join(uuids, ", "), err)
	}
	return grant, nil
}

// fill adds what the mode gives.
func (h Host) fill(grant *Grant, parts []part, uuids []string) (err error) {
	switch h.Mode {
	case Runtime:
		// Nomad's Docker driver takes this variable as the wish for NVIDIA's
		// runtime (drivers/docker/driver.go, nvidiaVisibleDevices).
		grant.Envs[gpu.EnvNVIDIAVisible] = grant.Envs[gpu.EnvCUDAVisible]
		grant.Nodes = h.nodesThere(parts)
	case Devices:
		if grant.Nodes, err = h.nodesNeeded(parts); err != nil {
			return err
		}
		grant.Mounts = h.libraryMounts()
		if !searchedAnyway(h.options.LibraryDir) {
			grant.Envs[EnvLibraryPath] = h.options.LibraryDir
		}
	case CDI:
		if grant.Nodes, err = h.nodesNeeded(parts); err != nil {
			return err
		}
		if err = h.nameDevices(grant.Envs, uuids); err != nil {
			return err
		}
	case Env:
		grant.Envs[gpu.EnvNVIDIAVisible] = grant.Envs[gpu.EnvCUDAVisible]
	case Auto: // Discover resolves it
	}
	return addShares(grant, parts)
}

// nameDevices adds the CDI names. Where Docker has NVIDIA's runtime, that
// runtime reads them from its own variable: names of a kind mean CDI to it.
func (h Host) nameDevices(envs map[string]string, uuids []string) error {
	names := []string{}
	for i, uuid := range uuids {
		if !deviceNamePattern.MatchString(uuid) {
			return fmt.Errorf("%s cannot be the name of a CDI device, which has only letters, digits, \".\", \"_\", \"-\" and \":\"; use the mode devices with this driver", uuid)
		}
		name := h.options.Kind + "=" + uuid
		names = append(names, name)
		envs[EnvCDIDevicePrefix+strconv.Itoa(i)] = name
	}
	envs[EnvCDIDevices] = strings.Join(names, ",")
	if h.docker.has(h.options.DockerRuntime) {
		envs[gpu.EnvNVIDIAVisible] = envs[EnvCDIDevices]
	}
	return nil
}

// nodesNeeded are the nodes of the devices; all must exist, and so must the
// libraries that go with them.
func (h Host) nodesNeeded(parts []part) ([]Node, error) {
	if missing := h.missingLibraries(); len(missing) > 0 {
		return nil, fmt.Errorf("the driver's library %s was not found, and no CUDA program works without it; see nomad-device-gpu doctor", missing[0])
	}
	wanted := h.sharedNodes()
	for _, p := range parts {
		own, err := h.nodesOf(p.Device)
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, own...)
	}
	there, missing := h.existing(wanted)
	if len(missing) > 0 {
		return nil, fmt.Errorf("the device node %s does not exist, and the task's GPUs would not work without it; %s", missing[0].path, missing[0].remedy)
	}
	return h.granted(there), nil
}

// nodesThere are those of the devices' nodes that exist. NVIDIA's runtime adds
// nodes by itself and makes absent ones, but behind Docker's back: when systemd
// reloads its units, Docker writes its own list of allowed devices into the
// cgroup and the container loses its GPUs. Nodes that Docker was told of stay.
func (h Host) nodesThere(parts []part) []Node {
	wanted := h.sharedNodes()
	for _, p := range parts {
		if own, err := h.nodesOf(p.Device); err == nil { // else it is the runtime's to find
			wanted = append(wanted, own...)
		}
	}
	there, _ := h.existing(wanted) // what is missing is the runtime's to make
	return h.granted(there)
}

func (h Host) granted(there []node) []Node {
	nodes := []Node{}
	for _, n := range there {
		nodes = append(nodes, Node{TaskPath: n.path, HostPath: h.hostNode(n.path), Permissions: nodePermissions})
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.TaskPath, b.TaskPath) })
	return slices.Compact(nodes)
}

// String lists the grant, a line each.
func (g Grant) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(g.Envs)) {
		fmt.Fprintf(&b, "env    %s=%s\n", name, g.Envs[name])
	}
	for _, n := range g.Nodes {
		fmt.Fprintf(&b, "node   %s from %s (%s)\n", n.TaskPath, n.HostPath, n.Permissions)
	}
	for _, m := range g.Mounts {
		access := "read and write"
		if m.ReadOnly {
			access = "read only"
		}
		fmt.Fprintf(&b, "mount  %s from %s (%s)\n", m.TaskPath, m.HostPath, access)
	}
	return b.String()
}
