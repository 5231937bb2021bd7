package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nomad-governor/governor/e2e/docker"
	"github.com/nomad-governor/governor/e2e/toolchain"
)

// Cluster is a running set of servers. Its parts may be stopped, killed and
// started again one by one; Close ends them all.
type Cluster struct {
	// Dir holds all data, configuration and logs (Dir/logs) of this cluster.
	Dir string
	// Consul is nil when Options.Consul was false, Governor likewise.
	Consul, Server, Governor *Process
	// Docker is nil when Options.Docker was false; Dockerd is its process.
	Docker  *docker.Daemon
	Dockerd *Process
	// Clients are in the order of Options.Clients.
	Clients []*Client
	// NomadAddr and ConsulAddr are the servers themselves; GovernorAddr is
	// the gate. Each is a URL without a trailing slash, or "".
	NomadAddr, ConsulAddr, GovernorAddr string
	// Token is a management token when ACLs are on, or "", and GovernorToken the
	// agent's own, with the policy of jobs/acl.
	Token, GovernorToken string

	opts      Options
	root      string
	nomad     string
	ports     *ports
	watchdog  *watchdog
	serverRPC int
}

// Start runs all parts and returns when each is ready. When it fails, all is
// ended again and the error shows the end of the log of the part at fault.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if len(opts.Clients) > 0 && os.Geteuid() != 0 {
		return nil, errors.New("start a cluster with clients: Nomad's exec driver needs root for chroots and cgroups, and you are not root: run this with sudo")
	}
	c := &Cluster{opts: opts}
	if c.opts.Progress == nil {
		c.opts.Progress = func(string, ...any) {}
	}
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.startAll(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// prepare finds the binaries and makes the directory, the ports and the watchdog.
// The directory is in the system's temporary directory rather than in the
// repository because Unix sockets below it must stay under 108 bytes.
func (c *Cluster) prepare(ctx context.Context) error {
	var err error
	if c.root, err = toolchain.Root(); err != nil {
		return err
	}
	if c.nomad, _, err = toolchain.Find(ctx, toolchain.Nomad()); err != nil {
		return err
	}
	if c.ports, err = reservePorts(); err != nil {
		return err
	}
	if c.Dir, err = os.MkdirTemp("", "gov-"); err != nil {
		return fmt.Errorf("make the cluster's directory: %w", err)
	}
	// Tasks run as nobody and must reach their directories below this one.
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		return fmt.Errorf("open the cluster's directory to tasks: %w", err)
	}
	if err := os.Mkdir(c.logDir(), 0o755); err != nil {
		return fmt.Errorf("make the log directory: %w", err)
	}
	c.watchdog, err = startWatchdog(c.Dir)
	return err
}

func (c *Cluster) startAll(ctx context.Context) error {
	if c.opts.Consul {
		if err := c.startConsul(ctx); err != nil {
			return err
		}
	}
	if c.opts.Docker {
		if err := c.startDocker(ctx); err != nil {
			return err
		}
	}
	if err := c.startServer(ctx); err != nil {
		return err
	}
	if err := c.startClients(ctx); err != nil {
		return err
	}
	if c.opts.Governor {
		return c.startGovernor(ctx)
	}
	return nil
}

// Addr is where users send their requests: the gate, or Nomad itself when
// there is no gate.
func (c *Cluster) Addr() string {
	if c.GovernorAddr != "" {
		return c.GovernorAddr
	}
	return c.NomadAddr
}

// Client returns the client of that name, or nil.
func (c *Cluster) Client(name string) *Client {
	for _, client := range c.Clients {
		if client.Name == name {
			return client
		}
	}
	return nil
}

