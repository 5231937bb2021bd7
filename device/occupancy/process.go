package occupancy

import (
	"fmt"
	"strconv"
	"strings"
)

// Stat is what /proc/<pid>/stat says of a process.
type Stat struct {
	// Command is the name of its main thread, at most 15 bytes, printable.
	Command string
	// Ended says that the process is a zombie, or dead.
	Ended bool
	// Parent is its parent's id.
	Parent int64
	// Start is when it started, in clock ticks since the host did. With its
	// id it names a process for good: ids are used again.
	Start uint64
}

// ParseStat reads /proc/<pid>/stat. The command may contain anything, also
// parentheses and spaces, and ends at the last parenthesis.
func ParseStat(text string) (Stat, error) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return Stat{}, fmt.Errorf("parse the state of a process: no command in %.80q", text)
	}
	fields := strings.Fields(text[end+1:])
	const state, parent, start = 0, 1, 19
	if len(fields) <= start {
		return Stat{}, fmt.Errorf("parse the state of a process: %d fields after the command", len(fields))
	}
	parentID, err := strconv.ParseInt(fields[parent], 10, 64)
	if err != nil {
		return Stat{}, fmt.Errorf("parse the parent of a process: %w", err)
	}
	ticks, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return Stat{}, fmt.Errorf("parse the start of a process: %w", err)
	}
	return Stat{Command: printable(text[open+1 : end]), Parent: parentID, Start: ticks,
		Ended: strings.ContainsAny(fields[state], "ZXx")}, nil
}

// ParseUIDs returns the real user (who started it) and the effective one in
// /proc/<pid>/status, as seen from the reader's user namespace.
func ParseUIDs(status string) (starter, effective int64, err error) {
	for line := range strings.Lines(status) {
		rest, ok := strings.CutPrefix(line, "Uid:")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			break
		}
		starter, err = strconv.ParseInt(fields[0], 10, 64)
		if err == nil {
			effective, err = strconv.ParseInt(fields[1], 10, 64)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("parse the user of a process: %w", err)
		}
		return starter, effective, nil
	}
	return 0, 0, fmt.Errorf("parse the user of a process: no line of users")
}

// commandSizeMax is how much of a command the kernel keeps.
const commandSizeMax = 15

// printable makes a name that a process chose itself safe to log.
func printable(name string) string {
	clean := []byte(name)
	for i, c := range clean {
		if c < ' ' || c > '~' {
			clean[i] = '?'
		}
	}
	return string(clean)
}

// Mounts is what the mounts of a container say that it belongs to. The zero
// value is a container that Nomad did not start.
type Mounts struct {
	AllocID, Task string
	// Doubtful says that there are directories of allocations that may be the
	// host's or the container's own.
	Doubtful bool
}

// ParseMounts reads the /proc/<pid>/mountinfo of a process in a container.
// Nomad's drivers mount a task's directory and its allocation's from
//
//	<alloc_dir>/<alloc>/<task>/local   and   <alloc_dir>/<alloc>/alloc
//
// and what is in a container cannot unmount them or make others. Where they
// appear in the container does not matter: a job may choose that. A container
// that sees the host's mounts has those of all allocations among them, at paths
// that name the allocation; those are not taken for its own.
func ParseMounts(text string) Mounts {
	var found Mounts
	doubtful := false
	for line := range strings.Lines(text) {
		fields := strings.Split(line, " ") // the kernel escapes spaces in names
		const root, point = 3, 4
		if len(fields) <= point {
			continue
		}
		m := mounted(strings.Split(unescape(fields[root]), "/"))
		switch {
		case m.AllocID == "":
		case strings.Contains(fields[point], m.AllocID):
			doubtful = true
		case found.AllocID == "" || (found.Task == "" && m.Task != ""):
			found = m
		}
	}
	found.Doubtful = doubtful
	return found
}

// mounted says whose directory a path is.
func mounted(parts []string) Mounts {
	n := len(parts)
	switch {
	case n >= 3 && parts[n-1] == "local" && isUUID(parts[n-3]):
		return Mounts{AllocID: parts[n-3], Task: parts[n-2]}
	case n >= 2 && parts[n-1] == "alloc" && isUUID(parts[n-2]):
		return Mounts{AllocID: parts[n-2]}
	}
	return Mounts{}
}

// unescape undoes the kernel's escapes of spaces, tabs, newlines and
// backslashes: a backslash and three octal digits.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if c, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
