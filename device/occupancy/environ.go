package occupancy

import "strings"

// Variables with which Nomad names a task in its environment. A job can set
// them to anything (client/taskenv: a task's own variables come after Nomad's).
const (
	envAllocID  = "NOMAD_ALLOC_ID"
	envTaskName = "NOMAD_TASK_NAME"
)

// Limits of what is taken from an environment.
const (
	grantsMax   = 64
	taskSizeMax = 256
)

// Environment is what the initial environment of a process says about grants.
type Environment struct {
	// Grants are the texts of grants, unverified, in their order.
	Grants []string
	// AllocID and Task are what the process says that it belongs to.
	AllocID, Task string
}

// Given reports whether this can be the environment that Nomad gave to a task.
// A process that cleared its environment, or wrote its title over it, has none.
func (e Environment) Given() bool { return e.AllocID != "" || len(e.Grants) > 0 }

// ParseEnviron reads /proc/<pid>/environ. As with getenv, the first variable of
// a name counts.
func ParseEnviron(data string) Environment {
	var e Environment
	for entry := range strings.SplitSeq(data, "\x00") {
		name, value, ok := strings.Cut(entry, "=")
		if !ok {
			continue
		}
		switch {
		case name == envAllocID && e.AllocID == "" && isUUID(value):
			e.AllocID = value
		case name == envTaskName && e.Task == "" && len(value) <= taskSizeMax:
			e.Task = value
		case name == EnvGrant || strings.HasPrefix(name, EnvGrant+"_"):
			if len(e.Grants) < grantsMax {
				e.Grants = append(e.Grants, value)
			}
		}
	}
	return e
}

// Merge adds what another process of the same task says.
func (e Environment) Merge(other Environment) Environment {
	merged := e
	if merged.AllocID == "" {
		merged.AllocID, merged.Task = other.AllocID, other.Task
	}
	merged.Grants = nil
	for _, list := range [][]string{e.Grants, other.Grants} {
		for _, text := range list {
			if len(merged.Grants) < grantsMax {
				merged.Grants = append(merged.Grants, text)
			}
		}
	}
	return merged
}
