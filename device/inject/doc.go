// Package inject decides what a task gets for its GPUs: variables, device nodes
// and the driver's libraries. Discover looks at the node; Host.Reserve is then
// arithmetic on what was seen. It is no policy: which devices a task may have
// was decided before. The invariants: every granted node exists, and none
// belongs to a device that was not asked for.
//
//	mode     gives                                        works with
//	runtime  NVIDIA_VISIBLE_DEVICES, nodes                Docker with NVIDIA's runtime; exec, java
//	devices  nodes, libraries, LD_LIBRARY_PATH            Docker, exec, java
//	cdi      nodes, CDI names, a specification file       podman; Docker with NVIDIA's runtime; exec, java
//	env      both variables                               raw_exec; Docker with NVIDIA's runtime
//
// CUDA_VISIBLE_DEVICES has the UUIDs in every mode. With raw_exec nothing but
// variables has an effect, and CUDA keeps to them out of courtesy.
//
// Libraries are mounted one file at a time, under each name that a program may
// load. A directory of links made beforehand would not do: a link is followed in
// the task, where its target is not mounted. Copies would fill hundreds of MiB
// for each driver, and be those of the old driver after an upgrade. Files work
// for Docker, podman and the chroot of exec and java alike. NVIDIA's toolkit runs
// hooks in the container instead (ldconfig, links); no device plugin can. Where
// exec and java fill the chroot with the host's /usr, as by default, they have
// the libraries from there, and the nodes are all they lack.
//
// What this cannot do:
//   - Nomad gives a plugin's variables precedence over a task's env block, so
//     LD_LIBRARY_PATH replaces the task's and the image's. Options.LibraryDir in
//     a directory that the images' linker searches anyway avoids it; a template
//     with env = true overrides it.
//   - Of a reservation Nomad keeps only the variables when its client restarts.
//     A task that starts again after that has neither nodes nor mounts. The modes
//     runtime and cdi need only variables with Docker and podman.
//   - The podman driver passes no nodes, so devices does not work with it.
//     Nomad's Docker driver has no CDI devices: it gets them through NVIDIA's
//     runtime, in its modes auto and cdi, from /etc/cdi and /var/run/cdi.
//   - Graphics needs vendor files, links and display nodes: use the mode runtime.
//   - WSL and Tegra have other device nodes.
//   - A task may change its variables. That bounds an MPS share by consent; the
//     daemon's own defaults are the limit that binds.
package inject
