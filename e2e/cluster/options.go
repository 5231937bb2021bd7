package cluster

import "fmt"

// Options say what a cluster is made of.
type Options struct {
	// Clients are the Nomad clients; empty means a server without clients.
	Clients []ClientOptions
	// Consul starts a Consul server.
	Consul bool
	// Services lets the clients register the services of jobs in Consul.
	Services bool
	// Governor starts `governor agent` in front of Nomad. It uses Consul when
	// Consul is started too, and its embedded store otherwise.
	Governor bool
	// GovernorConfig is HCL appended to the agent's generated configuration.
	GovernorConfig string
	// GovernorLogLevel is how much the agent logs; empty means "debug".
	GovernorLogLevel string
	// GovernorEnv is added to the environment of the agent and of the governor CLI,
	// NAME=VALUE.
	GovernorEnv []string
	// Docker starts a Docker daemon, whose containers Nomad's docker driver
	// runs on every client. docker.Image has what an exec task's chroot has.
	Docker bool
	// ACL turns Nomad's ACLs on and bootstraps a management token.
	ACL bool
	// Progress, when set, is told what is being started.
	Progress func(format string, args ...any)
}

// ClientOptions say what one Nomad client looks like.
type ClientOptions struct {
	// Name is the node's name, unique in the cluster.
	Name string
	// Fixture names a file in device/fakenvml/fixtures without its extension;
	// empty means a client without the device plugin.
	Fixture string
	// PluginConfig is HCL for the plugin's config block; see
	// Client.ConfigurePlugin for another one later.
	PluginConfig string
	// Metrics lets the plugin serve metrics, at Client.Metrics.
	Metrics bool
	// NoDriver starts the client without the GPUs' driver, which
	// Client.InstallDriver installs later.
	NoDriver bool
	// DriverFiles gives the client the rest of a driver, in a directory of
	// its own: device nodes of its GPUs, and libraries.
	DriverFiles bool
	// RawExec lets the client run raw_exec tasks.
	RawExec bool
	// Env is added to the client's environment, NAME=VALUE. The plugin
	// inherits it, tasks do not.
	Env []string
	// Meta is the node's metadata.
	Meta map[string]string
	// HostVolumes are directories that tasks may mount, by name.
	HostVolumes map[string]string
}

// Default is the whole product on two GPU clients of different kinds: an
// NVLink cube mesh of eight V100, and four L40S without NVLink.
func Default() Options {
	return Options{
		Consul:   true,
		Governor: true,
		Clients: []ClientOptions{
			{Name: "client1", Fixture: "dgx1v"},
			{Name: "client2", Fixture: "l40s-x4"},
		},
	}
}

// validate refuses options that cannot work, before anything is started.
func (o Options) validate() error {
	names := map[string]bool{"consul": true, "server": true, "governor": true, "dockerd": true}
	for _, client := range o.Clients {
		if client.Name == "" {
			return fmt.Errorf("start a cluster: a client has no name")
		}
		if names[client.Name] {
			return fmt.Errorf("start a cluster: two parts are called %q", client.Name)
		}
		names[client.Name] = true
	}
	return nil
}
