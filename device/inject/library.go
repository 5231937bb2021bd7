package inject

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Library is one of the driver's libraries.
type Library struct {
	// Names are the file names under which a task finds it: the file's own,
	// its SONAME, and the name without a version where programs load that.
	Names []string
	// HostPath is the file itself, not a link to it.
	HostPath string
}

// use is what a driver library is for.
type use uint8

const (
	compute  use = iota // CUDA, OpenCL and what they load
	utility             // NVML and nvidia-smi
	video               // encoding, decoding and optical flow
	graphics            // not granted: needs files and links that mounts cannot give
	hostOnly            // not granted: administers the host
)

// libraryUses says what the driver's libraries are for, by name up to ".so". A
// library that is not listed is granted: a newer driver has compute
// libraries that this table cannot know, and a task that lacks one fails.
var libraryUses = map[string]use{
	"libcuda":                   compute,
	"libcudadebugger":           compute,
	"libnvidia-allocator":       compute,
	"libnvidia-compiler":        compute, // OpenCL, before R530
	"libnvidia-fatbinaryloader": compute, // before R450
	"libnvidia-gpucomp":         compute,
	"libnvidia-nvvm":            compute,
	"libnvidia-nvvm70":          compute,
	"libnvidia-opencl":          compute,
	"libnvidia-pkcs11":          compute, // confidential computing
	"libnvidia-pkcs11-openssl3": compute,
	"libnvidia-ptxjitcompiler":  compute,
	"libnvidia-tileiras":        compute,
	"libnvidia-cfg":             utility,
	"libnvidia-ml":              utility,
	"libnvcuvid":                video,
	"libnvidia-encode":          video,
	"libnvidia-opticalflow":     video,
	"libEGL_nvidia":             graphics,
	"libGLESv1_CM_nvidia":       graphics,
	"libGLESv2_nvidia":          graphics,
	"libGLX_nvidia":             graphics,
	"libglxserver_nvidia":       graphics,
	"libnvidia-api":             graphics,
	"libnvidia-cbl":             graphics,
	"libnvidia-egl-gbm":         graphics,
	"libnvidia-egl-wayland":     graphics,
	"libnvidia-egl-xcb":         graphics,
	"libnvidia-egl-xlib":        graphics,
	"libnvidia-eglcore":         graphics,
	"libnvidia-fbc":             graphics, // captures a screen
	"libnvidia-glcore":          graphics,
	"libnvidia-glsi":            graphics,
	"libnvidia-glvkspirv":       graphics,
	"libnvidia-gtk2":            graphics,
	"libnvidia-gtk3":            graphics,
	"libnvidia-ifr":             graphics,
	"libnvidia-ngx":             graphics,
	"libnvidia-present":         graphics,
	"libnvidia-rtcore":          graphics,
	"libnvidia-tls":             graphics,
	"libnvidia-vksc-core":       graphics,
	"libnvidia-vulkan-producer": graphics,
	"libnvidia-wayland-client":  graphics,
	"libnvoptix":                graphics,
	"libvdpau_nvidia":           graphics,
	"libnvidia-nscq":            hostOnly, // NVSwitch administration
	"libnvidia-sandboxutils":    hostOnly, // used to set up containers
	"libnvidia-vgpu":            hostOnly,
	"libnvidia-vgxcfg":          hostOnly,
}

func granted(u use) bool {
	switch u {
	case compute, utility, video:
		return true
	case graphics, hostOnly:
	}
	return false
}

// plainNames are libraries that programs load by the name without a version,
// whether the host has a link of that name or not.
var plainNames = []string{"libcuda.so", "libnvidia-opticalflow.so"}

// legacyNVVM is the beginning of the one library whose file name does not end
// in the driver's version.
const legacyNVVM = "libnvidia-nvvm70.so."

// neededLibraries are those without which no CUDA program starts.
var neededLibraries = []string{"libcuda", "libnvidia-ml"}

// triplets and machines are the names of this machine's architecture in paths
// and in ELF files.
var (
	triplets = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
	machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
)

// usualLibraryDirs are where distributions and NVIDIA's installer put the
// driver's libraries, below the driver root, most specific first.
func usualLibraryDirs() []string {
	dirs := []string{"/usr/lib64", "/usr/lib64/nvidia"}
	if triplet := triplets[runtime.GOARCH]; triplet != "" {
		for _, parent := range []string{"/usr/lib/", "/lib/"} {
			dirs = append(dirs, parent+triplet, parent+triplet+"/nvidia/current")
		}
	}
	return append(dirs, "/lib64", "/usr/lib", "/usr/local/nvidia/lib64", "/run/opengl-driver/lib")
}

// searchedAnyway reports whether the dynamic linker of some distribution looks
// into a directory without being told.
func searchedAnyway(dir string) bool {
	return slices.Contains([]string{"/lib", "/usr/lib", "/lib64", "/usr/lib64",
		"/lib/" + triplets[runtime.GOARCH], "/usr/lib/" + triplets[runtime.GOARCH]}, dir)
}

