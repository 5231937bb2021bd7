package story

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/internal/quantity"
)

// visibleDevices is the variable by which containers and CUDA learn their GPUs.
const visibleDevices = "NVIDIA_VISIBLE_DEVICES"

func devices(allocation *api.Allocation) []string { return cluster.Devices(allocation) }

// checkTask compares what a task sees with what Nomad allocated. Only
// differences are told: this runs for every one of many jobs.
func (s *Scene) checkTask(ctx context.Context, allocation *api.Allocation, ids []string) error {
	var seen []string
	err := cluster.Poll(ctx, "read the task's environment", func() error {
		env, err := s.TaskEnv(ctx, allocation.ID, "t")
		if err != nil {
			return err
		}
		if env[visibleDevices] == "" {
			return fmt.Errorf("it has no %s", visibleDevices)
		}
		seen = strings.Split(env[visibleDevices], ",")
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(seen)
	if !slices.Equal(seen, ids) {
		s.Equal("devices that the task of "+allocation.JobID+" sees", ids, seen)
	}
	return nil
}

func plan(ctx context.Context, s *Scene) error {
	before, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	job := Job{ID: "planned", GPUs: 4, Device: v100Device, MaxRuntime: "1h"}
	path, err := s.WriteFile(job.ID+".nomad.hcl", job.HCL())
	if err != nil {
		return err
	}
	result, err := s.stockCLI(ctx, "job", "plan", path)
	if err != nil {
		return err
	}
	s.Equal("exit code of nomad job plan (1: allocations would be created)", 1, result.ExitCode)
	s.Says("the plan", result, "Warnings", researchBudget, "USD", v100Client)
	after, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	s.Equal("jobs that hold budget", before.held(), after.held())
	return nil
}

func resubmission(ctx context.Context, s *Scene) error {
	job := Job{ID: "twice", GPUs: 2, Device: v100Device, MaxRuntime: "1h"}
	allocation, err := s.mustRun(ctx, job)
	if err != nil {
		return err
	}
	first, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	result, err := s.runJob(ctx, job)
	if err != nil {
		return err
	}
	s.Equal("exit code of the second run", 0, result.ExitCode)
	client, err := s.API(s.NomadAddr)
	if err != nil {
		return err
	}
	defer client.Close()
	stored, _, err := client.Jobs().Info(job.ID, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	s.Equal("version of the job", 0, *stored.Version)
	allocations, err := s.WaitAllocations(ctx, job.ID, 1, api.AllocClientStatusRunning)
	if err != nil {
		return err
	}
	s.Equal("allocations", 1, len(allocations))
	s.Equal("the allocation", allocation.ID, allocations[0].ID)
	second, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	s.Equal("jobs that hold budget", first.held(), second.held())
	s.Equal("GPUs held", quantity.FormatGPUs(first.limit(researchBudget, concurrentWindow, gpus).Held), quantity.FormatGPUs(second.limit(researchBudget, concurrentWindow, gpus).Held))

	return s.endJob(ctx, job.ID)
}

// deviceStats shows what the stock CLI prints about a task's GPUs. The client
// samples every second, and only a running task.
func deviceStats(ctx context.Context, s *Scene) error {
	job := Job{ID: "watched", GPUs: 2, Device: v100Device, MaxRuntime: "30m"}
	allocation, err := s.mustRun(ctx, job)
	if err != nil {
		return err
	}
	err = cluster.Poll(ctx, "wait for device stats", func() error {
		result, err := s.Nomad(ctx, s.Addr(), "alloc", "status", allocation.ID)
		if err == nil && !says(result, "Device Stats") {
			err = fmt.Errorf("alloc status shows none: %s", result.Output())
		}
		return err
	})
	if err != nil {
		return err
	}
	shown, err := s.stockCLI(ctx, "alloc", "status", allocation.ID)
	if err != nil {
		return err
	}
	s.Says("alloc status", shown, append([]string{"Device Stats"}, devices(allocation)...)...)
	env, err := s.TaskEnv(ctx, allocation.ID, "t")
	if err != nil {
		return err
	}
	seen := strings.Split(env[visibleDevices], ",")
	slices.Sort(seen)
	s.Equal(visibleDevices+" of the task", devices(allocation), seen)
	return s.endJob(ctx, job.ID)
}

func settlement(ctx context.Context, s *Scene) error {
	before, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	job := Job{ID: "billed", GPUs: 4, Device: v100Device, MaxRuntime: "1h", Command: "sleep 3"}
	if _, err := s.runJob(ctx, job); err != nil {
		return err
	}
	allocations, err := s.WaitAllocations(ctx, job.ID, 1, api.AllocClientStatusComplete)
	if err != nil {
		return err
	}
	return s.checkBill(ctx, before, job, allocations[0])
}

// checkBill waits until the job's hold is gone, and compares what was posted
// since before with GPUs x (terminal - create).
func (s *Scene) checkBill(ctx context.Context, before status, job Job, allocation *api.Allocation) error {
	var after status
	_, err := within(ctx, 2*soon, func() (bool, error) {
		var err error
		after, err = s.fetch(ctx)
		return after.hold(job.ID) == nil, err
	})
	if err != nil {
		return fmt.Errorf("wait until job %s has been settled: %w", job.ID, err)
	}
	shown, err := s.governorCLI(ctx, "budget", "status", researchBudget)
	if err != nil {
		return err
	}
	s.Equal("exit code of budget status", 0, shown.ExitCode)
	used := time.Duration(allocation.ModifyTime-allocation.CreateTime) * time.Duration(job.GPUs)
	was, is := before.limit(researchBudget, dayWindow, gpuTime), after.limit(researchBudget, dayWindow, gpuTime)
	posted := time.Duration(is.Posted-was.Posted) * time.Millisecond
	tolerance := time.Duration(job.GPUs) * soon
	s.Check((posted-used).Abs() <= tolerance, "GPU time on the bill",
		fmt.Sprintf("%d GPUs x %s = %s, within %s", job.GPUs, (used/time.Duration(job.GPUs)).Round(time.Millisecond), used.Round(time.Millisecond), tolerance),
		posted.Round(time.Millisecond).String())
	s.Equal("GPU time still held", was.Held, is.Held)
	s.Equal("GPUs still held", quantity.FormatGPUs(before.limit(researchBudget, concurrentWindow, gpus).Held), quantity.FormatGPUs(after.limit(researchBudget, concurrentWindow, gpus).Held))
	s.Equal("limit - used - held = left", is.Limit.Sub(is.Posted).Sub(is.Held), is.Available)
	top, topWas := after.limit("acme", "month", "cost"), before.limit("acme", "month", "cost")
	own, ownWas := after.limit(researchBudget, "month", "cost"), before.limit(researchBudget, "month", "cost")
	s.Equal("cost of the whole organisation rose by research's", own.Posted-ownWas.Posted, top.Posted-topWas.Posted)
	s.Check(own.Posted > ownWas.Posted, "cost of the job in millionths of a USD", "more than 0", fmt.Sprint(own.Posted-ownWas.Posted))
	return nil
}

func purge(ctx context.Context, s *Scene) error {
	before, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	job := Job{ID: "purged", GPUs: 2, Device: v100Device, MaxRuntime: "1h"}
	allocation, err := s.mustRun(ctx, job)
	if err != nil {
		return err
	}
	// Nomad forgets a purged job's allocations at once: the bill can only be
	// made from what the meter had seen, and when the purge was.
	_, err = within(ctx, soon, func() (bool, error) {
		now, err := s.fetch(ctx)
		h := now.hold(job.ID)
		return h != nil && len(h.Allocations) == 1, err
	})
	if err != nil {
		return fmt.Errorf("wait until the meter has seen the allocation: %w", err)
	}
	if _, err := s.stockCLI(ctx, "job", "stop", "-detach", "-purge", job.ID); err != nil {
		return err
	}
	var after status
	took, err := within(ctx, settleTimeout, func() (bool, error) {
		var err error
		after, err = s.fetch(ctx)
		return after.hold(job.ID) == nil, err
	})
	if err != nil {
		return fmt.Errorf("wait until the purged job has been settled: %w", err)
	}
	s.Check(took <= settleTimeout, "the hold is given back", "within "+settleTimeout.String(), took.Round(10*time.Millisecond).String())
	s.Equal("GPUs still held", quantity.FormatGPUs(before.limit(researchBudget, concurrentWindow, gpus).Held), quantity.FormatGPUs(after.limit(researchBudget, concurrentWindow, gpus).Held))
	posted := after.limit(researchBudget, dayWindow, gpuTime).Posted - before.limit(researchBudget, dayWindow, gpuTime).Posted
	purged, err := s.purgedAt(ctx, job.ID)
	if err != nil {
		return err
	}
	ran := purged.UnixMilli() - time.Unix(0, allocation.CreateTime).UnixMilli()
	s.Equal(fmt.Sprintf("GPU time on the bill: %d GPUs x %v, to the moment of the purge", job.GPUs, time.Duration(ran)*time.Millisecond),
		time.Duration(ran)*time.Duration(job.GPUs)*time.Millisecond, time.Duration(posted)*time.Millisecond)
	return nil
}

// purgedAt is when a job was purged: what Nomad keeps of it is the evaluation.
func (s *Scene) purgedAt(ctx context.Context, jobID string) (time.Time, error) {
	client, err := s.API(s.NomadAddr)
	if err != nil {
		return time.Time{}, err
	}
	defer client.Close()
	evaluations, _, err := client.Jobs().Evaluations(jobID, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return time.Time{}, fmt.Errorf("list the evaluations of job %s: %w", jobID, err)
	}
	i := slices.IndexFunc(evaluations, func(e *api.Evaluation) bool { return e.TriggeredBy == "job-deregister" })
	if i < 0 {
		return time.Time{}, fmt.Errorf("nomad keeps no evaluation of the purge of job %s", jobID)
	}
	return time.Unix(0, evaluations[i].CreateTime), nil
}

func crash(ctx context.Context, s *Scene) error {
	before, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	job := Job{ID: "survivor", GPUs: 2, Device: v100Device, MaxRuntime: "1h"}
	if _, err := s.mustRun(ctx, job); err != nil {
		return err
	}
	held, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	s.printer.Note("SIGKILL to the governor agent (pid %d)", s.Governor.PID())
	s.Governor.Kill()
	running, err := s.WaitAllocations(ctx, job.ID, 1, api.AllocClientStatusRunning)
	if err != nil {
		return err
	}
	s.Equal("the job while the agent is dead", api.AllocClientStatusRunning, running[0].ClientStatus)
	if err := s.Governor.Start(ctx); err != nil {
		return err
	}
	s.printer.Note("governor agent started again (pid %d)", s.Governor.PID())
	again, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	s.Equal("jobs that hold budget", held.held(), again.held())
	s.Equal("GPUs held", quantity.FormatGPUs(held.limit(researchBudget, concurrentWindow, gpus).Held), quantity.FormatGPUs(again.limit(researchBudget, concurrentWindow, gpus).Held))
	if err := s.StopJob(ctx, job.ID); err != nil {
		return err
	}
	ended, err := s.ended(ctx, running[0].ID)
	if err != nil {
		return err
	}
	return s.checkBill(ctx, before, job, ended)
}

// ended reads an allocation again, as it is after its end.
func (s *Scene) ended(ctx context.Context, id string) (*api.Allocation, error) {
	client, err := s.API(s.NomadAddr)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	allocation, _, err := client.Allocations().Info(id, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("read allocation %s: %w", id, err)
	}
	return allocation, nil
}

// lockDelay is how long Consul keeps a lock from others after the session that held
// it has ended (its default).
const lockDelay = 15 * time.Second

func consulDown(ctx context.Context, s *Scene) error {
	if err := s.Consul.Stop(); err != nil {
		return err
	}
	s.printer.Note("Consul stopped")
	gpuJob := Job{ID: "gpu", GPUs: 2, Device: v100Device, MaxRuntime: "30m"}
	result, err := s.runJob(ctx, gpuJob)
	if err != nil {
		return err
	}
	s.Check(result.ExitCode != 0, "exit code for the GPU job", "not 0", fmt.Sprint(result.ExitCode))
	s.Says("the answer to the GPU job", result, "503", "ledger")
	none, err := s.stockCLI(ctx, "job", "status", gpuJob.ID)
	if err != nil {
		return err
	}
	s.Says("the refused GPU job", none, "No job(s) with prefix or ID")
	cpu, err := s.mustRun(ctx, Job{ID: "cpu"})
	if err != nil {
		return err
	}
	s.Equal("the CPU job", api.AllocClientStatusRunning, cpu.ClientStatus)
	for _, path := range []string{"/v1/jobs", "/v1/nodes", "/v1/job/cpu", "/v1/job/cpu/allocations", "/ui/"} {
		code, err := statusOf(ctx, s.Addr()+path)
		if err != nil {
			return err
		}
		s.Equal("GET "+path, http.StatusOK, code)
	}
	if err := s.StopJob(ctx, "cpu"); err != nil {
		return err
	}
	if err := s.Consul.Start(ctx); err != nil {
		return err
	}
	s.printer.Note("Consul started again")
	_, err = within(ctx, 3*soon, func() (bool, error) {
		result, err := s.Nomad(ctx, s.Addr(), "job", "run", "-detach", s.Dir+"/"+gpuJob.ID+".nomad.hcl")
		return result.ExitCode == 0, err
	})
	if err != nil {
		return fmt.Errorf("run the GPU job once Consul is back: %w", err)
	}
	back, err := s.WaitAllocations(ctx, gpuJob.ID, 1, api.AllocClientStatusRunning)
	if err != nil {
		return err
	}
	s.Equal("GPUs of the GPU job once Consul is back", gpuJob.GPUs, len(devices(back[0])))
	held, err := s.fetch(ctx)
	if err != nil {
		return err
	}
	s.Equal("jobs that hold budget", []string{gpuJob.ID}, held.held())
	// Consul gives a lock away again only some time after its session has ended.
	if _, err := within(ctx, lockDelay, func() (bool, error) {
		now, err := s.fetch(ctx)
		return now.Leader, err
	}); err != nil {
		return fmt.Errorf("wait until the agent leads again: %w", err)
	}
	return s.endJob(ctx, gpuJob.ID)
}

// statusOf fetches a URL for its status.
func statusOf(ctx context.Context, url string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("fetch %s: %w", url, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, fmt.Errorf("fetch %s: %w", url, err)
	}
	response.Body.Close()
	return response.StatusCode, nil
}
