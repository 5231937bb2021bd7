package injecttest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Version is the version of the driver that Install installs.
const Version = "570.86.15"

// Driver makes the driver's files. It is safe for concurrent use.
type Driver struct {
	library []byte // a shared object whose SONAME is placeholder
}

// placeholder is longer than every SONAME that the driver has.
const placeholder = "placeholder-of-a-soname-that-is-longer-than-any.so.0"

// Compile compiles the one shared object of which all libraries are copies.
func Compile() (Driver, error) {
	dir, err := os.MkdirTemp("", "injecttest")
	if err != nil {
		return Driver{}, err
	}
	defer os.RemoveAll(dir)
	source := filepath.Join(dir, "empty.c")
	if err := os.WriteFile(source, []byte("int injecttest;\n"), 0o644); err != nil {
		return Driver{}, err
	}
	compiler := "gcc"
	if given := os.Getenv("CC"); given != "" {
		compiler = given
	}
	target := filepath.Join(dir, "empty.so")
	out, err := exec.Command(compiler, "-shared", "-nostdlib", "-fPIC", "-Wl,-soname,"+placeholder, "-o", target, source).CombinedOutput()
	if err != nil {
		return Driver{}, fmt.Errorf("compile a shared object: %w\n%s", err, out)
	}
	library, err := os.ReadFile(target)
	if err != nil {
		return Driver{}, err
	}
	if !bytes.Contains(library, []byte(placeholder+"\x00")) {
		return Driver{}, errors.New("compile a shared object: it lacks the SONAME that it was given")
	}
	return Driver{library}, nil
}

// Library is a shared object with this SONAME.
func (d Driver) Library(soname string) []byte {
	padded := soname + strings.Repeat("\x00", len(placeholder)-len(soname))
	return bytes.Replace(d.library, []byte(placeholder), []byte(padded), 1)
}

// file is one library as the driver's installer leaves it.
type file struct {
	name, soname string // V stands for the version
	plain        bool   // with a link of the name without a version
}

// files are a selection of what driver 570 installs on a server: everything for
// compute and utility, and some of each of the rest.
var files = []file{
	{"libEGL_nvidia.so.V", "libEGL_nvidia.so.0", false},
	{"libGLX_nvidia.so.V", "libGLX_nvidia.so.0", false},
	{"libcuda.so.V", "libcuda.so.1", true},
	{"libcudadebugger.so.V", "libcudadebugger.so.1", false},
	{"libnvcuvid.so.V", "libnvcuvid.so.1", true},
	{"libnvidia-allocator.so.V", "libnvidia-allocator.so.1", true},
	{"libnvidia-cfg.so.V", "libnvidia-cfg.so.1", true},
	{"libnvidia-eglcore.so.V", "libnvidia-eglcore.so.V", false},
	{"libnvidia-encode.so.V", "libnvidia-encode.so.1", true},
	{"libnvidia-fbc.so.V", "libnvidia-fbc.so.1", true},
	{"libnvidia-glcore.so.V", "libnvidia-glcore.so.V", false},
	{"libnvidia-gpucomp.so.V", "libnvidia-gpucomp.so.V", false},
	{"libnvidia-ml.so.V", "libnvidia-ml.so.1", true},
	{"libnvidia-ngx.so.V", "libnvidia-ngx.so.1", false},
	{"libnvidia-nscq.so.V", "libnvidia-nscq.so.2", false},
	{"libnvidia-nvvm.so.V", "libnvidia-nvvm.so.4", true},
	{"libnvidia-nvvm70.so.4", "libnvidia-nvvm70.so.4", false},
	{"libnvidia-opencl.so.V", "libnvidia-opencl.so.1", false},
	{"libnvidia-opticalflow.so.V", "libnvidia-opticalflow.so.1", false},
	{"libnvidia-pkcs11-openssl3.so.V", "libnvidia-pkcs11-openssl3.so.V", false},
	{"libnvidia-ptxjitcompiler.so.V", "libnvidia-ptxjitcompiler.so.1", true},
	{"libnvidia-rtcore.so.V", "libnvidia-rtcore.so.V", false},
	{"libnvidia-sandboxutils.so.V", "libnvidia-sandboxutils.so.1", false},
	{"libnvidia-tls.so.V", "libnvidia-tls.so.V", false},
	{"libnvoptix.so.V", "libnvoptix.so.1", false},
	{"vdpau/libvdpau_nvidia.so.V", "libvdpau_nvidia.so.1", false},
}

// otherFiles are what a driver has beside its libraries, with their modes.
var otherFiles = map[string]os.FileMode{
	"usr/bin/nvidia-smi":                          0o755,
	"usr/bin/nvidia-debugdump":                    0o755,
	"usr/bin/nvidia-persistenced":                 0o755,
	"usr/bin/nvidia-cuda-mps-control":             0o755,
	"usr/bin/nvidia-cuda-mps-server":              0o755,
	"usr/bin/nvidia-imex":                         0o755,
	"usr/bin/nvidia-imex-ctl":                     0o755,
	"usr/bin/nvidia-modprobe":                     0o4755,
	"etc/OpenCL/vendors/nvidia.icd":               0o644,
	"lib/firmware/nvidia/V/gsp_ga10x.bin":         0o644,
	"usr/share/nvidia/nvoptix.bin":                0o644,
	"usr/share/glvnd/egl_vendor.d/10_nvidia.json": 0o644,
	"run/nvidia-persistenced/socket":              0o644,
	"run/nvidia-fabricmanager/socket":             0o644,
}

// Install installs the driver below a root, its libraries in libraryDir there.
func (d Driver) Install(root, libraryDir string) error {
	dir := filepath.Join(root, libraryDir)
	for _, f := range files {
		name, soname := versionedName(f.name), versionedName(f.soname)
		target := filepath.Join(dir, name)
		if err := Write(target, d.Library(soname), 0o644); err != nil {
			return err
		}
		if err := link(filepath.Base(name), filepath.Join(filepath.Dir(target), soname)); err != nil {
			return err
		}
		if base, _, _ := strings.Cut(name, ".so"); f.plain {
			if err := link(soname, filepath.Join(dir, base+".so")); err != nil {
				return err
			}
		}
	}
	for name, mode := range otherFiles {
		if err := Write(filepath.Join(root, strings.ReplaceAll(name, "/V/", "/"+Version+"/")), []byte("#!/bin/sh\n"), mode); err != nil {
			return err
		}
	}
	return nil
}

// versionedName puts the version in the place of the V at a name's end.
func versionedName(name string) string {
	if base, ok := strings.CutSuffix(name, ".V"); ok {
		return base + "." + Version
	}
	return name
}

// link makes a link unless the name is the target's own.
func link(target, name string) error {
	if target == filepath.Base(name) {
		return nil
	}
	return os.Symlink(target, name)
}

// Write writes a file and the directories above it.
func Write(file string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, content, mode)
}
