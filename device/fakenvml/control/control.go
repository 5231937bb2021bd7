package control

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const mebi = 1 << 20

// NVML return codes that tests inject (nvmlReturn_t).
const (
	CodeUninitialized   = 1
	CodeNotSupported    = 3
	CodeNoPermission    = 4
	CodeDriverNotLoaded = 9
	CodeGPULost         = 15
	CodeVersionMismatch = 18
	CodeUnknown         = 999
)

// Control changes one fake library. It is safe for concurrent use.
type Control struct {
	path string

	mu       sync.Mutex
	lines    map[string]string // by subject, such as "gpu 3 lost": the value
	xids     []string
	sequence int64
}

// New returns the control of the library whose FAKENVML_CONTROL is path, and
// writes the file without changes.
func New(path string) (*Control, error) {
	c := &Control{path: path, lines: map[string]string{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.write()
}

// Path is the control file.
func (c *Control) Path() string { return c.path }

// Reset takes back every change but the XIDs, which have happened.
func (c *Control) Reset() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.lines)
	return c.write()
}

// SetGPULost makes every call on the GPU answer NVML_ERROR_GPU_IS_LOST.
func (c *Control) SetGPULost(index int) error { return c.set(gpuKey(index, "lost"), 1) }

// ClearLost brings the GPU back, one that was lost from the start too.
func (c *Control) ClearLost(index int) error { return c.set(gpuKey(index, "lost"), 0) }

// XID delivers the XID, of the whole GPU, to every event set that waits.
func (c *Control) XID(index, xid int) error {
	return c.event(fmt.Sprintf("%d %d", index, xid))
}

// XIDInstance delivers the XID of one MIG device of the GPU.
func (c *Control) XIDInstance(index, xid int, i Instance) error {
	return c.event(fmt.Sprintf("%d %d %d %d", index, xid, i.GPUInstance, i.ComputeInstance))
}

func (c *Control) event(text string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sequence++
	c.xids = append(c.xids, fmt.Sprintf("xid %d %s", c.sequence, text))
	return c.write()
}

// RecoveryAction sets what field 230 answers: 0 none, 1 reset the GPU, 2
// reboot, 3 drain peer traffic, 4 drain and reset.
func (c *Control) RecoveryAction(index, action int) error {
	return c.set(gpuKey(index, "recovery_action"), int64(action))
}

// Utilisation sets how busy the GPU and its memory are, in percent.
func (c *Control) Utilisation(index, gpuPercent, memoryPercent int) error {
	return c.setAll(map[string]int64{
		gpuKey(index, "util_gpu"): int64(gpuPercent), gpuKey(index, "util_memory"): int64(memoryPercent)})
}

// Memory sets the memory in use, in MiB.
func (c *Control) Memory(index, usedMiB int) error {
	return c.set(gpuKey(index, "memory_used"), int64(usedMiB)*mebi)
}

// Power sets the present draw, in watts.
func (c *Control) Power(index, watts int) error {
	return c.set(gpuKey(index, "power_usage"), int64(watts)*1000)
}

// Energy sets the energy counter, in millijoules since the driver was loaded.
func (c *Control) Energy(index int, millijoules int64) error {
	return c.set(gpuKey(index, "energy"), millijoules)
}

// Temperature sets the temperature, in degrees Celsius.
func (c *Control) Temperature(index, celsius int) error {
	return c.set(gpuKey(index, "temperature"), int64(celsius))
}

// Number sets any numeric key of a GPU, in NVML's units; src/keys.h lists the
// keys.
func (c *Control) Number(index int, key string, value int64) error {
	return c.set(gpuKey(index, key), value)
}

// NotSupported takes a numeric key of a GPU away: what is asked for it answers
// NVML_ERROR_NOT_SUPPORTED.
func (c *Control) NotSupported(index int, key string) error {
	return c.text(gpuKey(index, key), "none")
}

// LinkDown makes one NVLink of the GPU inactive.
func (c *Control) LinkDown(index, link int) error {
	return c.text(fmt.Sprintf("link %d %d", index, link), "down")
}

// LinkUp makes one NVLink of the GPU active.
func (c *Control) LinkUp(index, link int) error {
	return c.text(fmt.Sprintf("link %d %d", index, link), "up")
}

// InitError makes nvmlInit answer the code; 0 lets it succeed.
func (c *Control) InitError(code int) error { return c.set("system init_error", int64(code)) }

// CallError makes every call but nvmlInit answer the code; 0 takes it back.
func (c *Control) CallError(code int) error { return c.set("system call_error", int64(code)) }

// Fail makes one call on one GPU (-1: all of them) answer the code.
func (c *Control) Fail(call string, index, code int) error {
	return c.set(fmt.Sprintf("fail %s %d", call, index), int64(code))
}

// ClearFail takes back what Fail did.
func (c *Control) ClearFail(call string, index int) error {
	return c.unset(fmt.Sprintf("fail %s %d", call, index))
}

// Hang makes each use of one call ("*": of every call) wait that long first.
// Zero takes it back.
func (c *Control) Hang(call string, d time.Duration) error {
	if d == 0 {
		return c.unset("hang " + call)
	}
	return c.set("hang "+call, max(1, d.Milliseconds()))
}

// DriverVersion makes the library report another driver, as after an upgrade.
func (c *Control) DriverVersion(version string) error {
	return c.text("system driver_version", version)
}

func gpuKey(index int, key string) string { return fmt.Sprintf("gpu %d %s", index, key) }

func (c *Control) set(key string, value int64) error {
	return c.text(key, strconv.FormatInt(value, 10))
}

func (c *Control) setAll(values map[string]int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, value := range values {
		c.lines[key] = strconv.FormatInt(value, 10)
	}
	return c.write()
}

func (c *Control) text(key, value string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines[key] = value
	return c.write()
}

// forget drops the line of key and those whose keys begin with prefix. The
// caller holds the lock.
func (c *Control) forget(key, prefix string) {
	maps.DeleteFunc(c.lines, func(k, _ string) bool { return k == key || strings.HasPrefix(k, prefix) })
}

func (c *Control) unset(key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.lines, key)
	return c.write()
}

// write replaces the file. The caller holds the lock.
func (c *Control) write() error {
	lines := []string{"fakenvml 1"}
	for _, key := range slices.Sorted(maps.Keys(c.lines)) { // an object before what is said of it
		lines = append(lines, key+" "+c.lines[key])
	}
	lines = append(lines, c.xids...)
	temp, err := os.CreateTemp(filepath.Dir(c.path), ".control-*")
	if err != nil {
		return fmt.Errorf("write control file: %w", err)
	}
	defer os.Remove(temp.Name()) // gone already after a rename
	if _, err := temp.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		return fmt.Errorf("write control file: %w", err)
	}
	if err := temp.Chmod(0o644); err != nil { // the plugin may run as another user
		return fmt.Errorf("write control file: %w", err)
	}
	if err := temp.Close(); err != nil {
		return fmt.Errorf("write control file: %w", err)
	}
	if err := os.Rename(temp.Name(), c.path); err != nil {
		return fmt.Errorf("write control file: %w", err)
	}
	return nil
}
