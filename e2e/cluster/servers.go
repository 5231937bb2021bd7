package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/e2e/docker"
	"github.com/nomad-governor/governor/e2e/toolchain"
)

// startConsul runs Consul; its data survives Stop, Kill and Start.
func (c *Cluster) startConsul(ctx context.Context) error {
	binary, _, err := toolchain.Find(ctx, toolchain.Consul())
	if err != nil {
		return err
	}
	var p consulPorts
	if err := c.takePorts(&p.http, &p.server, &p.serf); err != nil {
		return err
	}
	config, err := c.writeConfig("consul", consulConfig(c.dataDir("consul"), p))
	if err != nil {
		return err
	}
	c.ConsulAddr = loopback(p.http)
	c.Consul = c.process("consul", func(ctx context.Context) error {
		return checkConsul(ctx, c.ConsulAddr)
	}, nil, binary, "agent", "-config-file="+config)
	c.opts.Progress("starting Consul on %s", c.ConsulAddr)
	return c.Consul.Start(ctx)
}

// checkConsul asks for a consistent read, which only an elected leader
// answers; that there is no such key is an answer too.
func checkConsul(ctx context.Context, addr string) error {
	status, _, err := get(ctx, addr+"/v1/kv/ready?consistent")
	if err != nil {
		return err
	}
	if status != http.StatusOK && status != http.StatusNotFound {
		return fmt.Errorf("Consul answers %d", status)
	}
	return nil
}

// startDocker runs a Docker daemon and gives it the tasks' image. The image
// carries the marker, because containers do not inherit the daemon's
// environment.
func (c *Cluster) startDocker(ctx context.Context) error {
	var err error
	if c.Docker, err = docker.New(c.dataDir("dockerd"), cgroupName(c.Dir, "dockerd")); err != nil {
		return err
	}
	c.Dockerd = c.process("dockerd", c.Docker.Ping, c.Docker.Env(), c.Docker.Command()...)
	c.opts.Progress("starting Docker on %s", c.Docker.Endpoint())
	if err := c.Dockerd.Start(ctx); err != nil {
		return err
	}
	chroot, err := chrootFiles(ctx)
	if err != nil {
		return err
	}
	files := map[string]string{}
	for source, target := range chroot {
		files[target] = source
	}
	return c.Docker.Import(ctx, files, marker+c.Dir)
}

// removeContainers ends what a client that was killed has left running, for
// which Docker would wait when it is stopped.
func (c *Cluster) removeContainers() {
	if c.Docker == nil || !c.Dockerd.Running() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopJobsTimeout)
	defer cancel()
	if err := c.Docker.RemoveContainers(ctx); err != nil {
		c.opts.Progress("could not remove all containers: %v", err)
	}
}

func (c *Cluster) startServer(ctx context.Context) error {
	var p serverPorts
	if err := c.takePorts(&p.http, &p.rpc, &p.serf); err != nil {
		return err
	}
	config, err := c.writeConfig("server", serverConfig(c.dataDir("server"), p, c.opts.ACL))
	if err != nil {
		return err
	}
	c.NomadAddr, c.serverRPC = loopback(p.http), p.rpc
	c.Server = c.process("server", func(ctx context.Context) error {
		return checkLeader(ctx, c.NomadAddr)
	}, nil, c.nomad, "agent", "-config="+config)
	c.opts.Progress("starting a Nomad server on %s", c.NomadAddr)
	if err := c.Server.Start(ctx); err != nil {
		return err
	}
	if !c.opts.ACL {
		return nil
	}
	return c.bootstrapACL(ctx)
}

// bootstrapACL waits until the new leader accepts writes and makes the first token.
func (c *Cluster) bootstrapACL(ctx context.Context) error {
	client, err := c.API(c.NomadAddr)
	if err != nil {
		return err
	}
	err = Poll(ctx, "bootstrap ACLs", func() error {
		token, _, err := client.ACLTokens().Bootstrap(nil)
		if err != nil {
			return err
		}
		c.Token = token.SecretID
		return nil
	})
	if err != nil || !c.opts.Governor {
		return err
	}
	return c.makeGovernorToken(ctx)
}

