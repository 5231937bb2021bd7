package cluster

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/sys/unix"
)

// marker is the environment variable, with its "=", that every process of a
// cluster carries; its value is the cluster's directory.
const marker = "GOVERNOR_E2E_RUN="

//go:embed watchdog.sh
var watchdogScript string

// watchdog is a shell that cleans up when this process dies before it could.
type watchdog struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// startWatchdog runs the script in a session of its own, so that what ends
// the harness (an interrupt, a closed terminal) does not end it too.
func startWatchdog(dir string) (*watchdog, error) {
	cmd := exec.Command("sh", "-c", watchdogScript, "governor-e2e-watchdog", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the watchdog: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the watchdog: %w", err)
	}
	return &watchdog{cmd: cmd, pipe: pipe}, nil
}

// dismiss tells the watchdog that there is nothing to clean up.
func (w *watchdog) dismiss() {
	if w == nil {
		return
	}
	_, _ = io.WriteString(w.pipe, "stopped\n")
	_ = w.pipe.Close()
	_ = w.cmd.Wait()
}

// stopJobs deregisters every job and waits until no allocation runs.
func stopJobs(ctx context.Context, addr, token string) error {
	client, err := newAPI(addr, token)
	if err != nil {
		return err
	}
	defer client.Close()
	query := (&api.QueryOptions{Namespace: "*"}).WithContext(ctx)
	jobs, _, err := client.Jobs().List(query)
	if err != nil {
		return fmt.Errorf("list the jobs: %w", err)
	}
	for _, job := range jobs {
		options := (&api.WriteOptions{Namespace: job.Namespace}).WithContext(ctx)
		if _, _, err := client.Jobs().Deregister(job.ID, false, options); err != nil {
			return fmt.Errorf("stop job %q: %w", job.ID, err)
		}
	}
	return Poll(ctx, "wait for the tasks to end", func() error {
		allocations, _, err := client.Allocations().List(query)
		if err != nil {
			return err
		}
		for _, a := range allocations {
			if !terminal(a.ClientStatus) {
				return fmt.Errorf("allocation %s of job %s is %s", a.ID[:8], a.JobID, a.ClientStatus)
			}
		}
		return nil
	})
}

// removeTraces ends what is left of a cluster's processes, unmounts what is
// left below its directory, and removes its cgroups and the directory.
func removeTraces(dir string) error {
	err := errors.Join(sweep(dir), unmountBelow(dir))
	removeCgroups(dir)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the cluster's directory: %w", err)
	}
	return nil
}

// sweep kills the processes that belong to a cluster's directory: executors,
// log collectors and plugins that outlived a killed client, and their tasks.
func sweep(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := belonging(dir)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end the processes of %s: still running: %v", dir, left)
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(pollEvery)
	}
}

// belonging lists processes that carry the cluster's marker, or whose root
// directory is below the cluster's: tasks in their chroot.
func belonging(dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if zombie(pid) {
			continue
		}
		env, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		root, _ := os.Readlink(filepath.Join("/proc", entry.Name(), "root"))
		marked := slices.ContainsFunc(bytes.Split(env, []byte{0}), func(pair []byte) bool {
			return string(pair) == marker+dir
		})
		if marked || strings.HasPrefix(root, dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// zombie reports whether a process has ended and only waits to be reaped.
func zombie(pid int) bool {
	fields, err := statFields(pid)
	return err != nil || fields[0] == "Z"
}

// statFields returns /proc/PID/stat from the state on. The command before it
// may contain spaces and brackets, so fields count from its last bracket.
func statFields(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, rest, ok := strings.Cut(string(text[max(0, bytes.LastIndexByte(text, ')')):]), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
	}
	return fields, nil
}

// startTime is when a process started, in clock ticks since boot. Together
// with the pid it identifies a process for as long as the machine runs.
func startTime(pid int) (uint64, error) {
	fields, err := statFields(pid)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// unmountBelow unmounts everything below dir, deepest first.
func unmountBelow(dir string) error {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read the mounts: %w", err)
	}
	defer file.Close()
	var errs []error
	for _, target := range mountsBelow(file, dir) {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", target, err))
		}
	}
	return errors.Join(errs...)
}

// mountsBelow reads mountinfo and lists the mount points below dir, deepest first.
func mountsBelow(mountinfo io.Reader, dir string) []string {
	var targets []string
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			targets = append(targets, fields[4])
		}
	}
	slices.Sort(targets)
	slices.Reverse(targets)
	return targets
}

// cgroupRoot is where the kernel shows control groups.
const cgroupRoot = "/sys/fs/cgroup"

// cgroupName is the parent of a client's cgroups. Nomad's own default is
// shared by all clients of a machine, which would then set each other's CPUs.
// On cgroups v1 Nomad 1.11.3 uses its default in spite of it.
func cgroupName(dir, client string) string {
	return filepath.Base(dir) + "-" + client + ".slice"
}

// removeCgroups removes the empty cgroups of a cluster: the clients' own and
// Docker's, which on v1 are in each hierarchy, and there, where Nomad leaves
// some behind, those of allocations whose directories are still below dir. A group that is not empty
// cannot be removed; sweep has ended its processes, so that is only cosmetic.
func removeCgroups(dir string) {
	patterns := []string{filepath.Base(dir) + "-*.slice", filepath.Join("*", filepath.Base(dir)+"-*.slice")}
	allocations, _ := filepath.Glob(filepath.Join(dir, "*", "alloc", "*"))
	for _, allocation := range allocations {
		patterns = append(patterns, filepath.Join("*", "nomad", filepath.Base(allocation)+".*"))
	}
	for _, pattern := range patterns {
		parents, _ := filepath.Glob(filepath.Join(cgroupRoot, pattern))
		for _, parent := range parents {
			var groups []string
			_ = filepath.WalkDir(parent, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					groups = append(groups, path)
				}
				return nil
			})
			slices.Reverse(groups)
			for _, group := range groups {
				_ = unix.Rmdir(group)
			}
		}
	}
}
