package story

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/internal/quantity"
)

// The nodes of cluster.Default and their GPUs.
const (
	v100Client = "client1"
	v100Device = "nvidia/gpu/Tesla V100-SXM2-16GB"
)

// soon is within what time a change of policy must act.
const soon = time.Second

// Steps is the whole story, in order.
func Steps() []Step {
	return []Step{
		{"budgets are applied", "Budgets written in HCL are checked and put into force", applyBudgets},
		{"pairs and quads", "GPU jobs get the best-connected GPUs, and see exactly those", placement},
		{"device stats", "The stock CLI shows the GPUs of a task and how busy they are", deviceStats},
		{"an over-budget job is refused", "A job over its budget is refused, with the arithmetic and the line of the limit", refusal},
		{"a raised limit acts at once", "Raising the limit, by apply or in Consul's KV, lets the same job in within a second", liveEdits},
		{"a broken edit changes nothing", "A broken edit keeps the last good policy in force and is shown with its line", brokenEdit},
		{"plan shows and holds nothing", "nomad job plan shows estimate and placement, and holds nothing", plan},
		{"resubmission changes nothing", "The same file run twice makes no new version and no second hold", resubmission},
		{"the bill is right", "When the job ends, usage is GPUs x time and the rest of the hold is given back", settlement},
		{"a purged job is billed too", "A job that is purged while it runs leaves no trace in Nomad, but its bill and no hold", purge},
		{"a crash loses nothing", "The agent is killed while a job runs, and restarted: nothing lost, nothing doubled", crash},
		{"without consul", "Consul down: GPU work is refused with the reason, everything else passes; then all is well again", consulDown},
	}
}

func applyBudgets(ctx context.Context, s *Scene) error {
	text, err := examplePolicy(8)
	if err != nil {
		return err
	}
	if err := s.writePolicy(text); err != nil {
		return err
	}
	validated, err := s.governorCLI(ctx, "budget", "validate", s.policyDir)
	if err != nil {
		return err
	}
	s.Equal("exit code of validate", 0, validated.ExitCode)
	if err := s.apply(ctx, 8); err != nil {
		return err
	}
	shown, err := s.governorCLI(ctx, "budget", "status")
	if err != nil {
		return err
	}
	s.Says("budget status", shown, researchBudget, policyFile+":")
	now, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	s.Equal("GPUs that research may hold at once", "8", quantity.FormatGPUs(now.limit(researchBudget, concurrentWindow, gpus).Limit))
	return nil
}

// placement runs two sizes of job many times through the gate, and the same
// jobs directly on Nomad for comparison.
func placement(ctx context.Context, s *Scene) error {
	f, err := s.readFabric(ctx, v100Client)
	if err != nil {
		return err
	}
	governed, err := s.placeMany(ctx, f, s.Addr())
	if err != nil {
		return err
	}
	s.Equal("2-GPU jobs with two NVLinks between their GPUs", fmt.Sprintf("%d of %d", s.Rounds, s.Rounds), fmt.Sprintf("%d of %d", governed.pairs, s.Rounds))
	s.Equal("4-GPU jobs with all GPUs NVLinked to each other", fmt.Sprintf("%d of %d", s.Rounds, s.Rounds), fmt.Sprintf("%d of %d", governed.quads, s.Rounds))

	direct, err := s.placeMany(ctx, f, s.NomadAddr)
	if err != nil {
		return err
	}
	lucky, all := direct.pairs+direct.quads, 2*s.Rounds
	s.Check(lucky < all, "the same jobs sent to Nomad directly", "some with worse GPUs",
		fmt.Sprintf("%d of %d with the best ones", lucky, all))
	return nil
}

// placed counts the jobs that got the best kind of set.
type placed struct{ pairs, quads int }

// placeMany runs 2-GPU and 4-GPU jobs in turn, one at a time.
func (s *Scene) placeMany(ctx context.Context, f fabric, addr string) (placed, error) {
	var counts placed
	for round := range s.Rounds {
		for _, size := range []int{2, 4} {
			job := Job{ID: fmt.Sprintf("train-%d-%d", size, round), GPUs: size, Device: v100Device, MaxRuntime: "10m"}
			ids, err := s.placeOne(ctx, job, addr)
			if err != nil {
				return counts, err
			}
			s.printer.Note("round %2d, %d GPUs: %s", round+1, size, f.describe(ids))
			switch least := f.leastLinks(f.rows(ids)); {
			case size == 2 && least == 2:
				counts.pairs++
			case size == 4 && least >= 1:
				counts.quads++
			}
		}
	}
	return counts, nil
}

// placeOne runs a job, checks what its task sees, and stops it again.
func (s *Scene) placeOne(ctx context.Context, job Job, addr string) ([]string, error) {
	if _, err := s.Register(ctx, addr, job.HCL()); err != nil {
		return nil, err
	}
	allocations, err := s.WaitAllocations(ctx, job.ID, 1, api.AllocClientStatusRunning)
	if err != nil {
		return nil, err
	}
	ids := devices(allocations[0])
	if err := s.checkTask(ctx, allocations[0], ids); err != nil {
		return nil, err
	}
	return ids, s.endJob(ctx, job.ID)
}

