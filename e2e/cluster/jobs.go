package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// waitTimeout bounds every wait for something inside Nomad.
const waitTimeout = 60 * time.Second

// Waits leave the machine to what they wait for: between two tries passes pollShare
// times what a try takes, and at most pollMost.
const (
	pollShare = 10
	pollMost  = 2 * time.Second
)

// Detail is an error whose text is only made when somebody reads it. With it a try says
// why it failed in words that cost more than the try, such as those of a command, and
// Poll asks for them once, when it gives up.
type Detail func() string

func (d Detail) Error() string { return d() }

// Poll calls try until it returns nil, ctx ends, or a minute has passed; what
// says in the error what was waited for.
func Poll(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	for {
		begin := time.Now()
		err := try()
		pause := max(pollEvery, min(pollShare*time.Since(begin), pollMost))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (%w)", what, err, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// Result is what a command printed and how it ended.
type Result struct {
	Command  string
	Stdout   string
	Stderr   string
	ExitCode int
}

// Output is stdout and stderr together, for messages that may be on either.
func (r Result) Output() string { return r.Stdout + r.Stderr }

// Nomad runs the stock Nomad CLI against addr with the cluster's token.
func (c *Cluster) Nomad(ctx context.Context, addr string, args ...string) (Result, error) {
	return c.NomadAs(ctx, c.Token, addr, args...)
}

// NomadAs runs the stock Nomad CLI against addr; an empty token is none.
func (c *Cluster) NomadAs(ctx context.Context, token, addr string, args ...string) (Result, error) {
	env := append([]string{"NOMAD_ADDR=" + addr, "NOMAD_CLI_NO_COLOR=1"}, tokenEnv(token)...)
	return c.run(ctx, env, c.nomad, args...)
}

// GovernorCLI runs the governor CLI against the agent with the cluster's token.
func (c *Cluster) GovernorCLI(ctx context.Context, args ...string) (Result, error) {
	return c.GovernorCLIAs(ctx, c.Token, args...)
}

// GovernorCLIAs runs the governor CLI against the agent; an empty token is none.
func (c *Cluster) GovernorCLIAs(ctx context.Context, token string, args ...string) (Result, error) {
	binary, err := c.binary("governor")
	if err != nil {
		return Result{}, err
	}
	env := append([]string{"GOVERNOR_ADDR=" + c.GovernorAddr, "NOMAD_ADDR=" + c.GovernorAddr, "NO_COLOR=1"}, tokenEnv(token)...)
	env = append(env, c.opts.GovernorEnv...)
	return c.run(ctx, env, binary, args...)
}

func tokenEnv(token string) []string {
	if token == "" {
		return nil
	}
	return []string{"NOMAD_TOKEN=" + token}
}

// run runs a command to its end. A command that exits non-zero is a result;
// only one that could not run is an error.
func (c *Cluster) run(ctx context.Context, env []string, binary string, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(baseEnv(c.Dir), env...)
	cmd.Dir = c.root
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	result := Result{
		Command: filepath.Base(binary) + " " + strings.Join(args, " "),
		Stdout:  stdout.String(), Stderr: stderr.String(), ExitCode: cmd.ProcessState.ExitCode(),
	}
	var exit *exec.ExitError
	if err == nil || (errors.As(err, &exit) && exit.Exited()) {
		return result, nil
	}
	return result, fmt.Errorf("run %s: %w\n%s", result.Command, err, result.Output())
}

// WriteFile puts a file into the cluster's directory and returns its path.
func (c *Cluster) WriteFile(name, text string) (string, error) {
	path := filepath.Join(c.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return path, nil
}

// Register parses a jobspec and registers the job at addr.
func (c *Cluster) Register(ctx context.Context, addr, jobspec string) (*api.Job, error) {
	client, err := c.API(addr)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	job, err := client.Jobs().ParseHCL(jobspec, true)
	if err != nil {
		return nil, fmt.Errorf("parse the jobspec: %w", err)
	}
	if _, _, err := client.Jobs().Register(job, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return nil, fmt.Errorf("register job %q: %w", *job.ID, err)
	}
	return job, nil
}

// StopJob deregisters a job and waits until its allocations have ended. The
// job stays known to Nomad, as after `nomad job stop`: 1.11.3 removes a purged
// job's allocations at once, before anybody could read how they ended.
func (c *Cluster) StopJob(ctx context.Context, jobID string) error {
	client, err := c.API(c.NomadAddr)
	if err != nil {
		return err
	}
	defer client.Close()
	if _, _, err := client.Jobs().Deregister(jobID, false, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("stop job %q: %w", jobID, err)
	}
	_, err = c.WaitAllocations(ctx, jobID, 0, api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost)
	return err
}

// WaitAllocations waits until the job has at least n allocations and each has
// one of the statuses; it returns them, oldest first. Waiting for running
// allocations passes over those that Nomad has been told to stop: they belong
// to an earlier run of the job.
func (c *Cluster) WaitAllocations(ctx context.Context, jobID string, n int, statuses ...string) ([]*api.Allocation, error) {
	client, err := c.API(c.NomadAddr)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	query := (&api.QueryOptions{}).WithContext(ctx)
	var found []*api.Allocation
	what := fmt.Sprintf("wait for %d allocations of job %q to be %s", n, jobID, strings.Join(statuses, " or "))
	err = Poll(ctx, what, func() error {
		stubs, _, err := client.Jobs().Allocations(jobID, false, query)
		if err != nil {
			return err
		}
		if slices.Contains(statuses, api.AllocClientStatusRunning) {
			stubs = slices.DeleteFunc(stubs, func(stub *api.AllocationListStub) bool {
				return stub.DesiredStatus != api.AllocDesiredStatusRun
			})
		}
		if len(stubs) < n {
			return fmt.Errorf("there are %d", len(stubs))
		}
		found = nil
		for _, stub := range stubs {
			if !slices.Contains(statuses, stub.ClientStatus) {
				return fmt.Errorf("allocation %s is %s: %s", stub.ID[:8], stub.ClientStatus, taskEvents(stub.TaskStates))
			}
			allocation, _, err := client.Allocations().Info(stub.ID, query)
			if err != nil {
				return err
			}
			found = append(found, allocation)
		}
		return nil
	})
	slices.SortFunc(found, func(a, b *api.Allocation) int {
		return int(a.CreateIndex) - int(b.CreateIndex)
	})
	return found, err
}

// taskEvents tells the last thing that happened to each task, for errors.
func taskEvents(states map[string]*api.TaskState) string {
	var lines []string
	for name, state := range states {
		if n := len(state.Events); n > 0 {
			lines = append(lines, name+": "+state.Events[n-1].DisplayMessage)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

// Devices lists the ids of the devices that an allocation holds, sorted.
func Devices(allocation *api.Allocation) []string {
	var ids []string
	if allocation.AllocatedResources == nil {
		return nil
	}
	for _, task := range allocation.AllocatedResources.Tasks {
		for _, device := range task.Devices {
			ids = append(ids, device.DeviceIDs...)
		}
	}
	slices.Sort(ids)
	return ids
}

// Stdout reads what a task has printed so far.
func (c *Cluster) Stdout(ctx context.Context, allocationID, task string) (string, error) {
	client, err := c.API(c.NomadAddr)
	if err != nil {
		return "", err
	}
	defer client.Close()
	query := (&api.QueryOptions{Params: map[string]string{
		"task": task, "type": "stdout", "origin": "start", "plain": "true", "follow": "false",
	}}).WithContext(ctx)
	body, err := client.Raw().Response("/v1/client/fs/logs/"+allocationID, query)
	if err != nil {
		return "", fmt.Errorf("read the output of task %s: %w", task, err)
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxBody))
	if err != nil {
		return "", fmt.Errorf("read the output of task %s: %w", task, err)
	}
	return string(text), nil
}

// TaskEnv reads the environment that a task printed with env.
func (c *Cluster) TaskEnv(ctx context.Context, allocationID, task string) (map[string]string, error) {
	text, err := c.Stdout(ctx, allocationID, task)
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			env[name] = value
		}
	}
	return env, nil
}

// terminal reports whether a client status is final.
func terminal(status string) bool {
	switch status {
	case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
		return true
	}
	return false
}
