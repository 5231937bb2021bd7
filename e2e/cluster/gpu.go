package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/device/inject/injecttest"
)

// pluginName is the device plugin's file name, which is also how Nomad's
// configuration refers to it.
const pluginName = "nomad-device-gpu"

// workerArgument is what the plugin starts itself again with, to read NVML.
const workerArgument = "nvml-worker"

const (
	libraryName = "libnvidia-ml.so.1"
	fixtureName = "fixture"
)

func (c *Cluster) pluginDir() string { return filepath.Join(c.Dir, "plugins") }

// prepareGPUs compiles the fixture, installs the driver and returns the
// environment by which the plugin, started by the client, finds it:
// LD_LIBRARY_PATH makes the plugin's normal dlopen find it, as a driver
// installation would. Each client has a driver of its own.
func (c *Cluster) prepareGPUs(ctx context.Context, client *Client, options ClientOptions) ([]string, error) {
	if err := c.installPlugin(); err != nil {
		return nil, err
	}
	compiler, err := c.binary("fakenvml-compile")
	if err != nil {
		return nil, err
	}
	client.gpuDir = filepath.Join(c.Dir, options.Name+".nvml")
	if err := os.MkdirAll(client.gpuDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the driver of %s: %w", options.Name, err)
	}
	source := filepath.Join(c.root, "device", "fakenvml", "fixtures", options.Fixture+".hcl")
	compiled := filepath.Join(client.gpuDir, fixtureName)
	out, err := exec.CommandContext(ctx, compiler, "-fixture", source, "-node", options.Name, "-o", compiled,
		"-sysfs", filepath.Join(client.gpuDir, "sys")).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("compile the fixture of %s: %w\n%s", options.Name, err, out)
	}
	if client.Control, err = control.New(filepath.Join(client.gpuDir, "control")); err != nil {
		return nil, err
	}
	library, err := c.binary(filepath.Join("fakenvml", libraryName))
	if err != nil {
		return nil, err
	}
	if client.library, err = os.ReadFile(library); err != nil {
		return nil, fmt.Errorf("read the fake driver: %w", err)
	}
	if !options.NoDriver {
		if err := client.InstallDriver(); err != nil {
			return nil, err
		}
	}
	if options.DriverFiles {
		if err := client.installFiles(); err != nil {
			return nil, err
		}
	}
	return client.pluginEnv(), nil
}

// fileGPUs is how many GPUs have device nodes among a client's driver files.
const fileGPUs = 8

// installFiles installs what tasks need of a driver.
func (c *Client) installFiles() error {
	if err := MakeDeviceNodes(c.DriverRoot(), fileGPUs); err != nil {
		return err
	}
	files, err := injecttest.Compile()
	if err != nil {
		return err
	}
	if err := files.Install(c.DriverRoot(), "usr/lib/x86_64-linux-gnu"); err != nil {
		return fmt.Errorf("install the driver's files: %w", err)
	}
	return c.Control.DriverVersion(injecttest.Version)
}

// DriverRoot is the directory with the client's driver files.
func (c *Client) DriverRoot() string { return filepath.Join(c.gpuDir, "root") }

// CDISpec is the CDI specification that the client's plugin keeps.
func (c *Client) CDISpec() string { return filepath.Join(c.gpuDir, "cdi", "governor.nomad-gpu.json") }

// pluginConfig is the inside of the plugin's config block. What the plugin keeps
// is the client's own: several clients share this machine.
func (c *Client) pluginConfig(more string) string {
	text := fmt.Sprintf("state_dir = %q\ncdi_spec_dir = %q\nsysfs_path = %q\n",
		filepath.Join(c.gpuDir, "state"), filepath.Join(c.gpuDir, "cdi"), filepath.Join(c.gpuDir, "sys"))
	if c.driverFiles {
		text += fmt.Sprintf("dev_root = %q\ndriver_root = %q\n", c.DriverRoot(), c.DriverRoot())
	}
	if c.Metrics != "" {
		text += fmt.Sprintf("prometheus_address = %q\n", c.Metrics)
	}
	return text + more
}

// ConfigurePlugin gives the client another ClientOptions.PluginConfig, which
// counts from its next start.
func (c *Client) ConfigurePlugin(more string) error {
	settings := c.settings
	settings.pluginConfig = c.pluginConfig(more)
	if err := os.WriteFile(c.config, []byte(clientConfig(settings)), 0o600); err != nil {
		return fmt.Errorf("configure the plugin of %s: %w", c.Name, err)
	}
	return nil
}

