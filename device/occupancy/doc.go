// Package occupancy says who uses a GPU without holding it. It is pure: texts
// of the kernel and values of the plugin in, verdicts out. Package watch below
// reads the kernel and keeps the state.
//
// Nomad tells a device plugin which devices it hands out, but not to whom, and
// says nothing when a task gives them back. So the plugin leaves a grant in the
// task's environment: the device ids and a nonce, authenticated with a key that
// only the plugin has. A process with a compute context on a GPU holds it when
// its task's environment has a grant for that device which is the latest one
// given for it and was not seen in another allocation.
//
// What this proves: the plugin gave out this grant for this device; nothing was
// given out for it since; and, once the holder has been seen, no other
// allocation holds it. A task cannot make a grant, widen one, or use one that
// it saved after the device was handed out again.
//
// What it does not prove: whoever reads a task's environment (root, or the same
// user outside a container) can use its grant until the holder has been seen
// with it, and inside the holder's allocation for as long as it lasts. A grant
// does not end with its task, but with the next one for the device. The cgroup
// and, for containers, the mounts that name an allocation are the kernel's word;
// where a host has neither, NOMAD_ALLOC_ID in the environment is the process's
// own, and Use.By says so. root on the host can do anything. Processes that only
// draw are not listed by NVML, nor is what runs for less than a sampling period.
//
// The rule that everything else gives way to: what could not be read or decided
// is Unknown and never an accusation.
package occupancy
