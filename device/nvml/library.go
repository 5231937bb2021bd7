package nvml

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// DefaultLibrary is the name under which the driver installs NVML.
const DefaultLibrary = "libnvidia-ml.so.1"

// Sentinels for what is wrong with the library; errors.Is tells them apart.
var (
	// ErrNotFound means that there is no library: no driver is installed.
	ErrNotFound = errors.New("NVML library not found")
	// ErrUnusable means that a library is there but cannot be NVML.
	ErrUnusable = errors.New("NVML library is unusable")
	// ErrNotReady means that the library loaded but does not answer: the
	// kernel driver is not loaded, or its version differs.
	ErrNotReady = errors.New("NVML does not answer")
	// ErrMismatch means that the library is not of the loaded kernel
	// driver's version; it is also ErrNotReady.
	ErrMismatch = errors.New("driver version mismatch")
)

// libraryDirs are where distributions, containers, WSL and NixOS keep the
// driver's libraries; the dynamic linker's cache is asked when all lack it.
var libraryDirs = []string{
	"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib",
	"/lib64", "/lib", "/usr/local/nvidia/lib64", "/usr/lib/wsl/lib", "/run/opengl-driver/lib",
}

// Locate says which file a library name means, or "" when only the dynamic
// linker could know. A name with a slash means itself.
func Locate(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	dirs := append(filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")), libraryDirs...)
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); dir != "" && err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// identity tells one state of a file from another: a driver's installer renames
// a new file over the library or writes into it.
type identity struct {
	path string
	info os.FileInfo // nil when there is no file
}

func identify(path string) identity {
	info, err := os.Stat(path)
	if err != nil {
		return identity{path: path}
	}
	return identity{path: path, info: info}
}

func (i identity) equal(o identity) bool {
	if i.info == nil || o.info == nil {
		return i.path == o.path && i.info == nil && o.info == nil
	}
	return i.path == o.path && os.SameFile(i.info, o.info) &&
		i.info.Size() == o.info.Size() && i.info.ModTime().Equal(o.info.ModTime())
}

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// checkFile refuses a file that the dynamic linker would crash on: one that is
// cut short maps pages that do not exist, and touching them is a bus error
// that no program survives.
func checkFile(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s does not exist", ErrNotFound, path)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	file, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%w: %s is not a complete shared library: %w", ErrUnusable, path, err)
	}
	defer file.Close() // read only
	if file.Type != elf.ET_DYN {
		return fmt.Errorf("%w: %s is not a shared library", ErrUnusable, path)
	}
	if want := machines[runtime.GOARCH]; file.Machine != want {
		return fmt.Errorf("%w: %s is built for %s, this program for %s", ErrUnusable, path, file.Machine, want)
	}
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_LOAD && segment.Off+segment.Filesz > uint64(info.Size()) {
			return fmt.Errorf("%w: %s is cut short: it has %d bytes and needs %d; install the driver again",
				ErrUnusable, path, info.Size(), segment.Off+segment.Filesz)
		}
	}
	return nil
}
