package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/device/fakenvml/control"
)

// pluginName is the device plugin's file name, which is also how Nomad's
// configuration refers to it.
const pluginName = "nomad-device-gpu"

// Client is one Nomad client node.
type Client struct {
	*Process
	// Addr is the client agent's own HTTP address.
	Addr string
	// NodeID is Nomad's id of the node.
	NodeID string
	// Fixture is the fake GPU fixture it was started with, or "".
	Fixture string
	// Control changes its fake GPUs while it runs; nil without GPUs.
	Control *control.Control
}

// startClients spawns all clients, then waits for each: fingerprinting takes
// seconds, and the clients do it at the same time.
func (c *Cluster) startClients(ctx context.Context) error {
	if len(c.opts.Clients) == 0 {
		return nil
	}
	chroot, err := chrootFiles(ctx)
	if err != nil {
		return err
	}
	for _, options := range c.opts.Clients {
		client, err := c.newClient(ctx, options, chroot)
		if err != nil {
			return err
		}
		c.Clients = append(c.Clients, client)
		c.opts.Progress("starting Nomad client %s%s", client.Name, described(options.Fixture))
		if err := client.spawn(); err != nil {
			return err
		}
	}
	for _, client := range c.Clients {
		if err := client.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

func described(fixture string) string {
	if fixture == "" {
		return ""
	}
	return " with fixture " + fixture
}

// newClient writes a client's files and describes its process.
func (c *Cluster) newClient(ctx context.Context, options ClientOptions, chroot map[string]string) (*Client, error) {
	settings := clientSettings{
		name: options.Name, dir: c.dataDir(options.Name), cgroup: cgroupName(c.Dir, options.Name),
		serverRPC: c.serverRPC, acl: c.opts.ACL, chroot: chroot,
	}
	if err := c.takePorts(&settings.ports.http, &settings.ports.rpc, &settings.ports.serf); err != nil {
		return nil, err
	}
	client := &Client{Addr: loopback(settings.ports.http), Fixture: options.Fixture}
	var env []string
	if options.Fixture != "" {
		gpuEnv, err := c.prepareGPUs(ctx, client, options)
		if err != nil {
			return nil, err
		}
		env, settings.pluginDir, settings.pluginConfig = gpuEnv, c.pluginDir(), options.PluginConfig
	}
	config, err := c.writeConfig(options.Name, clientConfig(settings))
	if err != nil {
		return nil, err
	}
	ready := func(ctx context.Context) error { return c.checkClient(ctx, client) }
	client.Process = c.process(options.Name, ready, env, c.nomad, "agent", "-config="+config)
	return client, nil
}

func (c *Cluster) pluginDir() string { return filepath.Join(c.Dir, "plugins") }

// prepareGPUs compiles the fixture and returns the environment by which the
// plugin, started by the client, finds the fake NVML: LD_LIBRARY_PATH makes
// the plugin's normal dlopen find it, as a driver installation would.
func (c *Cluster) prepareGPUs(ctx context.Context, client *Client, options ClientOptions) ([]string, error) {
	if err := c.installPlugin(); err != nil {
		return nil, err
	}
	compiler, err := c.binary("fakenvml-compile")
	if err != nil {
		return nil, err
	}
	library, err := c.binary("fakenvml")
	if err != nil {
		return nil, err
	}
	source := filepath.Join(c.root, "device", "fakenvml", "fixtures", options.Fixture+".hcl")
	compiled := filepath.Join(c.Dir, options.Name+".fixture")
	out, err := exec.CommandContext(ctx, compiler, "-fixture", source, "-node", options.Name, "-o", compiled).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("compile the fixture of %s: %w\n%s", options.Name, err, out)
	}
	if client.Control, err = control.New(filepath.Join(c.Dir, options.Name+".control")); err != nil {
		return nil, err
	}
	return []string{
		"LD_LIBRARY_PATH=" + library,
		"FAKENVML_FIXTURE=" + compiled,
		"FAKENVML_CONTROL=" + client.Control.Path(),
	}, nil
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

// checkClient is satisfied when the server says that the node is ready, can
// run exec tasks and has its devices.
func (c *Cluster) checkClient(ctx context.Context, client *Client) error {
	own, err := newAPI(client.Addr, c.Token)
	if err != nil {
		return err
	}
	defer own.Close()
	query := (&api.QueryOptions{}).WithContext(ctx)
	var self api.AgentSelf
	if _, err := own.Raw().Query("/v1/agent/self", &self, query); err != nil {
		return err
	}
	id := self.Stats["client"]["node_id"]
	if id == "" {
		return errors.New("the client agent has no node id yet")
	}
	server, err := newAPI(c.NomadAddr, c.Token)
	if err != nil {
		return err
	}
	defer server.Close()
	node, _, err := server.Nodes().Info(id, query)
	if err != nil {
		return err
	}
	switch driver := node.Drivers["exec"]; {
	case node.Status != api.NodeStatusReady:
		return fmt.Errorf("the node is %s", node.Status)
	case driver == nil || !driver.Healthy:
		return fmt.Errorf("the exec driver is not healthy: %+v", driver)
	case client.Fixture != "" && len(node.NodeResources.Devices) == 0:
		return errors.New("the device plugin has reported no GPU")
	}
	client.NodeID = id
	return nil
}
