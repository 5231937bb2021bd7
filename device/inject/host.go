package inject

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Host is what a node has for its tasks, as it was when Discover looked. It is
// a value that nothing changes, safe for concurrent use.
type Host struct {
	// Mode is how tasks get their GPUs; it is never Auto.
	Mode Mode
	// Reason says why it is this mode.
	Reason string
	// DriverVersion is what the libraries' names end in.
	DriverVersion string
	// Libraries are those that a task gets in the modes Devices and CDI, by
	// host path.
	Libraries []Library
	// Files are the programs and configuration files that a task gets with
	// them, by task path.
	Files []Mount
	// Nodes are the driver's device nodes that exist, by their path in a task.
	Nodes []string
	// Findings are what is missing or will not work, each with advice.
	Findings []Finding

	options Options // with defaults
	docker  docker
	minors  map[capability]int64
}

// Finding is something that an operator should look at.
type Finding struct {
	// What is the observation, Advice what to do about it.
	What, Advice string
}

// Discover looks at the node: which mode fits, and what a task gets. The
// version is the driver's, as NVML gives it; empty when it is not known. What
// is missing becomes a finding; an error means that the options are not valid.
//
// It reads some directories and the heads of some twenty files, so that a
// plugin can call it for every Reserve: nodes and libraries come and go with
// the driver.
func Discover(o Options, driverVersion string) (Host, error) {
	return discover(o, driverVersion, isCharacterDevice)
}

// discover is Discover with a rule of what a device node is.
func discover(o Options, driverVersion string, isNode func(fs.FileInfo) bool) (Host, error) {
	if err := o.Validate(); err != nil {
		return Host{}, err
	}
	h := Host{DriverVersion: driverVersion, options: o.withDefaults()}
	var dockerFindings, minorFindings, libraryFindings []Finding
	h.docker, dockerFindings = readDocker(h.options.HostRoot)
	h.minors, minorFindings = readMinors(h.options.HostRoot)
	h.Nodes = findNodes(h.options, isNode)
	if driverVersion == "" {
		libraryFindings = []Finding{{
			What:   "the driver's version is not known, so its libraries cannot be told from another driver's",
			Advice: "Load the driver (modprobe nvidia) and see that nvidia-smi works."}}
	} else {
		h.Libraries, libraryFindings = findLibraries(h.options.DriverRoot, driverVersion)
		for _, file := range h.missingLibraries() {
			libraryFindings = append(libraryFindings, Finding{
				What:   fmt.Sprintf("%s is in none of the usual library directories below %s", file, h.options.DriverRoot),
				Advice: "Install the driver's compute libraries of exactly that version, or say where the driver's root is."})
		}
		h.Files = append(findPrograms(h.options.DriverRoot), h.storageFiles()...)
		slices.SortFunc(h.Files, byTaskPath)
	}
	h.Mode, h.Reason = h.choose()
	if o.Mode != Env {
		h.Findings = append(h.Findings, dockerFindings...)
		h.Findings = append(h.Findings, h.modeFindings()...)
	}
	if h.mountsLibraries() || h.options.Mode == Auto && h.Mode == Env {
		h.Findings = append(h.Findings, libraryFindings...)
	}
	if h.Mode != Env {
		h.Findings = append(h.Findings, minorFindings...)
	}
	return h, nil
}

// mountsLibraries reports whether libraries come from the plugin: directly, or
// through the CDI specification.
func (h Host) mountsLibraries() bool { return h.Mode == Devices || h.Mode == CDI }

// storageFiles are what GPUDirect Storage needs beside its nodes.
func (h Host) storageFiles() []Mount {
	if !h.options.GDS {
		return nil
	}
	var files []Mount
	for _, file := range []string{"/etc/cufile.json", "/run/udev"} {
		hostPath, err := resolve(h.options.DriverRoot, filepath.Join(h.options.DriverRoot, file))
		if err == nil {
			files = append(files, Mount{TaskPath: file, HostPath: hostPath, ReadOnly: true})
		}
	}
	return files
}

