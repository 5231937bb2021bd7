package control

import "fmt"

// Instance names a MIG device of a GPU by its ids.
type Instance struct {
	GPUInstance, ComputeInstance int
}

// MIG is a MIG device to create. Its numbers are those of the fixture's
// mig_profile of that name, where they are zero here.
type MIG struct {
	Instance
	// UUID is "MIG-" and a UUID; Profile is NVIDIA's name, "1g.10gb".
	UUID, Profile string
	// MemoryMiB, GPUSlices and ComputeSlices are its size.
	MemoryMiB, GPUSlices, ComputeSlices int64
}

// MIGMode sets whether the GPU is in MIG mode, and whether it is after its
// next reset. Its MIG devices are not seen while it is off.
func (c *Control) MIGMode(index int, current, pending bool) error {
	return c.setAll(map[string]int64{
		gpuKey(index, "mig_mode"): number(current), gpuKey(index, "mig_pending"): number(pending)})
}

// CreateMIG makes a MIG device, in place of one with the same ids if there is one.
func (c *Control) CreateMIG(index int, m MIG) error {
	key := migKey(index, m.Instance)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetMIG(key)
	c.lines[key] = fmt.Sprintf("new %s %s", m.UUID, m.Profile)
	for name, value := range map[string]int64{
		"memory_total": m.MemoryMiB * mebi, "gpu_slices": m.GPUSlices, "compute_slices": m.ComputeSlices} {
		if value != 0 {
			c.lines[key+" "+name] = fmt.Sprint(value)
		}
	}
	return c.write()
}

// DestroyMIG takes a MIG device away, the fixture's or one that was created.
func (c *Control) DestroyMIG(index int, i Instance) error {
	key := migKey(index, i)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetMIG(key)
	c.lines[key] = "gone"
	return c.write()
}

// MIGNumber sets any numeric key of a MIG device, in NVML's units; src/keys.h
// lists the keys.
func (c *Control) MIGNumber(index int, i Instance, key string, value int64) error {
	return c.set(migKey(index, i)+" "+key, value)
}

// MIGMemory sets the memory in use on a MIG device, in MiB.
func (c *Control) MIGMemory(index int, i Instance, usedMiB int) error {
	return c.MIGNumber(index, i, "memory_used", int64(usedMiB)*mebi)
}

func migKey(index int, i Instance) string {
	return fmt.Sprintf("mig %d %d %d", index, i.GPUInstance, i.ComputeInstance)
}

// forgetMIG drops what was said of a MIG device. The caller holds the lock.
func (c *Control) forgetMIG(key string) { c.forget(key, key+" ") }

func number(on bool) int64 {
	if on {
		return 1
	}
	return 0
}
