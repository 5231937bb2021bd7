package inject

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Strategy is how the shares of a GPU are kept apart.
type Strategy string

// The strategies. Time slicing keeps nothing apart: the shares' tasks take
// turns, and one can use all memory. MPS runs them at once and bounds each
// task's memory and its part of the GPU's multiprocessors.
const (
	TimeSlicing Strategy = "time-slicing"
	MPS         Strategy = "mps"
)

// Share is one of several equal shares of a GPU.
type Share struct {
	Strategy Strategy
	// Replicas is how many shares the GPU has, from 1.
	Replicas int64
	// MemoryMiB is the share's memory; 0 sets no limit. Time slicing has none.
	MemoryMiB int64
	// PipeDirectory is where MPS's control daemon listens, on the host and in
	// the task.
	PipeDirectory string
	// ShmDirectory is the daemon's /dev/shm on the host, which clients have
	// to see as theirs. Empty leaves the task's own: right where the task
	// shares the host's, with ipc_mode = "host".
	ShmDirectory string
}

// The variables that MPS's clients read.
const (
	envMPSPipe    = "CUDA_MPS_PIPE_DIRECTORY"
	envMPSThreads = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
	envMPSMemory  = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
)

// part is a device and how many of its GPU's shares the task has.
type part struct {
	Device
	count int64 // 1 unless it is shared
}

// combine checks the devices and makes one part of several shares of one GPU.
func combine(devices []Device) ([]part, error) {
	if len(devices) == 0 {
		return nil, errors.New("reserve no GPU: no device was asked for")
	}
	var parts []part
	at := map[string]int{} // by UUID
	for _, d := range devices {
		if err := d.check(); err != nil {
			return nil, fmt.Errorf("reserve %s: %w", d.UUID, err)
		}
		if err := d.alike(devices[0]); err != nil {
			return nil, fmt.Errorf("reserve %s: %w", d.UUID, err)
		}
		i, again := at[d.UUID]
		switch {
		case !again:
			at[d.UUID] = len(parts)
			parts = append(parts, part{d, 1})
		case d.Share == nil || *d.Share != *parts[i].Share:
			return nil, fmt.Errorf("reserve %s: it is asked for twice", d.UUID)
		case parts[i].count == d.Share.Replicas:
			return nil, fmt.Errorf("reserve %s: it has %d shares, and more are asked for", d.UUID, d.Share.Replicas)
		default:
			parts[i].count++
		}
	}
	return parts, nil
}

// check says what is wrong with one device.
func (d Device) check() error {
	switch {
	case d.UUID == "" || strings.ContainsAny(d.UUID, ", \t\n"):
		return fmt.Errorf("%q is not a UUID", d.UUID)
	case d.Share == nil:
		return nil
	case d.MIG != nil && d.Share.Strategy == MPS:
		return errors.New("a MIG instance cannot be shared by MPS; use time-slicing")
	case d.Share.Replicas < 1:
		return fmt.Errorf("it is a share of %d; a GPU has at least one", d.Share.Replicas)
	case d.Share.MemoryMiB < 0:
		return fmt.Errorf("its memory is %d MiB", d.Share.MemoryMiB)
	}
	switch d.Share.Strategy {
	case TimeSlicing:
		return nil
	case MPS:
		if !path.IsAbs(d.Share.PipeDirectory) {
			return fmt.Errorf("its MPS pipe directory is %q; it must be an absolute path", d.Share.PipeDirectory)
		}
		return nil
	}
	return fmt.Errorf("its sharing strategy is %q; it must be %s or %s", d.Share.Strategy, TimeSlicing, MPS)
}

// alike refuses to mix what one set of variables cannot describe.
func (d Device) alike(first Device) error {
	a, b := d.Share, first.Share
	switch {
	case a == nil && b == nil:
		return nil
	case a == nil || b == nil || a.Strategy != b.Strategy:
		return fmt.Errorf("it is shared in another way than %s; ask for one kind of device", first.UUID)
	case a.PipeDirectory != b.PipeDirectory || a.ShmDirectory != b.ShmDirectory:
		return fmt.Errorf("its MPS daemon is another than that of %s; a task can have only one", first.UUID)
	}
	return nil
}

// addShares adds what MPS's clients need. All devices are shared alike.
func addShares(grant *Grant, parts []part) error {
	first := parts[0].Share
	if first == nil || first.Strategy != MPS {
		return nil
	}
	threads := int64(100)
	var limits []string
	for i, p := range parts {
		// The variable bounds the task on all its GPUs: the least counts.
		threads = min(threads, max(1, 100*p.count/p.Share.Replicas))
		if p.Share.MemoryMiB > 0 {
			// MPS counts the devices that CUDA_VISIBLE_DEVICES leaves.
			limits = append(limits, fmt.Sprintf("%d=%dM", i, p.Share.MemoryMiB*p.count))
		}
	}
	grant.Envs[envMPSPipe] = first.PipeDirectory
	grant.Envs[envMPSThreads] = strconv.FormatInt(threads, 10)
	if len(limits) > 0 {
		grant.Envs[envMPSMemory] = strings.Join(limits, ",")
	}
	// Clients write to the daemon's pipes and to shared memory.
	mounts := []Mount{{TaskPath: first.PipeDirectory, HostPath: first.PipeDirectory}}
	if first.ShmDirectory != "" {
		mounts = append(mounts, Mount{TaskPath: "/dev/shm", HostPath: first.ShmDirectory})
	}
	for _, m := range mounts {
		if !isDir(m.HostPath) {
			return fmt.Errorf("the directory %s of the MPS daemon does not exist; start it with CUDA_MPS_PIPE_DIRECTORY=%s nvidia-cuda-mps-control -d", m.HostPath, first.PipeDirectory)
		}
	}
	grant.Mounts = distinct(append(grant.Mounts, mounts...))
	return nil
}
