package cluster

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// State describes a detached cluster well enough to end exactly it. It is
// meant to be kept as JSON.
type State struct {
	Dir          string         `json:"dir"`
	NomadAddr    string         `json:"nomad_addr"`
	ConsulAddr   string         `json:"consul_addr"`
	GovernorAddr string         `json:"governor_addr"`
	Token        string         `json:"token,omitempty"`
	Processes    []ProcessState `json:"processes"`
}

// ProcessState identifies one process: a pid may be reused, a pid with its
// start time is not.
type ProcessState struct {
	Name       string `json:"name"`
	PID        int    `json:"pid"`
	StartTicks uint64 `json:"start_ticks"` // clock ticks since boot
	Command    string `json:"command"`
}

// Running reports whether the very process that was started still runs.
func (p ProcessState) Running() bool {
	started, err := startTime(p.PID)
	return err == nil && started == p.StartTicks && !zombie(p.PID)
}

// StopDetached ends a detached cluster as Close would have.
func StopDetached(state State) error {
	if state.Dir == "" {
		return errors.New("stop a detached cluster: its state names no directory")
	}
	var errs []error
	ctx, cancel := context.WithTimeout(context.Background(), stopJobsTimeout)
	defer cancel()
	if err := checkLeader(ctx, state.NomadAddr); err == nil {
		// What does not stop in time is swept away below.
		_ = stopJobs(ctx, state.NomadAddr, state.Token)
	}
	for _, p := range state.Processes {
		errs = append(errs, p.stop())
	}
	return errors.Join(append(errs, removeTraces(state.Dir))...)
}

// stop sends SIGTERM, waits, and kills what does not listen. A pid that now
// belongs to another process is left alone.
func (p ProcessState) stop() error {
	if !p.Running() {
		return nil
	}
	_ = syscall.Kill(p.PID, syscall.SIGTERM)
	for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(pollEvery) {
		if !p.Running() {
			return nil
		}
	}
	_ = syscall.Kill(p.PID, syscall.SIGKILL)
	return fmt.Errorf("stop %s: it ignored SIGTERM for %s and was killed", p.Name, stopTimeout)
}
