package occupancy

import (
	"cmp"
	"slices"
	"strings"
)

// Scope is the cgroup that a process shares with its task or container. The
// zero value is a process outside of both, in the root cgroup.
type Scope struct {
	// AllocID and Task are Nomad's, where the cgroup is named after them.
	AllocID, Task string
	// Container is a container's id; empty outside of one.
	Container string
	// Path is where the cgroup is in its hierarchy: the task's or the
	// container's, or else the process's own.
	Path string
	// Controllers name the hierarchy as the kernel does ("freezer",
	// "cpu,cpuacct", "name=systemd"); empty for the unified one.
	Controllers string
}

// Known reports whether the scope is a task's or a container's.
func (s Scope) Known() bool { return s.AllocID != "" || s.Container != "" }

// Same reports whether two processes are of one task or container, or else in
// one cgroup.
func (s Scope) Same(other Scope) bool {
	if s.Known() || other.Known() {
		return s.AllocID == other.AllocID && s.Task == other.Task && s.Container == other.Container
	}
	return s.Path == other.Path
}

// ParseCgroup reads /proc/<pid>/cgroup. It reports false when nothing in it is
// a hierarchy.
//
// The names are those of Nomad 1.9 to 1.11 (client/lib/cgroupslib) for exec,
// java and raw_exec, under any cgroup_parent:
//
//	v1   /nomad/<alloc>.<task>                              freezer, memory, cpu
//	v2   /nomad.slice/share.slice/<alloc>.<task>.scope
//
// and of containers, with the cgroupfs and the systemd driver:
//
//	/docker/<id>   /system.slice/docker-<id>.scope          Docker
//	/machine.slice/libpod-<id>.scope/container              Podman
//	/nomad/<task>-<alloc>                                   nomad-driver-containerd
//
// The outermost name counts: who is inside can make cgroups of any name below.
func ParseCgroup(text string) (Scope, bool) {
	var found []Scope
	for line := range strings.Lines(text) {
		id, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok2 := strings.Cut(rest, ":")
		if !ok || !ok2 || !isNumber(id) || !strings.HasPrefix(path, "/") {
			continue
		}
		found = append(found, scopeOf(controllers, strings.TrimSuffix(path, " (deleted)")))
	}
	if len(found) == 0 {
		return Scope{}, false
	}
	slices.SortStableFunc(found, func(a, b Scope) int {
		return cmp.Or(certainty(a)-certainty(b), controllerRank(a)-controllerRank(b), strings.Compare(a.Controllers, b.Controllers))
	})
	return found[0], true
}

// certainty orders what the hierarchies say: a task's name before a container's.
func certainty(s Scope) int {
	switch {
	case s.AllocID != "":
		return 0
	case s.Container != "":
		return 1
	}
	return 2
}

// controllerRank orders hierarchies: those that Nomad uses first.
func controllerRank(s Scope) int {
	order := []string{"freezer", "memory", "cpu", "pids", "name=systemd", ""}
	for i, name := range order {
		if slices.Contains(strings.Split(s.Controllers, ","), name) {
			return i
		}
	}
	return len(order)
}

// scopeOf looks for the outermost name of a task or container in a path.
func scopeOf(controllers, path string) Scope {
	scope := Scope{Controllers: controllers, Path: path}
	parent, at := "", 0
	for name := range strings.SplitSeq(path, "/") {
		at += len(name)
		named := scope.named(name, parent)
		if named.Known() {
			named.Path = path[:at]
			return named
		}
		at++ // the slash
		parent = name
	}
	return scope
}

// named returns the scope with what a cgroup's name says.
func (s Scope) named(name, parent string) Scope {
	switch {
	case len(name) > uuidSize+1 && name[uuidSize] == '.' && isUUID(name[:uuidSize]):
		s.AllocID, s.Task = name[:uuidSize], name[uuidSize+1:]
		if s.Controllers == "" {
			s.Task = strings.TrimSuffix(s.Task, ".scope")
		}
		if s.Task == "" { // a task has a name
			s.AllocID = ""
		}
	case parent == "nomad" && len(name) > uuidSize+1 && name[len(name)-uuidSize-1] == '-' && isUUID(name[len(name)-uuidSize:]):
		s.AllocID, s.Task = name[len(name)-uuidSize:], name[:len(name)-uuidSize-1]
	default:
		s.Container = containerID(name)
	}
	return s
}

const containerIDSize = 64

// containerID is the id in the name of a container's cgroup, or empty. The
// cgroup of a container's monitor is not the container's.
func containerID(name string) string {
	name = strings.TrimSuffix(name, ".scope")
	begin := len(name) - containerIDSize
	if begin < 0 || !isHex(name[begin:], containerIDSize) || strings.Contains(name, "conmon") {
		return ""
	}
	if begin > 0 && name[begin-1] != '-' {
		return ""
	}
	return name[begin:]
}

func isNumber(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}