func refusal(ctx context.Context, s *Scene) error {
	if err := s.apply(ctx, 4); err != nil {
		return err
	}
	if err := s.limitBecomes(ctx, 4); err != nil {
		return err
	}
	if _, err := s.mustRun(ctx, Job{ID: "base", GPUs: 4, Device: v100Device, MaxRuntime: "1h"}); err != nil {
		return err
	}
	before, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	result, err := s.runJob(ctx, extra())
	if err != nil {
		return err
	}
	s.Check(result.ExitCode != 0, "exit code of nomad job run", "not 0", fmt.Sprint(result.ExitCode))
	limit := before.limit(researchBudget, concurrentWindow, gpus)
	s.Says("the refusal", result, "403", "asked", "2 x v100", "limit", limit.Source, "used", "4 GPUs held", "short by", "2 GPUs", "what to do")
	status, err := s.stockCLI(ctx, "job", "status", extra().ID)
	if err != nil {
		return err
	}
	s.Says("the refused job", status, "No job(s) with prefix or ID")
	after, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	s.Equal("jobs that hold budget", before.held(), after.held())
	s.Equal("GPUs held", quantity.FormatGPUs(limit.Held), quantity.FormatGPUs(after.limit(researchBudget, concurrentWindow, gpus).Held))
	return nil
}

// extra is the job that does not fit while "base" holds all of research's GPUs.
func extra() Job {
	return Job{ID: "extra", GPUs: 2, Device: v100Device, MaxRuntime: "30m"}
}

// liveEdits goes on from refusal: "base" still holds 4 of 4 GPUs.
func liveEdits(ctx context.Context, s *Scene) error {
	if err := s.apply(ctx, 6); err != nil {
		return err
	}
	if err := s.admittedSoon(ctx, "after budget apply"); err != nil {
		return err
	}
	if err := s.endJob(ctx, extra().ID); err != nil {
		return err
	}
	if err := s.apply(ctx, 4); err != nil {
		return err
	}
	if err := s.limitBecomes(ctx, 4); err != nil {
		return err
	}
	result, err := s.runJob(ctx, extra())
	if err != nil {
		return err
	}
	s.Check(result.ExitCode != 0, "exit code with the limit lowered again", "not 0", fmt.Sprint(result.ExitCode))
	text, err := examplePolicy(7)
	if err != nil {
		return err
	}
	if err := s.editKV(ctx, text); err != nil {
		return err
	}
	if err := s.admittedSoon(ctx, "after the edit in Consul's KV"); err != nil {
		return err
	}
	if err := s.endJob(ctx, extra().ID); err != nil {
		return err
	}
	return s.endJob(ctx, "base")
}

// limitBecomes waits until the agent shows the limit of research's GPUs.
func (s *Scene) limitBecomes(ctx context.Context, want int64) error {
	_, err := within(ctx, soon, func() (bool, error) {
		now, err := s.fetch(ctx)
		return now.limit(researchBudget, concurrentWindow, gpus).Limit == quantity.GPU.Mul(want), err
	})
	if err != nil {
		return fmt.Errorf("wait for a limit of %d GPUs: %w", want, err)
	}
	return nil
}

// admittedSoon tries the extra job until it gets in, and checks how long that took.
func (s *Scene) admittedSoon(ctx context.Context, when string) error {
	took, err := within(ctx, soon, func() (bool, error) {
		_, err := s.Register(ctx, s.Addr(), extra().HCL())
		if err != nil && strings.Contains(err.Error(), "403") {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("run the job %s: %w", when, err)
	}
	s.Check(took <= soon, "the same job is in "+when, "within "+soon.String(), took.Round(10*time.Millisecond).String())
	_, err = s.WaitAllocations(ctx, extra().ID, 1, api.AllocClientStatusRunning)
	return err
}

func brokenEdit(ctx context.Context, s *Scene) error {
	good, err := examplePolicy(4)
	if err != nil {
		return err
	}
	if err := s.apply(ctx, 4); err != nil {
		return err
	}
	if err := s.limitBecomes(ctx, 4); err != nil {
		return err
	}
	broken := strings.Replace(good, `gpus = { any = 4 }`, `gpuz = { any = 9 }`, 1)
	if err := s.editKV(ctx, broken); err != nil {
		return err
	}
	_, err = within(ctx, soon, func() (bool, error) {
		now, err := s.fetch(ctx)
		return now.Policy.Broken != "", err
	})
	if err != nil {
		return fmt.Errorf("wait for the diagnostics: %w", err)
	}
	shown, err := s.governorCLI(ctx, "budget", "status")
	if err != nil {
		return err
	}
	s.Says("budget status", shown, "last good policy stays in force", "gpuz", fmt.Sprintf("%s:%d", policyFile, lineOf(broken, "gpuz")))
	now, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	s.Equal("GPUs that research may hold", "4", quantity.FormatGPUs(now.limit(researchBudget, concurrentWindow, gpus).Limit))
	fits, err := s.mustRun(ctx, Job{ID: "fits", GPUs: 2, Device: v100Device, MaxRuntime: "30m"})
	if err != nil {
		return err
	}
	s.Equal("GPUs of a job that fits the last good policy", 2, len(devices(fits)))
	if err := s.endJob(ctx, "fits"); err != nil {
		return err
	}
	if err := s.apply(ctx, 8); err != nil {
		return err
	}
	_, err = within(ctx, soon, func() (bool, error) {
		now, err := s.fetch(ctx)
		return now.Policy.Broken == "", err
	})
	return err
}

// lineOf is the number of the line that contains part, from 1.
func lineOf(text, part string) int {
	before, _, _ := strings.Cut(text, part)
	return strings.Count(before, "\n") + 1
}
