package control

import "fmt"

// ProcessKind is what a process does with a GPU.
type ProcessKind string

// The kinds that NVML lists apart. A client of the MPS server is in its list
// alone.
const (
	Compute  ProcessKind = "compute"
	Graphics ProcessKind = "graphics"
	MPS      ProcessKind = "mps"
)

// Process is a process on a GPU.
type Process struct {
	GPU, PID int
	Kind     ProcessKind
	// Bytes of GPU memory; negative when the driver does not know.
	Bytes int64
	// Instance is the MIG device that it is on; nil on a whole GPU.
	Instance *Instance
}

// StartProcess adds a process, or changes it.
func (c *Control) StartProcess(p Process) error {
	value := "none"
	if p.Bytes >= 0 {
		value = fmt.Sprint(p.Bytes)
	}
	if p.Instance != nil {
		value += fmt.Sprintf(" %d %d", p.Instance.GPUInstance, p.Instance.ComputeInstance)
	}
	return c.text(fmt.Sprintf("process %d %d %s", p.GPU, p.PID, p.Kind), value)
}

// EndProcess takes a process away from a GPU, of whatever kind it was.
func (c *Control) EndProcess(index, pid int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget("", fmt.Sprintf("process %d %d ", index, pid))
	return c.write()
}
