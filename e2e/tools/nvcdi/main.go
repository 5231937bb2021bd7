// Command nvcdi runs NVIDIA's own generator of CDI specifications, and the CDI
// library that container engines use, on a stand-in for a node. The tests of
// package device/inject compare with both.
//
//	nvcdi version               the version of NVIDIA's container toolkit
//	nvcdi spec ROOT             the specification of the node in ROOT, whose GPUs
//	                            standard input describes
//	nvcdi inject ROOT NAME...   what a container gets for the qualified names, by
//	                            the specifications in ROOT/var/run/cdi
//
// All but version make ROOT their root directory, and need the right to.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/NVIDIA/nvidia-container-toolkit/pkg/nvcdi"
	oci "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// toolkit is the module whose version this program has.
const toolkit = "github.com/NVIDIA/nvidia-container-toolkit"

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "nvcdi: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "version":
		return version(stdout)
	case len(args) == 2 && args[0] == "spec":
		return inRoot(args[1], func() error { return spec(stdin, stdout) })
	case len(args) > 2 && args[0] == "inject":
		return inRoot(args[1], func() error { return inject(args[2:], stdout) })
	}
	return errors.New("usage: nvcdi version | nvcdi spec ROOT | nvcdi inject ROOT NAME...")
}

func version(stdout io.Writer) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this program does not say what it was built from")
	}
	for _, module := range info.Deps {
		if module.Path == toolkit {
			_, err := fmt.Fprintf(stdout, "nvcdi %s\n", module.Version)
			return err
		}
	}
	return fmt.Errorf("this program was built without %s", toolkit)
}

// inRoot runs do with another root directory: some of what nvcdi looks at, the
// list of MIG capabilities for one, it looks for nowhere else.
func inRoot(root string, do func() error) error {
	if err := syscall.Chroot(root); err != nil {
		return fmt.Errorf("make %s the root directory: %w", root, err)
	}
	if err := syscall.Chdir("/"); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	return do()
}

// spec writes NVIDIA's specification as JSON. Of the hooks only that which makes
// links is kept: its arguments say which names the libraries get.
func spec(stdin io.Reader, stdout io.Writer) error {
	var n node
	decoder := json.NewDecoder(stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&n); err != nil {
		return fmt.Errorf("read the description of the GPUs: %w", err)
	}
	namer, err := nvcdi.NewDeviceNamer(nvcdi.DeviceNameStrategyUUID)
	if err != nil {
		return err
	}
	generator, err := nvcdi.New(
		nvcdi.WithMode(nvcdi.ModeNvml),
		nvcdi.WithNvmlLib(n.library()),
		nvcdi.WithDriverRoot("/"),
		nvcdi.WithDevRoot("/"),
		nvcdi.WithDeviceNamers(namer),
		nvcdi.WithDisabledHooks(nvcdi.AllHooks),
		nvcdi.WithEnabledHooks(nvcdi.CreateSymlinksHook),
		nvcdi.WithFeatureFlags(nvcdi.FeatureDisableNvsandboxUtils),
	)
	if err != nil {
		return err
	}
	generated, err := generator.GetSpec("all")
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(generated.Raw())
}

// inject writes a container's OCI specification, which was empty before.
func inject(names []string, stdout io.Writer) error {
	cache, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs("/var/run/cdi"))
	if err != nil {
		return err
	}
	for file, errs := range cache.GetErrors() {
		return fmt.Errorf("read %s: %w", file, errors.Join(errs...))
	}
	container := &oci.Spec{Process: &oci.Process{}, Linux: &oci.Linux{}}
	if unresolved, err := cache.InjectDevices(container, names...); err != nil {
		return fmt.Errorf("inject %v: %w", unresolved, err)
	}
	return json.NewEncoder(stdout).Encode(container)
}