// Processes lists the parts in the order in which they are stopped.
func (c *Cluster) Processes() []*Process {
	var all []*Process
	if c.Governor != nil {
		all = append(all, c.Governor)
	}
	for _, client := range c.Clients {
		all = append(all, client.Process)
	}
	for _, p := range []*Process{c.Dockerd, c.Server, c.Consul} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

// Close stops the jobs, then every part, and removes all traces. It may be
// called in any state and again.
func (c *Cluster) Close() error {
	var errs []error
	// Without a client nobody would report the end of a task; its processes
	// are swept away below.
	if c.Server != nil && c.Server.Running() && c.clientsRun() {
		ctx, cancel := context.WithTimeout(context.Background(), stopJobsTimeout)
		if err := stopJobs(ctx, c.NomadAddr, c.Token); err != nil {
			c.opts.Progress("could not stop all jobs: %v", err)
		}
		cancel()
	}
	for _, p := range c.Processes() {
		p.Resume()
		if p == c.Dockerd {
			c.removeContainers()
		}
		errs = append(errs, p.Stop())
	}
	if c.Dir != "" {
		errs = append(errs, removeTraces(c.Dir))
	}
	c.watchdog.dismiss()
	if c.ports != nil {
		c.ports.release()
	}
	c.Dir, c.ports, c.watchdog = "", nil, nil
	return errors.Join(errs...)
}

// clientsRun reports whether there are clients and all of them run.
func (c *Cluster) clientsRun() bool {
	for _, client := range c.Clients {
		if !client.Running() {
			return false
		}
	}
	return len(c.Clients) > 0
}

// Detach leaves the cluster running when this process ends, and returns what
// StopDetached needs to end it later.
func (c *Cluster) Detach() (State, error) {
	state := State{
		Dir: c.Dir, NomadAddr: c.NomadAddr, ConsulAddr: c.ConsulAddr,
		GovernorAddr: c.GovernorAddr, Token: c.Token,
	}
	for _, p := range c.Processes() {
		started, err := startTime(p.PID())
		if err != nil {
			return State{}, fmt.Errorf("describe %s: %w", p.Name, err)
		}
		state.Processes = append(state.Processes, ProcessState{
			Name: p.Name, PID: p.PID(), StartTicks: started, Command: strings.Join(p.command, " "),
		})
	}
	c.watchdog.dismiss()
	c.ports.release()
	return state, nil
}

// LogTails returns the last n lines of every part's log, for a failure's report.
func (c *Cluster) LogTails(n int) string {
	var text strings.Builder
	for _, p := range c.Processes() {
		fmt.Fprintf(&text, "--- end of the log of %s\n%s\n", p.Name, p.LogTail(n))
	}
	return text.String()
}

// SaveLogs copies all logs into dir, which it makes.
func (c *Cluster) SaveLogs(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("save the logs: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("save the logs: %w", err)
	}
	return os.CopyFS(dir, os.DirFS(c.logDir()))
}

func (c *Cluster) logDir() string { return filepath.Join(c.Dir, "logs") }

// stopJobsTimeout bounds how long Close waits for tasks to end.
const stopJobsTimeout = 20 * time.Second

// process describes one part; extra environment comes after the base.
func (c *Cluster) process(name string, ready func(context.Context) error, env []string, command ...string) *Process {
	return &Process{
		Name:    name,
		LogPath: filepath.Join(c.logDir(), name+".log"),
		command: command,
		env:     append(baseEnv(c.Dir), env...),
		ready:   ready,
	}
}

// baseEnv is the environment of every part: enough to run programs, the
// marker by which the cluster's processes are known, and nothing that would
// configure a server (NOMAD_*, CONSUL_*, VAULT_*).
func baseEnv(dir string) []string {
	env := []string{marker + dir, "HOME=" + dir}
	for _, name := range []string{"PATH", "TMPDIR", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// writeConfig writes one part's configuration file and makes its data directory.
func (c *Cluster) writeConfig(name, text string) (path string, err error) {
	if err := os.MkdirAll(c.dataDir(name), 0o755); err != nil {
		return "", fmt.Errorf("make the data directory of %s: %w", name, err)
	}
	path = filepath.Join(c.Dir, name+".hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write the configuration of %s: %w", name, err)
	}
	return path, nil
}

func (c *Cluster) dataDir(name string) string { return filepath.Join(c.Dir, name) }

// takePorts fills each pointer with a free port.
func (c *Cluster) takePorts(targets ...*int) error {
	for _, target := range targets {
		port, err := c.ports.take()
		if err != nil {
			return err
		}
		*target = port
	}
	return nil
}

func loopback(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }
