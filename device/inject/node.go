package inject

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The driver's device nodes that belong to no single GPU. CUDA needs the first
// two; profilers use the third.
const (
	controlNode = "/dev/nvidiactl"
	uvmNode     = "/dev/nvidia-uvm"
	uvmToolNode = "/dev/nvidia-uvm-tools"
)

// modprobe creates the control nodes and that of the first GPU.
const modprobe = "nvidia-modprobe -u -c 0"

func gpuNode(minor int64) string { return "/dev/nvidia" + strconv.FormatInt(minor, 10) }

func imexNode(channel int) string {
	return "/dev/nvidia-caps-imex-channels/channel" + strconv.Itoa(channel)
}

// node is a device node that a task should get.
type node struct {
	path     string // in the task
	optional bool   // left out where it does not exist
	remedy   string // what creates it
}

// findNodes lists the driver's device nodes below a root by their path in a
// task, sorted. isNode tells a device node from another file.
func findNodes(o Options, isNode func(fs.FileInfo) bool) []string {
	found := []string{}
	add := func(path string) {
		// Not through links: the exec driver makes its nodes from the file itself.
		if info, err := os.Lstat(filepath.Join(o.DevRoot, path)); err == nil && isNode(info) {
			found = append(found, path)
		}
	}
	addAll := func(dir, prefix string) {
		for _, name := range listDir(filepath.Join(o.DevRoot, dir)) {
			if strings.HasPrefix(name, prefix) {
				add(dir + "/" + name)
			}
		}
	}
	addAll("/dev", "nvidia")
	addAll("/dev/nvidia-caps", "nvidia-cap")
	for _, channel := range o.IMEXChannels { // of up to thousands
		add(imexNode(channel))
	}
	add("/dev/gdrdrv")
	addAll("/dev/infiniband", "uverbs")
	add("/dev/infiniband/rdma_cm")
	slices.Sort(found)
	return found
}

// isCharacterDevice is findNodes' rule on a real node.
func isCharacterDevice(info fs.FileInfo) bool { return info.Mode()&fs.ModeCharDevice != 0 }

// isGPUNode reports whether a path is the node of a GPU or the control node.
func isGPUNode(path string) bool {
	number, ok := strings.CutPrefix(path, "/dev/nvidia")
	_, err := strconv.ParseUint(number, 10, 32)
	return path == controlNode || ok && err == nil
}

// sharedNodes are the nodes that every task with a GPU gets.
func (h Host) sharedNodes() []node {
	wanted := []node{
		{path: controlNode, remedy: "run " + modprobe + " on the node"},
		{path: uvmNode, remedy: "run " + modprobe + " on the node"},
		{path: uvmToolNode, optional: true},
	}
	for _, channel := range h.options.IMEXChannels {
		wanted = append(wanted, node{path: imexNode(channel),
			remedy: "create the channel as NVIDIA's IMEX guide says (the module option NVreg_CreateImexChannel0=1 creates channel 0), or leave it out of the plugin's configuration"})
	}
	extra := func(on bool, what, prefix, example string) {
		if !on {
			return
		}
		before := len(wanted)
		for _, path := range h.Nodes {
			if strings.HasPrefix(path, prefix) {
				wanted = append(wanted, node{path: path})
			}
		}
		if len(wanted) == before {
			wanted = append(wanted, node{path: example, remedy: "load " + what + ", or switch it off in the plugin's configuration"})
		}
	}
	extra(h.options.GDS, "GPUDirect Storage (modprobe nvidia-fs)", "/dev/nvidia-fs", "/dev/nvidia-fs0")
	extra(h.options.GDRCopy, "GDRCopy (modprobe gdrdrv)", "/dev/gdrdrv", "/dev/gdrdrv")
	extra(h.options.RDMA, "the InfiniBand verbs (modprobe ib_uverbs)", "/dev/infiniband/", "/dev/infiniband/uverbs0")
	return wanted
}

