package access_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/e2e/toolchain"
)

// examples runs every file of jobs/examples, as its comments say.
func examples(ctx context.Context, t *testing.T, c *cluster.Cluster, budgets string) {
	root, err := toolchain.Root()
	must.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(root, "jobs", "examples", "*.nomad.hcl"))
	must.NoError(t, err)
	must.SliceNotEmpty(t, files)
	policyFile, err := c.WriteFile("budgets.hcl", budgets)
	must.NoError(t, err)
	applied := governor(ctx, t, c, c.Token, "budget", "apply", "-auto-approve", policyFile)
	must.Eq(t, 0, applied.ExitCode, must.Sprint(applied.Output()))
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".nomad.hcl")
		t.Run("example job "+name, func(t *testing.T) {
			switch name {
			case "finetune":
				dispatched(ctx, t, c, file)
			case "agent-step":
				ofARun(ctx, t, c, file)
			default:
				example(ctx, t, c, name, file)
			}
		})
	}
}

// example plans and runs a file of jobs/examples.
func example(ctx context.Context, t *testing.T, c *cluster.Cluster, name, file string) {
	t.Helper()
	// A plan is told of the cluster as it was up to a second ago: of the example before.
	must.NoError(t, cluster.Poll(ctx, "a plan of "+name+" is paid from its budget", func() error {
		planned := run(ctx, t, c, c.Token, "job", "plan", file)
		must.Eq(t, 1, planned.ExitCode, must.Sprint(planned.Output()))
		if !strings.Contains(planned.Output(), "from budget acme/research") {
			return errors.New(planned.Output())
		}
		return nil
	}))
	result := run(ctx, t, c, c.Token, "job", "run", "-detach", file)
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	allocations, err := c.WaitAllocations(ctx, name, count(name), api.AllocClientStatusRunning)
	must.NoError(t, err)
	if name == "gang" {
		together(ctx, t, c, allocations)
	}
	must.NoError(t, c.StopJob(ctx, name))
}

// together wants the allocations of a gang to have found each other.
func together(ctx context.Context, t *testing.T, c *cluster.Cluster, allocations []*api.Allocation) {
	t.Helper()
	seen := map[string]bool{}
	for _, a := range allocations {
		must.NoError(t, cluster.Poll(ctx, "the trainers know where rank 0 is", func() error {
			text, err := c.Stdout(ctx, a.ID, "trainer")
			found := regexp.MustCompile(`rank ([01]) of 2 at 127\.0\.0\.1:(\d+) on (GPU-\S+)`).FindStringSubmatch(text)
			if err == nil && found == nil {
				err = fmt.Errorf("it printed %q", text)
			}
			if err == nil {
				seen[found[1]], seen[found[2]] = true, true
				must.Eq(t, cluster.Devices(a), slices.Sorted(slices.Values(strings.Split(found[3], ","))))
			}
			return err
		}))
	}
	must.MapLen(t, 3, seen, must.Sprint("two ranks and one port"))
}

// dispatched runs a child of a parameterized example.
func dispatched(ctx context.Context, t *testing.T, c *cluster.Cluster, file string) {
	t.Helper()
	registered := run(ctx, t, c, c.Token, "job", "run", "-detach", file)
	must.Eq(t, 0, registered.ExitCode, must.Sprint(registered.Output()))
	result := run(ctx, t, c, c.Token, "job", "dispatch", "-detach", "-meta=model=llama-3-8b", "-meta=dataset=support-2026-11", "finetune")
	must.Eq(t, 0, result.ExitCode, must.Sprint(result.Output()))
	child := regexp.MustCompile(`finetune/dispatch-\S+`).FindString(result.Stdout)
	_, err := c.WaitAllocations(ctx, child, 1, api.AllocClientStatusRunning)
	must.NoError(t, err, must.Sprint(result.Output()))
	must.StrContains(t, governor(ctx, t, c, c.Token, "job", "status", child).Stdout, "acme/research")
	must.NoError(t, c.StopJob(ctx, child))
	must.NoError(t, c.StopJob(ctx, "finetune"))
}

// ofARun opens an agent run, and runs the example as a step of it.
func ofARun(ctx context.Context, t *testing.T, c *cluster.Cluster, file string) {
	t.Helper()
	opened := governor(ctx, t, c, c.Token, "run", "open", "-cap=gpu_hours=2", "-wall-clock=2h", "-json", "acme/research")
	must.Eq(t, 0, opened.ExitCode, must.Sprint(opened.Output()))
	var envelope struct {
		ID string `json:"id"`
	}
	must.NoError(t, json.Unmarshal([]byte(opened.Stdout), &envelope), must.Sprint(opened.Stdout))
	step := run(ctx, t, c, c.Token, "job", "run", "-detach", "-var=run="+envelope.ID, "-var=step=2", file)
	must.Eq(t, 0, step.ExitCode, must.Sprint(step.Output()))
	_, err := c.WaitAllocations(ctx, "agent-step-2", 1, api.AllocClientStatusRunning)
	must.NoError(t, err)
	must.StrContains(t, governor(ctx, t, c, c.Token, "run", "show", envelope.ID).Stdout, "agent-step-2")
	must.NoError(t, c.StopJob(ctx, "agent-step-2"))
	closed := governor(ctx, t, c, c.Token, "run", "close", envelope.ID)
	must.Eq(t, 0, closed.ExitCode, must.Sprint(closed.Output()))
}

// count is how many allocations an example has.
func count(name string) int {
	if name == "inference" || name == "gang" {
		return 2
	}
	return 1
}
