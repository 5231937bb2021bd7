package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// serverPorts are the ports of one Nomad agent; clients use only http.
type serverPorts struct{ http, rpc, serf int }

// consulPorts are the ports of the Consul server.
type consulPorts struct{ http, server, serf int }

// consulConfig is a single durable server with only the HTTP API. The raft
// multiplier of 1 elects a leader within seconds after a restart.
func consulConfig(dir string, p consulPorts) string {
	return fmt.Sprintf(`server                 = true
bootstrap_expect       = 1
node_name              = "consul"
data_dir               = %q
bind_addr              = "127.0.0.1"
client_addr            = "127.0.0.1"
disable_update_check   = true
skip_leave_on_interrupt = true
leave_on_terminate     = false

connect {
  enabled = false
}

performance {
  raft_multiplier = 1
}

ports {
  http     = %d
  server   = %d
  serf_lan = %d
  serf_wan = -1
  dns      = -1
  https    = -1
  grpc     = -1
  grpc_tls = -1
}
`, dir, p.http, p.server, p.serf)
}

// agentConfig is what server and clients share. Every caller of the gate
// arrives from one address, so Nomad's limit of connections per address is
// off, as the operator's guide asks for.
func agentConfig(name, dir string, p serverPorts, acl bool) string {
	return fmt.Sprintf(`name                 = %q
data_dir             = %q
bind_addr            = "127.0.0.1"
log_level            = "INFO"
disable_update_check = true

ports {
  http = %d
  rpc  = %d
  serf = %d
}

advertise {
  http = "127.0.0.1:%d"
  rpc  = "127.0.0.1:%d"
  serf = "127.0.0.1:%d"
}

limits {
  http_max_conns_per_client = 0
}

acl {
  enabled = %t
}
`, name, dir, p.http, p.rpc, p.serf, p.http, p.rpc, p.serf, acl)
}

func serverConfig(dir string, p serverPorts, acl bool) string {
	return agentConfig("server", dir, p, acl) + `
server {
  enabled          = true
  bootstrap_expect = 1
}

telemetry {
  prometheus_metrics = true
}
`
}

// clientConfig is a client that runs the exec driver in a small chroot, and
// docker where there is a daemon. Tasks do not see what makes up a client's
// environment.
// Size is stated rather than measured, so that scheduling does not depend on
// the machine that runs the tests. The clouds' metadata services, Consul and
// Vault are not looked for: each would wait for an answer that never comes.
func clientConfig(c clientSettings) string {
	var chroot strings.Builder
	for _, source := range slices.Sorted(maps.Keys(c.chroot)) {
		fmt.Fprintf(&chroot, "    %q = %q\n", source, c.chroot[source])
	}
	var volumes strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.hostVolumes)) {
		fmt.Fprintf(&volumes, "\n  host_volume %q {\n    path = %q\n  }\n", name, c.hostVolumes[name])
	}
	var meta strings.Builder
	for _, key := range slices.Sorted(maps.Keys(c.meta)) {
		fmt.Fprintf(&meta, "    %q = %q\n", key, c.meta[key])
	}
	text := agentConfig(c.name, c.dir, c.ports, c.acl) + fmt.Sprintf(`
client {
  enabled           = true
  servers           = ["127.0.0.1:%d"]
  network_interface = "lo"
  cgroup_parent     = %q
  cpu_total_compute = 16000
  memory_total_mb   = 16384

  gc_interval             = "1m"
  gc_max_allocs           = 500
  gc_disk_usage_threshold = 99

  meta = {
%s  }

  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,%s"
    "driver.allowlist"     = "exec,docker,raw_exec"
    "env.denylist"         = %q
  }

  chroot_env = {
%s  }
%s}

# Since 1.11.2 a client samples its tasks, devices included, only with this.
telemetry {
  publish_allocation_metrics = true
}
`, c.serverRPC, c.cgroup, meta.String(), denied(c), strings.Join(c.hidden, ","), chroot.String(), volumes.String())
	if c.docker != "" {
		text += dockerConfig(c.docker)
	}
	if c.consul != "" {
		text += consulBlock(c.consul)
	}
	if c.rawExec {
		text += "\nplugin \"raw_exec\" {\n  config {\n    enabled = true\n  }\n}\n"
	}
	if c.pluginDir == "" {
		return text
	}
	return text + fmt.Sprintf(`
plugin_dir = %q

plugin %q {
  config {
%s
  }
}
`, c.pluginDir, pluginName, c.pluginConfig)
}

// denied are the other services that a client does not look for.
func denied(c clientSettings) string {
	if c.consul != "" {
		return "vault"
	}
	return "consul,vault"
}

// consulBlock lets a client register services, and nothing else: servers and clients
// of a cluster know each other by their addresses.
func consulBlock(address string) string {
	return fmt.Sprintf(`
consul {
  address          = %q
  auto_advertise   = false
  client_auto_join = false
}
`, strings.TrimPrefix(address, "http://"))
}

// dockerConfig is the docker driver on one daemon for all clients: without
// dangling_containers each would remove the others' containers.
func dockerConfig(endpoint string) string {
	return fmt.Sprintf(`
plugin "docker" {
  config {
    endpoint = %q

    gc {
      image = false

      dangling_containers {
        enabled = false
      }
    }
  }
}
`, endpoint)
}

// clientSettings is what clientConfig needs to know about one client.
type clientSettings struct {
	name, dir, cgroup       string
	ports                   serverPorts
	serverRPC               int
	acl                     bool
	chroot                  map[string]string // by path on this machine
	hostVolumes             map[string]string // by name
	meta                    map[string]string
	hidden                  []string // variables that tasks do not inherit
	docker                  string   // the daemon's endpoint, or ""
	consul                  string   // where services are registered, or ""
	rawExec                 bool
	pluginDir, pluginConfig string
}

// governorConfig is the agent's configuration. Without a Consul address the
// agent uses its embedded store.
func governorConfig(g governorSettings) string {
	text := fmt.Sprintf(`bind      = "127.0.0.1:%d"
data_dir  = %q
log_level = %q

nomad {
  address = %q
  token   = %q
}
`, g.port, g.dir, cmp.Or(g.logLevel, "debug"), g.nomadAddr, g.nomadToken)
	if g.consulAddr == "" {
		return text + "\ndev = true\n" + g.extra
	}
	text += fmt.Sprintf(`
consul {
  address = %q
  prefix  = "governor/"
}
`, g.consulAddr)
	return text + g.extra
}

// governorSettings is what governorConfig needs to know.
type governorSettings struct {
	port                  int
	dir                   string
	nomadAddr, nomadToken string
	consulAddr            string
	logLevel, extra       string
}
