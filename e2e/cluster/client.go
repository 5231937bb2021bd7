package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/device/fakenvml/control"
)

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
	// Metrics is the host:port at which its plugin serves metrics, or "".
	Metrics string

	gpuDir      string         // with its driver: the library and the fixture
	library     []byte         // the driver's library, as it is built
	driverFiles bool           // it has the rest of a driver too
	config      string         // the file of its configuration
	settings    clientSettings // what that was written from
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
	client := &Client{Addr: loopback(settings.ports.http), Fixture: options.Fixture, driverFiles: options.DriverFiles}
	if options.Metrics {
		var port int
		if err := c.takePorts(&port); err != nil {
			return nil, err
		}
		client.Metrics = fmt.Sprintf("127.0.0.1:%d", port)
	}
	settings.hostVolumes, settings.meta, settings.rawExec = options.HostVolumes, options.Meta, options.RawExec
	if c.opts.Services {
		settings.consul = c.ConsulAddr
	}
	if c.Docker != nil {
		settings.docker = c.Docker.Endpoint()
	}
	env := options.Env
	if options.Fixture != "" {
		gpuEnv, err := c.prepareGPUs(ctx, client, options)
		if err != nil {
			return nil, err
		}
		env = append(gpuEnv, env...)
		settings.pluginDir, settings.pluginConfig = c.pluginDir(), client.pluginConfig(options.PluginConfig)
	}
	settings.hidden = names(env)
	client.settings = settings
	var err error
	if client.config, err = c.writeConfig(options.Name, clientConfig(settings)); err != nil {
		return nil, err
	}
	ready := func(ctx context.Context) error { return c.checkClient(ctx, client, options) }
	client.Process = c.process(options.Name, ready, env, c.nomad, "agent", "-config="+client.config)
	return client, nil
}

// names are the names of environment variables.
func names(env []string) []string {
	var all []string
	for _, pair := range env {
		name, _, _ := strings.Cut(pair, "=")
		all = append(all, name)
	}
	return all
}

// checkClient is satisfied when the server says that the node is ready, can
// run tasks and has its devices.
func (c *Cluster) checkClient(ctx context.Context, client *Client, options ClientOptions) error {
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
	if node.Status != api.NodeStatusReady {
		return fmt.Errorf("the node is %s", node.Status)
	}
	for _, name := range c.drivers() {
		if driver := node.Drivers[name]; driver == nil || !driver.Healthy {
			return fmt.Errorf("the %s driver is not healthy: %+v", name, driver)
		}
	}
	if options.Fixture != "" && !options.NoDriver && len(node.NodeResources.Devices) == 0 {
		return errors.New("the device plugin has reported no GPU")
	}
	client.NodeID = id
	return nil
}

// drivers are the task drivers of every client.
func (c *Cluster) drivers() []string {
	if c.Docker != nil {
		return []string{"exec", "docker"}
	}
	return []string{"exec"}
}