// nodesOf are the nodes of one device alone.
func (h Host) nodesOf(d Device) ([]node, error) {
	if !d.Minor.Known {
		return nil, fmt.Errorf("the driver does not say which device node %s has; see nomad-device-gpu doctor", d.UUID)
	}
	minor := d.Minor.Value
	wanted := []node{{path: gpuNode(minor), remedy: fmt.Sprintf("run nvidia-modprobe -c %d on the node", minor)}}
	if d.MIG == nil {
		return wanted, nil
	}
	for _, c := range []capability{
		{gpu: minor, gpuInstance: d.MIG.GPUInstance, computeInstance: wholeInstance},
		{gpu: minor, gpuInstance: d.MIG.GPUInstance, computeInstance: d.MIG.ComputeInstance},
	} {
		number, known := h.minors[c]
		if !known {
			return nil, fmt.Errorf("%s has no entry %s, so the device node that opens %s is not known; the MIG instance was removed, or the driver is older than R450", minorsFile, c, d.UUID)
		}
		wanted = append(wanted, node{
			path:   "/dev/nvidia-caps/nvidia-cap" + strconv.FormatInt(number, 10),
			remedy: "run nvidia-modprobe -f " + c.procFile() + " on the node"})
	}
	return wanted, nil
}

// existing keeps the nodes that exist, and says which do not and should.
func (h Host) existing(wanted []node) (there, missing []node) {
	for _, n := range wanted {
		switch _, found := slices.BinarySearch(h.Nodes, n.path); {
		case found:
			there = append(there, n)
		case !n.optional:
			missing = append(missing, n)
		}
	}
	return there, missing
}

// minorsFile is the kernel's list of the MIG capabilities' device nodes.
const minorsFile = "/proc/driver/nvidia-caps/mig-minors"

// wholeInstance stands for a GPU instance itself, not a compute instance of it.
const wholeInstance = -1

// capability is the right to use a GPU instance, or a compute instance of it,
// of the GPU with a minor number.
type capability struct{ gpu, gpuInstance, computeInstance int64 }

// String is the capability's name in the kernel's list.
func (c capability) String() string {
	if c.computeInstance == wholeInstance {
		return fmt.Sprintf("gpu%d/gi%d/access", c.gpu, c.gpuInstance)
	}
	return fmt.Sprintf("gpu%d/gi%d/ci%d/access", c.gpu, c.gpuInstance, c.computeInstance)
}

// procFile is the file from which nvidia-modprobe makes the device node.
func (c capability) procFile() string {
	gpu, rest, _ := strings.Cut(c.String(), "/")
	return "/proc/driver/nvidia/capabilities/" + gpu + "/mig/" + rest
}

// parseMinors reads the kernel's list. The entries of MIG's administration are
// left out. A line that is not understood is reported and the others are kept.
func parseMinors(text string) (map[capability]int64, error) {
	minors := map[capability]int64{}
	var errs []error
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		name, number, ok := strings.Cut(line, " ")
		minor, err := strconv.ParseUint(number, 10, 31)
		if !ok || err != nil {
			errs = append(errs, fmt.Errorf("%s has the line %q, which is not a capability and a number", minorsFile, line))
			continue
		}
		if name == "config" || name == "monitor" {
			continue
		}
		c, ok := parseCapability(name)
		if !ok {
			errs = append(errs, fmt.Errorf("%s has the capability %q, which is neither a GPU instance nor a compute instance", minorsFile, name))
			continue
		}
		minors[c] = int64(minor)
	}
	return minors, errors.Join(errs...)
}

// parseCapability reads "gpu0/gi1/access" or "gpu0/gi1/ci2/access".
func parseCapability(name string) (capability, bool) {
	parts := strings.Split(name, "/")
	last := len(parts) - 1
	if last < 2 || last > 3 || parts[last] != "access" {
		return capability{}, false
	}
	numbers := [3]int64{0, 0, wholeInstance}
	for i, prefix := range []string{"gpu", "gi", "ci"}[:last] {
		text, ok := strings.CutPrefix(parts[i], prefix)
		number, err := strconv.ParseUint(text, 10, 31)
		if !ok || err != nil || text != strconv.FormatUint(number, 10) {
			return capability{}, false
		}
		numbers[i] = int64(number)
	}
	return capability{gpu: numbers[0], gpuInstance: numbers[1], computeInstance: numbers[2]}, true
}

// readMinors reads the kernel's list below a root; no file means no MIG.
func readMinors(root string) (map[capability]int64, []Finding) {
	text, err := readText(filepath.Join(root, minorsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var minors map[capability]int64
	if err == nil {
		minors, err = parseMinors(text)
	}
	if err != nil {
		return minors, []Finding{{
			What:   fmt.Sprintf("read the device nodes of MIG instances: %v", err),
			Advice: "MIG instances without an entry are refused. Report the line: the driver is newer than this plugin."}}
	}
	return minors, nil
}
