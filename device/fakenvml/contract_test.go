// Package fakenvml_test reads the fake library as the product does, through
// go-nvml, which knows NVML's real ABI: a structure of another size or version
// than the driver's shows here.
package fakenvml_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/device/fakenvml/fixture"
)

// libraries is where the fake libraries are, built once for all tests.
var libraries string

// builtLibraries names the folder for a test that runs itself again.
const builtLibraries = "FAKENVML_TEST_LIBRARIES"

func TestMain(m *testing.M) {
	if libraries = os.Getenv(builtLibraries); libraries != "" {
		os.Exit(m.Run())
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "fakenvml")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if out, err := exec.Command("./build.sh", "--libraries", dir).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the fake library: %v\n%s", err, out)
			return 1
		}
		libraries = dir
		return m.Run()
	}())
}

// node is one fake node under test. Tests share the process's one library, so
// they do not run in parallel.
type node struct {
	nvml.Interface
	*control.Control
	fixture *fixture.Fixture
}

func open(t *testing.T, name string) node {
	t.Helper()
	return openWith(t, name, filepath.Join(libraries, nvmlName))
}

func openWith(t *testing.T, name, library string) node {
	t.Helper()
	watchSources(t)
	path := filepath.Join("fixtures", name+".hcl")
	src, err := os.ReadFile(path)
	must.NoError(t, err)
	f, diags := fixture.Decode(src, path)
	must.False(t, diags.HasErrors(), must.Sprint(diags))
	dir := t.TempDir()
	compiled := filepath.Join(dir, "node.flat")
	must.NoError(t, os.WriteFile(compiled, f.Flat("test"), 0o644))
	c, err := control.New(filepath.Join(dir, "control"))
	must.NoError(t, err)
	t.Setenv("FAKENVML_FIXTURE", compiled)
	t.Setenv("FAKENVML_CONTROL", c.Path())
	lib := nvml.New(nvml.WithLibraryPath(library))
	must.Eq(t, nvml.SUCCESS, lib.Init())
	t.Cleanup(func() { must.Eq(t, nvml.SUCCESS, lib.Shutdown()) })
	return node{Interface: lib, Control: c, fixture: f}
}

// watchSources makes a change of the C sources one that go test sees: it runs
// tests again when a file changed that they looked at.
func watchSources(t *testing.T) {
	t.Helper()
	sources, err := filepath.Glob("src/*")
	must.NoError(t, err)
	for _, source := range append(sources, "build.sh") {
		_, err := os.Stat(source)
		must.NoError(t, err)
	}
}

// gpu is the handle of one GPU, which must answer.
func (n node) gpu(t *testing.T, index int) nvml.Device {
	t.Helper()
	device, ret := n.DeviceGetHandleByIndex(index)
	must.Eq(t, nvml.SUCCESS, ret, must.Sprintf("gpu %d", index))
	return device
}

// fixtures are the names of all fixtures of the project.
func fixtures(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("fixtures/*.hcl")
	must.NoError(t, err)
	must.SliceNotEmpty(t, paths)
	var names []string
	for _, path := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".hcl"))
	}
	return names
}

// ask makes a call that must succeed.
func ask[T any](t *testing.T, call func() (T, nvml.Return)) T {
	t.Helper()
	value, ret := call()
	must.Eq(t, nvml.SUCCESS, ret)
	return value
}

// text reads a C string.
func text[T ~int8 | ~uint8](bytes []T) string {
	var b strings.Builder
	for _, c := range bytes {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}