// PluginCommand runs a command of the plugin's program on the client, with the
// client's configuration, and returns what it prints.
func (c *Cluster) PluginCommand(ctx context.Context, client *Client, name string) (string, error) {
	program, err := c.binary(pluginName)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, program, name, "-config", client.config)
	cmd.Env = client.pluginEnv()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("run %s %s on %s: %w\n%s", pluginName, name, client.Name, err, out)
	}
	return string(out), nil
}

// pluginEnv is the environment by which the client's plugin finds its driver.
func (c *Client) pluginEnv() []string {
	return []string{
		"LD_LIBRARY_PATH=" + c.gpuDir,
		"FAKENVML_FIXTURE=" + filepath.Join(c.gpuDir, fixtureName),
		"FAKENVML_CONTROL=" + c.Control.Path(),
	}
}

// installPlugin copies the plugin alone into a directory of its own: Nomad
// tries to launch everything executable that it finds in its plugin_dir.
func (c *Cluster) installPlugin() error {
	target := filepath.Join(c.pluginDir(), pluginName)
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	source, err := c.binary(pluginName)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.pluginDir(), 0o755); err != nil {
		return fmt.Errorf("make the plugin directory: %w", err)
	}
	content, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("read the plugin: %w", err)
	}
	if err := os.WriteFile(target, content, 0o755); err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	return nil
}

// Library is the file of the client's fake driver.
func (c *Client) Library() string { return filepath.Join(c.gpuDir, libraryName) }

// InstallDriver puts the driver's library where the plugin looks for it, as
// an installer does: by renaming a new file over the old one.
func (c *Client) InstallDriver() error { return c.place(libraryName, c.library) }

// RemoveDriver removes the driver's library.
func (c *Client) RemoveDriver() error {
	if err := os.Remove(c.Library()); err != nil {
		return fmt.Errorf("remove the driver of %s: %w", c.Name, err)
	}
	return nil
}

// UpgradeDriver installs another version of the driver. A process that has the
// old library loaded goes on with the old version, as a real one does.
func (c *Client) UpgradeDriver(version string) error {
	fixture, err := os.ReadFile(filepath.Join(c.gpuDir, fixtureName))
	if err != nil {
		return fmt.Errorf("upgrade the driver of %s: %w", c.Name, err)
	}
	var upgraded bytes.Buffer
	replaced := false
	for line := range bytes.Lines(fixture) {
		if bytes.HasPrefix(line, []byte("system driver_version ")) {
			line, replaced = fmt.Appendf(nil, "system driver_version %s\n", version), true
		}
		upgraded.Write(line)
	}
	if !replaced {
		return fmt.Errorf("upgrade the driver of %s: its fixture names no version", c.Name)
	}
	if err := c.place(fixtureName, upgraded.Bytes()); err != nil {
		return err
	}
	// What follows an ELF file's last section is nobody's.
	return c.place(libraryName, append(bytes.Clone(c.library), version...))
}

func (c *Client) place(name string, content []byte) error {
	target := filepath.Join(c.gpuDir, name)
	if err := os.WriteFile(target+".new", content, 0o755); err != nil {
		return fmt.Errorf("install the driver of %s: %w", c.Name, err)
	}
	if err := os.Rename(target+".new", target); err != nil {
		return fmt.Errorf("install the driver of %s: %w", c.Name, err)
	}
	return nil
}

// PluginPID is the process id of the device plugin that the client runs.
func (c *Client) PluginPID() (int, error) { return childProcess(c.PID(), pluginName, false) }

// WorkerPID is the process id of the process with which the client's device
// plugin reads NVML.
func (c *Client) WorkerPID() (int, error) {
	plugin, err := c.PluginPID()
	if err != nil {
		return 0, err
	}
	return childProcess(plugin, pluginName, true)
}

// childProcess finds the one child of a process that runs the program and is
// a worker or not.
func childProcess(parent int, program string, worker bool) (int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	var found []int
	for _, stat := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if err != nil {
			continue
		}
		fields, err := statFields(pid)
		if err != nil || fields[0] == "Z" || fields[1] != strconv.Itoa(parent) {
			continue // it has ended, or is another's
		}
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		arguments := strings.Split(strings.TrimSuffix(string(command), "\x00"), "\x00")
		isWorker := len(arguments) > 1 && arguments[1] == workerArgument
		if filepath.Base(arguments[0]) == program && isWorker == worker {
			found = append(found, pid)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("find the child of process %d that runs %s (worker: %t): there are %v", parent, program, worker, found)
	}
	return found[0], nil
}