// findLibraries finds the driver's libraries that a task gets, by host path. Of several files of one name the first directory's counts.
func findLibraries(root, version string) ([]Library, []Finding) {
	var found []Library
	var findings []Finding
	seen := map[string]bool{}
	for _, dir := range slices.Concat(usualLibraryDirs(), configuredDirs(root)) {
		names := listDir(filepath.Join(root, dir))
		hasCUDA := slices.Contains(names, "libcuda.so."+version)
		for _, name := range names {
			base, _, _ := strings.Cut(name, ".so")
			ofDriver := strings.HasSuffix(name, ".so."+version) || hasCUDA && strings.HasPrefix(name, legacyNVVM)
			if !ofDriver || seen[name] || !granted(libraryUses[base]) {
				continue
			}
			library, err := readLibrary(root, filepath.Join(root, dir, name), names)
			switch {
			case errors.Is(err, errForeign):
			case err != nil:
				f := Finding{What: err.Error(), Advice: "Install the driver's user-space package again; tasks do not get this library."}
				if !slices.Contains(findings, f) { // /lib may be a link to /usr/lib
					findings = append(findings, f)
				}
			default:
				seen[name] = true
				found = append(found, library)
			}
		}
	}
	slices.SortFunc(found, func(a, b Library) int { return strings.Compare(a.HostPath, b.HostPath) })
	return found, findings
}

// listDir returns the names in a directory, sorted; none when it cannot be read.
func listDir(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// errForeign means a library of another architecture: a 64-bit driver installs
// its 32-bit libraries too.
var errForeign = errors.New("another architecture")

// readLibrary reads a library's own name. Siblings are the names beside it.
func readLibrary(root, file string, siblings []string) (Library, error) {
	actual, err := resolve(root, file)
	if err != nil {
		return Library{}, err
	}
	soname, err := readSONAME(actual)
	if err != nil {
		return Library{}, err
	}
	own := filepath.Base(file)
	names := []string{own}
	if soname != "" && soname == path.Base(soname) {
		names = append(names, soname)
	}
	base, _, _ := strings.Cut(own, ".so")
	if plain := base + ".so"; slices.Contains(plainNames, plain) || slices.Contains(siblings, plain) {
		names = append(names, plain)
	}
	slices.Sort(names)
	return Library{Names: slices.Compact(names), HostPath: actual}, nil
}

func readSONAME(file string) (string, error) {
	library, err := elf.Open(file)
	if err != nil {
		return "", fmt.Errorf("%s is not a shared library: %w", file, err)
	}
	defer library.Close() // read only
	if library.Machine != machines[runtime.GOARCH] {
		return "", errForeign
	}
	names, err := library.DynString(elf.DT_SONAME)
	if err != nil {
		return "", fmt.Errorf("%s is not a whole shared library: %w", file, err)
	}
	if len(names) == 0 {
		return "", nil
	}
	return names[0], nil
}

// resolve follows links to the file itself: a link would be followed in the
// task, where its target is not. One that leads out of the root is refused.
func resolve(root, file string) (string, error) {
	realRoot, err := filepath.EvalSymlinks(root)
	if err != nil {
		return "", fmt.Errorf("find the driver's root: %w", err)
	}
	actual, err := filepath.EvalSymlinks(file)
	if err != nil {
		return "", fmt.Errorf("follow the links of %s: %w", file, err)
	}
	relative, err := filepath.Rel(realRoot, actual)
	if err != nil || !filepath.IsLocal(relative) {
		return "", fmt.Errorf("%s is a link to %s, which is outside the driver's root %s", file, actual, root)
	}
	return filepath.Join(root, relative), nil
}

// programs are the driver's programs that a task gets. What is left out, the
// persistence and IMEX daemons, serves a whole host.
var programs = []string{
	"nvidia-smi",
	"nvidia-debugdump",
	"nvidia-cuda-mps-control", // a task may share its own GPU among its processes
	"nvidia-cuda-mps-server",
}

// programDirs are where the programs are, below the driver root.
var programDirs = []string{
	"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/nvidia/bin", "/run/current-system/sw/bin",
}

// taskProgramDir is in the PATH of every image, and of Nomad's exec driver.
const taskProgramDir = "/usr/bin"

// openCLVendor tells OpenCL's loader which library the driver has.
const openCLVendor = "/etc/OpenCL/vendors/nvidia.icd"

// findPrograms finds the programs and OpenCL's entry, as mounts by task path.
func findPrograms(root string) []Mount {
	var found []Mount
	for _, name := range programs {
		for _, dir := range programDirs {
			if actual, ok := regularFile(root, filepath.Join(root, dir, name), 0o111); ok {
				found = append(found, Mount{TaskPath: path.Join(taskProgramDir, name), HostPath: actual, ReadOnly: true})
				break
			}
		}
	}
	if actual, ok := regularFile(root, filepath.Join(root, openCLVendor), 0); ok {
		found = append(found, Mount{TaskPath: openCLVendor, HostPath: actual, ReadOnly: true})
	}
	slices.SortFunc(found, byTaskPath)
	return found
}

// regularFile resolves a file that has one of the permissions, if any are asked for.
func regularFile(root, file string, permissions fs.FileMode) (string, bool) {
	actual, err := resolve(root, file)
	if err != nil {
		return "", false
	}
	info, err := os.Stat(actual)
	if err != nil || !info.Mode().IsRegular() || permissions != 0 && info.Mode()&permissions == 0 {
		return "", false
	}
	return actual, true
}
