// Package inject decides what a task gets for its GPUs: variables, device nodes
// and the driver's libraries. Discover looks at the node; Host.Reserve is then
// arithmetic on what was seen. It is no policy: which devices a task may have
// was decided before. The invariants: every granted node exists, and none
// belongs to a device that was not asked for.
//
//	mode     gives                                   works with
//	runtime  NVIDIA_VISIBLE_DEVICES, nodes           Docker with NVIDIA's runtime; exec, java
//	devices  nodes, libraries, LD_LIBRARY_PATH       Docker, exec, java
//	cdi      nodes, CDI names, a specification       podman; Docker with NVIDIA's runtime; exec, java
//	env      both variables                          raw_exec; Docker with NVIDIA's runtime
//
// CUDA_VISIBLE_DEVICES has the UUIDs in every mode. In runtime and cdi, exec and
// java have the libraries only where their chroot is filled from the host's
// /usr, as by default.
//
// Libraries are mounted one file at a time, under each name that a program may
// load. A directory of links made beforehand would not do: a link is followed in
// the task, where its target is not mounted. Copies would fill hundreds of MiB
// for each driver, and be the old driver's after an upgrade. Files work in
// containers and in a chroot alike. NVIDIA's toolkit makes the links and runs
// ldconfig by hooks in the container instead; a device plugin has none.
//
// What Nomad makes impossible: it replaces a task's mounts by those of a
// reservation, so that with devices, and with MPS shares, a task's volumes are
// not there when it first starts (auto therefore never chooses devices); its Docker driver knows no CDI devices and gets
// them through NVIDIA's runtime (modes auto and cdi of that runtime); podman's
// driver passes no nodes; a plugin's variables win over a task's env block, so
// LD_LIBRARY_PATH replaces the task's own, unless Options.LibraryDir makes it
// needless; and when its client restarts Nomad keeps only the variables, so that
// a task started again after that lacks nodes and mounts. Not supported at all
// are graphics without NVIDIA's runtime, WSL and Tegra. A task may change its
// variables: those of MPS bound it by consent, the daemon's defaults by force.
package inject
