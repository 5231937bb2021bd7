package watch

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/nomad-governor/governor/device/occupancy"
)

// Limits of what is read. What is larger is cut: a process may have written it.
const (
	smallFileMax = 64 << 10
	largeFileMax = 4 << 20
	ancestorsMax = 64
	siblingsMax  = 256
	cgroupsMax   = 256
)

// Proc reads processes. The zero value reads this host's.
type Proc struct {
	// Root is where procfs is mounted, CgroupRoot where cgroups are; empty
	// for /proc and /sys/fs/cgroup.
	Root, CgroupRoot string
}

func (p Proc) root() string { return cmp.Or(p.Root, "/proc") }

func (p Proc) cgroups() string { return cmp.Or(p.CgroupRoot, "/sys/fs/cgroup") }

// read returns the beginning of a file of a process.
func (p Proc) read(pid int64, name string, most int64) (string, error) {
	f, err := os.Open(filepath.Join(p.root(), strconv.FormatInt(pid, 10), name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most))
	return string(data), err
}

// gone reports whether an error says that a process is no more.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// stat reads who a process id stands for now.
func (p Proc) stat(pid int64) (occupancy.Stat, error) {
	text, err := p.read(pid, "stat", smallFileMax)
	if err != nil {
		return occupancy.Stat{}, err
	}
	return occupancy.ParseStat(text)
}

// facts reads everything that a verdict needs about the process that had this
// state a moment ago.
func (p Proc) facts(pid int64, s occupancy.Stat) occupancy.Facts {
	f := occupancy.Facts{Command: s.Command, Gone: s.Ended}
	if f.Gone {
		return f
	}
	f = p.identity(pid, f)
	f.Task, f.EnvironRead = p.environment(pid)
	if !f.Unreadable {
		f = p.task(pid, s.Parent, f)
	}
	if after, err := p.stat(pid); err != nil || after.Ended || after.Start != s.Start {
		return occupancy.Facts{Gone: true}
	}
	return f
}

// identity reads where a process belongs.
func (p Proc) identity(pid int64, f occupancy.Facts) occupancy.Facts {
	scope, ok := p.scope(pid)
	status, err := p.read(pid, "status", smallFileMax)
	if !ok || err != nil {
		f.Unreadable = true
		return f
	}
	f.Scope = scope
	if f.UID, f.EUID, err = occupancy.ParseUIDs(status); err != nil {
		f.Unreadable = true
	}
	if program, err := os.Readlink(filepath.Join(p.root(), strconv.FormatInt(pid, 10), "exe")); err == nil {
		f.Program = filepath.Base(strings.TrimSuffix(program, " (deleted)"))
	}
	if scope.AllocID == "" && scope.Container != "" {
		mounts, err := p.read(pid, "mountinfo", largeFileMax)
		if err != nil {
			f.Unreadable = true
		}
		f.Mounts = occupancy.ParseMounts(mounts)
	}
	return f
}

func (p Proc) scope(pid int64) (occupancy.Scope, bool) {
	text, err := p.read(pid, "cgroup", smallFileMax)
	if err != nil {
		return occupancy.Scope{}, false
	}
	return occupancy.ParseCgroup(text)
}

// environment reads the initial environment of a process.
func (p Proc) environment(pid int64) (occupancy.Environment, bool) {
	text, err := p.read(pid, "environ", largeFileMax)
	if err != nil {
		return occupancy.Environment{}, false
	}
	return occupancy.ParseEnviron(text), true
}

// task adds what the environments of others of the same task say. A process
// may have cleared its own; what started it did not. Where its ancestors do not
// lead to the task's first process, because one of them left it behind, the
// cgroup lists the others.
func (p Proc) task(pid, parent int64, f occupancy.Facts) occupancy.Facts {
	seen := []int64{pid}
	for parent > 1 && len(seen) <= ancestorsMax && !slices.Contains(seen, parent) {
		scope, ok := p.scope(parent)
		if !ok || !scope.Same(f.Scope) {
			break
		}
		f = p.add(parent, f)
		s, err := p.stat(parent)
		if err != nil {
			break
		}
		seen = append(seen, parent)
		parent = s.Parent
	}
	if len(f.Task.Grants) > 0 || !f.Scope.Known() {
		return f
	}
	for _, other := range p.members(f.Scope) {
		if slices.Contains(seen, other) {
			continue
		}
		// Ids are used again: it may be in another cgroup by now.
		if scope, ok := p.scope(other); ok && scope.Same(f.Scope) {
			f = p.add(other, f)
		}
	}
	return f
}

// add adds what the environment of a process says.
func (p Proc) add(pid int64, f occupancy.Facts) occupancy.Facts {
	if e, ok := p.environment(pid); ok {
		f.Task, f.EnvironRead = f.Task.Merge(e), true
	}
	return f
}

// members lists processes in the cgroup and below, by id.
func (p Proc) members(s occupancy.Scope) []int64 {
	var pids []int64
	for _, dir := range p.directories(s) {
		visited := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || visited >= cgroupsMax || len(pids) >= siblingsMax {
				return filepath.SkipDir
			}
			if d.IsDir() {
				visited++
				pids = append(pids, processes(filepath.Join(path, "cgroup.procs"))...)
			}
			return nil
		})
		if err == nil && len(pids) > 0 {
			break
		}
	}
	slices.Sort(pids)
	pids = slices.Compact(pids)
	return pids[:min(len(pids), siblingsMax)]
}

// directories are where a cgroup can be: of the unified hierarchy mounted alone
// or beside the others, or of one of its controllers.
func (p Proc) directories(s occupancy.Scope) []string {
	if s.Controllers == "" {
		return []string{filepath.Join(p.cgroups(), s.Path), filepath.Join(p.cgroups(), "unified", s.Path)}
	}
	name := strings.TrimPrefix(s.Controllers, "name=")
	dirs := []string{filepath.Join(p.cgroups(), name, s.Path)}
	for controller := range strings.SplitSeq(name, ",") {
		dirs = append(dirs, filepath.Join(p.cgroups(), controller, s.Path))
	}
	return dirs
}

// processes reads a cgroup.procs file.
func processes(file string) []int64 {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, smallFileMax))
	if err != nil {
		return nil
	}
	var pids []int64
	for field := range strings.FieldsSeq(string(data)) {
		// 0 is a process outside of the reader's PID namespace.
		if pid, err := strconv.ParseInt(field, 10, 64); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// allocations lists the allocations that have processes, sorted.
func (p Proc) allocations() ([]string, error) {
	entries, err := os.ReadDir(p.root())
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		pid, err := strconv.ParseInt(e.Name(), 10, 64)
		if err != nil {
			continue
		}
		f := p.identity(pid, occupancy.Facts{})
		if owner, _ := f.Owner(); owner.AllocID == "" {
			f.Task, _ = p.environment(pid)
		}
		if owner, _ := f.Owner(); owner.AllocID != "" {
			ids = append(ids, owner.AllocID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
