package inject

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inject/injecttest"
)

// namesOf are the files that a task finds in its library directory.
func namesOf(h Host) []string {
	names := []string{}
	for _, library := range h.Libraries {
		names = append(names, library.Names...)
	}
	slices.Sort(names)
	return names
}

func TestLibrariesGranted(t *testing.T) {
	t.Parallel()
	names := namesOf(newRoot(t).discover(Devices))
	for name, want := range map[string]bool{
		"libcuda.so.570.86.15":                   true,
		"libcuda.so.1":                           true, // what programs are linked with
		"libcuda.so":                             true, // what some open
		"libnvidia-ml.so.1":                      true,
		"libnvidia-nvvm.so.4":                    true,
		"libnvidia-nvvm70.so.4":                  true, // not of the driver's version
		"libnvidia-gpucomp.so.570.86.15":         true, // its SONAME has the version
		"libnvidia-opencl.so.1":                  true,
		"libnvidia-opencl.so":                    false, // the host has no such link
		"libnvidia-opticalflow.so":               true,  // nor this one, but programs open it
		"libnvcuvid.so.1":                        true,
		"libnvidia-encode.so.1":                  true,
		"libEGL_nvidia.so.0":                     false, // graphics
		"libnvidia-eglcore.so.570.86.15":         false,
		"libnvidia-fbc.so.1":                     false,
		"libnvidia-ngx.so.1":                     false,
		"libnvidia-sandboxutils.so.570.86.15":    false, // the host's own
		"libvdpau_nvidia.so.570.86.15":           false,
		"placeholder-of-a-soname-that-is-longer": false,
	} {
		must.Eq(t, want, slices.Contains(names, name), must.Sprint(name))
	}
}

func TestLibrariesFound(t *testing.T) {
	t.Parallel()
	const cuda = "libcuda.so." + injecttest.Version
	foreign := func() []byte {
		library := slices.Clone(driver.Library("libcuda.so.1"))
		library[18], library[19] = 3, 0 // e_machine: EM_386
		return library
	}
	cases := map[string]struct {
		edit func(root)
		want string // host path of libcuda below the root; "" when it is not found
	}{
		"in the usual place": {func(root) {}, "usr/lib64/" + cuda},
		"in a directory of ld.so.conf": {func(r root) {
			r.remove("usr/lib64")
			r.write("etc/ld.so.conf", "include ld.so.conf.d/*.conf\n")
			r.write("etc/ld.so.conf.d/nvidia.conf", "# NVIDIA\n/opt/nvidia/lib64\n")
			r.write("etc/ld.so.conf.d/nvidia.conf.old", "/opt/older\n")
			must.NoError(r.t, injecttest.Write(filepath.Join(r.dir, "opt/nvidia/lib64", cuda), driver.Library("libcuda.so.1"), 0o644))
		}, "opt/nvidia/lib64/" + cuda},
		"configuration files may include each other": {func(r root) {
			r.write("etc/ld.so.conf", "include /etc/ld.so.conf\n")
		}, "usr/lib64/" + cuda},
		"a library of another architecture is passed over": {func(r root) {
			must.NoError(r.t, injecttest.Write(filepath.Join(r.dir, "usr/lib64", cuda), foreign(), 0o644))
			must.NoError(r.t, injecttest.Write(filepath.Join(r.dir, "usr/lib64/nvidia", cuda), driver.Library("libcuda.so.1"), 0o644))
		}, "usr/lib64/nvidia/" + cuda},
		"a link is followed, because its target is not in the task": {func(r root) {
			must.NoError(r.t, os.Rename(filepath.Join(r.dir, "usr/lib64", cuda), filepath.Join(r.dir, "usr/lib64/nvidia-current")))
			must.NoError(r.t, os.Symlink("nvidia-current", filepath.Join(r.dir, "usr/lib64", cuda)))
		}, "usr/lib64/nvidia-current"},
		"a link out of the driver's root is not followed": {func(r root) {
			outside := filepath.Join(r.t.TempDir(), "libcuda")
			must.NoError(r.t, injecttest.Write(outside, driver.Library("libcuda.so.1"), 0o644))
			r.remove("usr/lib64/" + cuda)
			must.NoError(r.t, os.Symlink(outside, filepath.Join(r.dir, "usr/lib64", cuda)))
		}, ""},
		"another driver's library is not taken": {func(r root) {
			must.NoError(r.t, os.Rename(filepath.Join(r.dir, "usr/lib64", cuda), filepath.Join(r.dir, "usr/lib64/libcuda.so.550.54.15")))
		}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t)
			c.edit(r)
			h := r.discover(Devices)
			i := slices.IndexFunc(h.Libraries, func(l Library) bool { return slices.Contains(l.Names, cuda) })
			if c.want == "" {
				must.Eq(t, -1, i)
				must.Eq(t, []string{cuda}, h.missingLibraries())
				return
			}
			must.NotEq(t, -1, i, must.Sprintf("%v", h.Findings))
			must.Eq(t, filepath.Join(r.dir, c.want), h.Libraries[i].HostPath)
			must.Eq(t, []string{"libcuda.so", "libcuda.so.1", cuda}, h.Libraries[i].Names)
		})
	}
}

func TestADamagedLibraryIsOneFinding(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	r.remove("lib", "lib64")
	must.NoError(t, os.Symlink("usr/lib64", filepath.Join(r.dir, "lib64"))) // as on every present distribution
	r.write("usr/lib64/libnvidia-nvvm.so."+injecttest.Version, "cut")
	must.Len(t, 1, r.discover(Devices).Findings)
}

func TestSONAMEWithADirectoryIsNoName(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	must.NoError(t, injecttest.Write(filepath.Join(r.dir, "usr/lib64/libnvidia-new.so."+injecttest.Version), driver.Library("../../etc/passwd"), 0o644))
	h := r.discover(Devices)
	i := slices.IndexFunc(h.Libraries, func(l Library) bool { return slices.Contains(l.Names, "libnvidia-new.so."+injecttest.Version) })
	must.NotEq(t, -1, i, must.Sprint("a library that the table does not know is granted"))
	must.Len(t, 1, h.Libraries[i].Names)
}

func TestProgramsAreExecutableFiles(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	must.NoError(t, os.Chmod(filepath.Join(r.dir, "usr/bin/nvidia-smi"), 0o644))
	r.remove("usr/bin/nvidia-debugdump")
	must.NoError(t, os.MkdirAll(filepath.Join(r.dir, "usr/bin/nvidia-debugdump"), 0o755))
	paths := []string{}
	for _, m := range r.discover(Devices).Files {
		paths = append(paths, m.TaskPath)
	}
	must.Eq(t, []string{"/etc/OpenCL/vendors/nvidia.icd", "/usr/bin/nvidia-cuda-mps-control", "/usr/bin/nvidia-cuda-mps-server"}, paths)
}
