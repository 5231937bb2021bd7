package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/plugin"
)

var update = flag.Bool("update", false, "write the golden files")

const fakeSource = "../../device/fakenvml"

// The program as it is shipped, and the fake library with compiled fixtures.
var program, fake string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "nomad-device-gpu")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program, fake = filepath.Join(dir, "nomad-device-gpu"), filepath.Join(dir, "fake")
		for _, args := range [][]string{
			{"go", "build", "-ldflags=-extldflags=-Wl,-z,lazy", "-o", program, "."},
			{fakeSource + "/build.sh", fake},
		} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n%s", args, err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// invoke runs the program on a fixture ("" for none) and returns its exit
// code and output.
func invoke(t *testing.T, flat string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	if flat != "" {
		cmd.Env = append(cmd.Env, "FAKENVML_FIXTURE="+flat)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		must.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	must.NoError(t, err)
	must.Eq(t, string(want), got)
}

func flat(name string) string { return filepath.Join(fake, "fixtures", name+".flat") }

func sysfs(name string) string { return filepath.Join(fake, "fixtures", name+".sys") }

func library() string { return filepath.Join(fake, "libnvidia-ml.so.1") }

// fixtures are the names of all fixtures.
func fixtures(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(fakeSource + "/fixtures/*.hcl")
	must.NoError(t, err)
	must.SliceNotEmpty(t, paths)
	var names []string
	for _, path := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".hcl"))
	}
	return names
}

// libraryOf is the library of a fixture's driver: one is of an old driver.
func libraryOf(name string) string {
	if name == "r470" {
		return filepath.Join(fake, "r470", "libnvidia-ml.so.1")
	}
	return library()
}

// Every kind of node that there is a fixture of, as people see it.
func TestFingerprintTopologyAndHealthOfEachFixture(t *testing.T) {
	t.Parallel()
	for _, name := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var all strings.Builder
			for _, args := range [][]string{{"fingerprint"}, {"topo"}, {"health"}} {
				code, stdout, stderr := invoke(t, flat(name), append(args, "-nvml-library-path", libraryOf(name), "-config", configFor(t, name))...)
				fmt.Fprintf(&all, "$ nomad-device-gpu %s\n%s%sexit code %d\n\n", args[0], stdout, stderr, code)
			}
			golden(t, name, strings.TrimSuffix(all.String(), "\n"))
		})
	}
}

// configFor is a configuration with a fixture's sysfs, whose state is nobody else's.
func configFor(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "client.hcl")
	text := fmt.Sprintf("plugin %q {\n  config {\n    state_dir = %q\n    sysfs_path = %q\n  }\n}\n", plugin.Name, t.TempDir(), sysfs(name))
	must.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	return file
}

func TestFingerprintAsJSON(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"dgxh100", "mig-h100"} {
		code, stdout, stderr := invoke(t, flat(name), "fingerprint", "-json", "-nvml-library-path", library(), "-config", configFor(t, name))
		must.Eq(t, "", stderr)
		must.Zero(t, code)
		golden(t, name+"_json", stdout)
	}
}

