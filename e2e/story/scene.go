package story

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/e2e/cluster"
)

// Step is one part of the story.
type Step struct {
	// Name is short, for the test's name: "pairs and quads".
	Name string
	// Title is the promise, as a sentence.
	Title string
	run   func(ctx context.Context, s *Scene) error
}

// Scene is the stage on which a step plays.
type Scene struct {
	*cluster.Cluster
	// Rounds is how often a placement is repeated.
	Rounds int
	// OutDir gets pictures of web pages.
	OutDir string

	printer     *Printer
	differences []string
	policyDir   string
}

// NewScene prepares a cluster for the story. Everything that happens is told
// to the printer.
func NewScene(c *cluster.Cluster, printer *Printer, outDir string) *Scene {
	return &Scene{Cluster: c, Rounds: 10, OutDir: outDir, printer: printer, policyDir: filepath.Join(c.Dir, "budgets")}
}

// Play runs one step and returns an error when anything was not as expected.
// After a failed step its jobs are stopped and its servers started again, so
// that the next step begins as it should.
func (s *Scene) Play(ctx context.Context, step Step) error {
	s.differences = nil
	s.printer.Title(step.Title)
	err := step.run(ctx, s)
	if err != nil {
		s.printer.Check(false, "the step could be played", "no error", err.Error())
		s.differences = append(s.differences, err.Error())
	}
	if len(s.differences) == 0 {
		return nil
	}
	if s.Consul != nil && !s.Consul.Running() {
		_ = s.Consul.Start(ctx)
	}
	if s.Governor != nil && !s.Governor.Running() {
		_ = s.Governor.Start(ctx)
	}
	if cleanErr := s.stopAllJobs(ctx); cleanErr != nil {
		s.differences = append(s.differences, cleanErr.Error())
	}
	return errors.New(strings.Join(s.differences, "\n"))
}

// Check compares what was expected with what was seen.
func (s *Scene) Check(ok bool, what, expected, seen string) {
	s.printer.Check(ok, what, expected, seen)
	if !ok {
		s.differences = append(s.differences, fmt.Sprintf("%s: expected %s, seen %s", what, expected, seen))
	}
}

// Equal checks that two values print alike.
func (s *Scene) Equal(what string, expected, seen any) {
	e, g := fmt.Sprint(expected), fmt.Sprint(seen)
	s.Check(e == g, what, e, g)
}

// Says checks that a command's output contains each of the parts, however its
// words are spaced.
func (s *Scene) Says(what string, result cluster.Result, parts ...string) {
	for _, part := range parts {
		seen := fmt.Sprintf("%q", part)
		if !says(result, part) {
			seen = strings.TrimSpace(result.Output())
		}
		s.Check(says(result, part), what+" says", fmt.Sprintf("%q", part), seen)
	}
}

func says(result cluster.Result, part string) bool {
	flat := strings.Join(strings.Fields(result.Output()), " ")
	return strings.Contains(flat, strings.Join(strings.Fields(part), " "))
}

// stockCLI runs the stock Nomad CLI through the gate and shows it.
func (s *Scene) stockCLI(ctx context.Context, args ...string) (cluster.Result, error) {
	result, err := s.Nomad(ctx, s.Addr(), args...)
	s.printer.Command(result)
	return result, err
}

// governorCLI runs the governor CLI and shows it.
func (s *Scene) governorCLI(ctx context.Context, args ...string) (cluster.Result, error) {
	result, err := s.GovernorCLI(ctx, args...)
	s.printer.Command(result)
	return result, err
}

// runJob writes a job file and runs it with the stock CLI, detached.
func (s *Scene) runJob(ctx context.Context, job Job) (cluster.Result, error) {
	path, err := s.WriteFile(job.ID+".nomad.hcl", job.HCL())
	if err != nil {
		return cluster.Result{}, err
	}
	return s.stockCLI(ctx, "job", "run", "-detach", path)
}

// mustRun runs a job and waits until it runs.
func (s *Scene) mustRun(ctx context.Context, job Job) (*api.Allocation, error) {
	result, err := s.runJob(ctx, job)
	if err != nil {
		return nil, err
	}
	if result.ExitCode != 0 {
		return nil, fmt.Errorf("run job %s: %s", job.ID, result.Output())
	}
	allocations, err := s.WaitAllocations(ctx, job.ID, 1, api.AllocClientStatusRunning)
	if err != nil {
		return nil, err
	}
	return allocations[len(allocations)-1], nil
}

// settleTimeout is how long after its end a job may hold budget before that
// counts as a leak.
const settleTimeout = 5 * time.Second

// endJob stops a job and waits until its hold has been given back, so that the
// next job finds the budget as this one found it.
func (s *Scene) endJob(ctx context.Context, jobID string) error {
	if err := s.StopJob(ctx, jobID); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	err := cluster.Poll(ctx, "wait until the hold of job "+jobID+" is given back", func() error {
		now, err := s.fetch(ctx)
		if err != nil {
			return err
		}
		if h := now.hold(jobID); h != nil {
			return fmt.Errorf("its hold is %s", h.State)
		}
		return nil
	})
	return err
}

// stopAllJobs stops every job, as a broom after a step that failed.
func (s *Scene) stopAllJobs(ctx context.Context) error {
	client, err := s.API(s.NomadAddr)
	if err != nil {
		return err
	}
	defer client.Close()
	jobs, _, err := client.Jobs().List((&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("list the jobs: %w", err)
	}
	for _, job := range jobs {
		if job.Stop {
			continue
		}
		// Its end is not waited for with endJob: after a step without Consul
		// nothing is settled.
		if err := s.StopJob(ctx, job.ID); err != nil {
			return err
		}
	}
	return nil
}

// writePolicy makes the policy directory hold exactly one file.
func (s *Scene) writePolicy(text string) error {
	if err := os.MkdirAll(s.policyDir, 0o755); err != nil {
		return fmt.Errorf("make the policy directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.policyDir, policyFile), []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the policy: %w", err)
	}
	return nil
}
