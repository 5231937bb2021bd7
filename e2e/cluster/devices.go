package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The major numbers of NVIDIA's devices. Only the first is NVIDIA's own; the
// others are given out when the driver is loaded.
const (
	gpuMajor        = 195
	uvmMajor        = 500
	capabilityMajor = 501
)

// Majors of character devices: the kernel gives out those of the dynamic ranges
// (Documentation/admin-guide/devices.txt).
const (
	dynamicFirst = 384
	dynamicLast  = 511
)

// deviceNode is a character device in a directory like /dev.
type deviceNode struct {
	name  string
	major uint32
	minor uint32
}

// MakeDeviceNodes makes device nodes like those of NVIDIA's driver below
// root/dev: for that many GPUs, and for MIG capabilities of those numbers.
//
// No driver answers for them. Opening one fails with ENXIO ("No such device or
// address") where the task's control group allows the device, and with EPERM
// ("Operation not permitted") where it does not, by which a test sees what a
// task may use. Where NVIDIA's driver is loaded, another major number is taken.
func MakeDeviceNodes(root string, gpus int, capabilities ...int) error {
	known, err := os.ReadFile("/proc/devices")
	if err != nil {
		return fmt.Errorf("make device nodes: %w", err)
	}
	majors, err := freeMajors(string(known), gpuMajor, uvmMajor, capabilityMajor)
	if err != nil {
		return fmt.Errorf("make device nodes: %w", err)
	}
	gpu, uvm, capability := majors[0], majors[1], majors[2]
	nodes := []deviceNode{
		{"nvidiactl", gpu, 255}, {"nvidia-modeset", gpu, 254},
		{"nvidia-uvm", uvm, 0}, {"nvidia-uvm-tools", uvm, 1},
	}
	for i := range gpus {
		nodes = append(nodes, deviceNode{fmt.Sprintf("nvidia%d", i), gpu, uint32(i)})
	}
	for _, i := range capabilities {
		nodes = append(nodes, deviceNode{fmt.Sprintf("nvidia-caps/nvidia-cap%d", i), capability, uint32(i)})
	}
	for _, n := range nodes {
		if err := n.make(filepath.Join(root, "dev")); err != nil {
			return fmt.Errorf("make device nodes: %w", err)
		}
	}
	return nil
}

// make makes the node for everybody, as NVIDIA's driver does.
func (n deviceNode) make(dir string) error {
	path := filepath.Join(dir, n.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return os.Chmod(path, 0o666) // whatever the umask
}

// freeMajors are the wanted major numbers of character devices, each replaced
// by one of the dynamic range where a driver has it already.
func freeMajors(procDevices string, wanted ...uint32) ([]uint32, error) {
	characters, _, _ := strings.Cut(procDevices, "Block devices:")
	var taken []uint32
	for line := range strings.Lines(characters) {
		number, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if major, err := strconv.ParseUint(number, 10, 32); err == nil {
			taken = append(taken, uint32(major))
		}
	}
	free := make([]uint32, 0, len(wanted))
	for _, major := range wanted {
		for next := uint32(dynamicFirst); slices.Contains(taken, major); next++ {
			if next > dynamicLast {
				return nil, errors.New("every major number for drivers is taken")
			}
			major = next
		}
		taken = append(taken, major)
		free = append(free, major)
	}
	return free, nil
}