// The library is found as the driver installs it: by name.
func TestLibraryIsFoundByName(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(program, "fingerprint")
	cmd.Env = []string{"LD_LIBRARY_PATH=" + fake, "FAKENVML_FIXTURE=" + flat("l40s-x4")}
	out, err := cmd.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	must.StrContains(t, string(out), "nvidia/gpu/NVIDIA L40S")
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "broken.flat")
	must.NoError(t, os.WriteFile(broken, []byte("fakenvml 1\ngpu 0 wheels 4\n"), 0o644))
	cut := filepath.Join(t.TempDir(), "cut.so")
	whole, err := os.ReadFile(library())
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(cut, whole[:len(whole)/2], 0o644))
	for name, tc := range map[string]struct {
		flat   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"no arguments print help":     {stdout: "Nomad starts it as a plugin"},
		"help":                        {args: []string{"-h"}, stdout: "doctor"},
		"version":                     {args: []string{"version"}, stdout: "nomad-device-gpu 0."},
		"unknown command":             {args: []string{"fingerprnt"}, code: 2, stderr: `unknown command "fingerprnt"`},
		"stray argument":              {args: []string{"topo", "x"}, code: 2, stderr: "topo takes no arguments"},
		"doctor without a library":    {args: []string{"doctor", "-nvml-library-path", "/nonexistent/libnvidia-ml.so.1"}, code: 1, stdout: "Install NVIDIA's driver"},
		"doctor on half a library":    {args: []string{"doctor", "-nvml-library-path", cut}, code: 1, stdout: "user-space package"},
		"doctor without driver":       {args: []string{"doctor", "-nvml-library-path", library()}, code: 1, stdout: "modprobe nvidia"},
		"fingerprint without library": {args: []string{"fingerprint", "-nvml-library-path", "/nonexistent/x.so"}, code: 1, stderr: "NVML library not found: /nonexistent/x.so does not exist"},
		"broken fixture":              {flat: broken, args: []string{"topo", "-nvml-library-path", library()}, code: 1, stderr: "broken.flat:2: unknown gpu key \"wheels\""},
		"another library":             {args: []string{"topo", "-nvml-library-path", "libm.so.6"}, code: 1, stderr: "it is another library"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := invoke(t, tc.flat, tc.args...)
			must.Eq(t, tc.code, code, must.Sprint(stdout, stderr))
			must.StrContains(t, stdout, tc.stdout)
			must.StrContains(t, stderr, tc.stderr)
		})
	}
}

// Old drivers lack functions, and calling one that is not there ends the
// process. Each of these libraries lacks some.
func TestLibraryOfAnOldDriverIsReadAsFarAsItGoes(t *testing.T) {
	t.Parallel()
	core := []string{"nvmlInit_v2", "nvmlShutdown", "nvmlErrorString", "nvmlDeviceGetCount_v2",
		"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetPciInfo_v3",
		"nvmlSystemGetDriverVersion"}
	for name, export := range map[string]struct{ script, want, not string }{
		"core only": {"{ global: " + strings.Join(core, "; ") + "; local: *; };", "gpu_count              8", "memory  "},
		"no NVLink": {"{ local: nvmlDeviceGetNvLink*; };", "memory                 16384 MiB", "nvlink_topology"},
		"no fields": {"{ local: nvmlDeviceGetFieldValues; nvmlDeviceGetNvLinkRemoteDeviceType; };", "nvlink_topology        mesh", "nvlink_version         4"},
		"no events": {"{ local: nvmlEvent*; nvmlDeviceRegisterEvents; };", "nvlink_bandwidth       154686 MB/s", "unhealthy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			script, old := filepath.Join(dir, "exports"), filepath.Join(dir, "libnvidia-ml.so.1")
			must.NoError(t, os.WriteFile(script, []byte(export.script), 0o644))
			sources, err := filepath.Glob(fakeSource + "/src/*.c")
			must.NoError(t, err)
			args := append([]string{"-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread",
				"-Wl,--version-script," + script, "-o", old}, sources...)
			out, err := exec.Command("gcc", args...).CombinedOutput()
			must.NoError(t, err, must.Sprint(string(out)))
			code, stdout, stderr := invoke(t, flat("dgx1v"), "fingerprint", "-nvml-library-path", old)
			must.Zero(t, code, must.Sprint(stderr))
			must.StrContains(t, stdout, export.want)
			must.StrNotContains(t, stdout, export.not)
			code, _, stderr = invoke(t, flat("dgx1v"), "topo", "-nvml-library-path", old)
			must.Zero(t, code, must.Sprint(stderr))
		})
	}
}

func TestNomadsCookieIsWhatMakesItAPlugin(t *testing.T) {
	t.Parallel()
	must.False(t, plugin.StartedByNomad(func(string) string { return "" }))
	cmd := exec.Command(program)
	cmd.Env = []string{"NOMAD_PLUGIN_MAGIC_COOKIE=e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255"}
	out, err := cmd.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, cmd.Start())
	line := make([]byte, 64)
	n, err := out.Read(line)
	must.NoError(t, err)
	must.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	must.StrHasPrefix(t, "1|2|", string(line[:n]), must.Sprint("go-plugin's handshake"))
}