// makeGovernorToken makes the agent's own token, with the policy that is shipped for it.
func (c *Cluster) makeGovernorToken(ctx context.Context) error {
	rules, err := os.ReadFile(filepath.Join(c.root, "jobs", "acl", "governor-agent.nomad.hcl"))
	if err != nil {
		return fmt.Errorf("read the policy of the agent's token: %w", err)
	}
	client, err := c.API(c.NomadAddr)
	if err != nil {
		return err
	}
	defer client.Close()
	write := (&api.WriteOptions{}).WithContext(ctx)
	if _, err := client.ACLPolicies().Upsert(&api.ACLPolicy{Name: "governor", Rules: string(rules)}, write); err != nil {
		return fmt.Errorf("write the policy of the agent: %w", err)
	}
	token, _, err := client.ACLTokens().Create(&api.ACLToken{Name: "governor", Type: "client", Policies: []string{"governor"}}, write)
	if err != nil {
		return fmt.Errorf("make the agent's token: %w", err)
	}
	c.GovernorToken = token.SecretID
	return nil
}

// checkLeader asks a Nomad agent, or the gate in front of it, for the leader.
func checkLeader(ctx context.Context, addr string) error {
	status, body, err := get(ctx, addr+"/v1/status/leader")
	if err != nil {
		return err
	}
	var leader string
	if status != http.StatusOK || json.Unmarshal(body, &leader) != nil || leader == "" {
		return fmt.Errorf("no leader yet: %d %.200s", status, body)
	}
	return nil
}

// startGovernor runs the agent in front of Nomad.
func (c *Cluster) startGovernor(ctx context.Context) error {
	binary, err := c.binary("governor")
	if err != nil {
		return err
	}
	var port int
	if err := c.takePorts(&port); err != nil {
		return err
	}
	config, err := c.writeConfig("governor", governorConfig(governorSettings{
		port: port, dir: c.dataDir("governor"), nomadAddr: c.NomadAddr, nomadToken: c.GovernorToken,
		consulAddr: c.ConsulAddr, logLevel: c.opts.GovernorLogLevel, extra: c.opts.GovernorConfig,
	}))
	if err != nil {
		return err
	}
	c.GovernorAddr = loopback(port)
	c.Governor = c.process("governor", func(ctx context.Context) error {
		return checkGovernor(ctx, c.GovernorAddr, c.Token)
	}, c.opts.GovernorEnv, binary, "agent", "-config="+config)
	c.opts.Progress("starting the governor agent on %s", c.GovernorAddr)
	return c.Governor.Start(ctx)
}

// checkGovernor is satisfied when the gate passes a read to Nomad and the
// agent can show its budgets.
func checkGovernor(ctx context.Context, addr, token string) error {
	if err := checkLeader(ctx, addr); err != nil {
		return err
	}
	client, err := newAPI(addr, token)
	if err != nil {
		return err
	}
	defer client.Close()
	var status any
	if _, err := client.Raw().Query("/governor/v1/status", &status, (&api.QueryOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("read the budgets' status: %w", err)
	}
	return nil
}

// binary returns a program that `make dev` builds.
func (c *Cluster) binary(name string) (string, error) {
	path := filepath.Join(c.root, "bin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find %s: %w: run `make dev`", name, err)
	}
	return path, nil
}

// API returns a client of Nomad's API at addr, with the cluster's token.
func (c *Cluster) API(addr string) (*api.Client, error) {
	return newAPI(addr, c.Token)
}

func newAPI(addr, token string) (*api.Client, error) {
	// Not DefaultConfig: it reads NOMAD_ADDR and friends, which may point a
	// test at a real cluster.
	client, err := api.NewClient(&api.Config{Address: addr, SecretID: token})
	if err != nil {
		return nil, fmt.Errorf("make a Nomad client for %s: %w", addr, err)
	}
	return client, nil
}

// maxBody bounds what get reads.
const maxBody = 4 << 20

// get fetches a URL.
func get(ctx context.Context, url string) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxBody))
	return response.StatusCode, body, err
}