// choose picks the mode and says why.
func (h Host) choose() (Mode, string) {
	if h.options.Mode != Auto {
		return h.options.Mode, fmt.Sprintf("the mode %q is configured", h.options.Mode)
	}
	if h.docker.has(h.options.DockerRuntime) {
		return Runtime, fmt.Sprintf("Docker has the runtime %q", h.options.DockerRuntime)
	}
	noRuntime := fmt.Sprintf("Docker has no runtime %q", h.options.DockerRuntime)
	switch {
	case !slices.ContainsFunc(h.Nodes, isGPUNode):
		return Env, fmt.Sprintf("%s, and there is no device node of a GPU below %s", noRuntime, filepath.Join(h.options.DevRoot, "dev"))
	case len(h.missingLibraries()) > 0:
		return Env, noRuntime + ", and the driver's libraries were not found"
	}
	return CDI, fmt.Sprintf("%s, and the libraries and device nodes of driver %s are here", noRuntime, h.DriverVersion)
}

// missingLibraries names the files without which no CUDA program starts and
// that were not found.
func (h Host) missingLibraries() []string {
	var missing []string
	for _, needed := range neededLibraries {
		file := needed + ".so." + h.DriverVersion
		if !slices.ContainsFunc(h.Libraries, func(l Library) bool { return slices.Contains(l.Names, file) }) {
			missing = append(missing, file)
		}
	}
	return missing
}

// modeFindings are what keeps the mode from working for every task.
func (h Host) modeFindings() []Finding {
	var findings []Finding
	say := func(what, advice string) { findings = append(findings, Finding{What: what, Advice: advice}) }
	runtime := h.options.DockerRuntime
	switch h.Mode {
	case Runtime:
		if !h.docker.has(runtime) {
			say(fmt.Sprintf("%s has no runtime %q, which Nomad's Docker driver needs for a task with a GPU", dockerConfigFile, runtime),
				"Install NVIDIA's container toolkit and run nvidia-ctk runtime configure --runtime=docker, then restart Docker.\nIf dockerd has the runtime from its command line, this is as it should be.")
		}
	case Devices, CDI:
		if h.docker.defaultRuntime == runtime && h.Mode == Devices {
			say(fmt.Sprintf("Docker's default runtime is %q, so an image that sets NVIDIA_VISIBLE_DEVICES=all sees every GPU of the node", runtime),
				"Set the mode runtime, or remove default-runtime from "+dockerConfigFile+".")
		}
		if h.Mode == CDI && !slices.Contains([]string{"/etc/cdi", "/var/run/cdi", "/run/cdi"}, h.options.SpecDir) {
			say(fmt.Sprintf("the CDI specification is kept in %s, where podman and Docker do not look by default", h.options.SpecDir),
				"Use "+DefaultSpecDir+", or add the directory to theirs.")
		}
		_, missing := h.existing(h.sharedNodes())
		for _, n := range missing {
			say(fmt.Sprintf("the device node %s does not exist", n.path),
				"Tasks with a GPU are refused until it does; "+n.remedy+".")
		}
	case Env:
		say("tasks get environment variables only: "+h.Reason,
			"On a node with GPUs install the driver and run "+modprobe+", at boot before the Nomad client.")
	case Auto:
	}
	if h.options.Mode == Auto && h.Mode == CDI && dockerInstalled(h.options.HostRoot) {
		say(fmt.Sprintf("Docker has no runtime %q: its tasks get device nodes and no driver libraries", runtime),
			"Install NVIDIA's container toolkit and run nvidia-ctk runtime configure --runtime=docker, or set the mode devices;\nit mounts the libraries, and Nomad (1.11.3) then forgets a task's volumes.")
	}
	if h.options.Mode == Auto && h.Mode != Runtime && runtimeInstalled(h.options.HostRoot) {
		say(fmt.Sprintf("%s is installed, and %s has no runtime %q", containerRuntime, dockerConfigFile, runtime),
			"Run nvidia-ctk runtime configure --runtime=docker and restart Docker, or set the mode runtime if dockerd has it from its command line.")
	}
	return findings
}

// SpecPath is the file that WriteSpec keeps.
func (h Host) SpecPath() string {
	return filepath.Join(h.options.SpecDir, strings.ReplaceAll(h.options.Kind, "/", "-")+".json")
}

// hostNode is where a node is on the host.
func (h Host) hostNode(taskPath string) string { return filepath.Join(h.options.DevRoot, taskPath) }

// libraryMounts are the mounts of libraries and files, by task path.
func (h Host) libraryMounts() []Mount {
	mounts := slices.Clone(h.Files)
	for _, library := range h.Libraries {
		for _, name := range library.Names {
			mounts = append(mounts, Mount{TaskPath: path.Join(h.options.LibraryDir, name), HostPath: library.HostPath, ReadOnly: true})
		}
	}
	return distinct(mounts)
}

// isDir reports whether a directory is there.
func isDir(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}
