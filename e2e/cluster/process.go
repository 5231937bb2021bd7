package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Waiting for a process, in the worst case on two busy cores.
const (
	readyTimeout = 90 * time.Second
	stopTimeout  = 30 * time.Second
	pollEvery    = 50 * time.Millisecond
)

// Process is one server of a cluster. It may be stopped, killed and started
// again; its data, ports and log file stay the same. Methods may be called
// from several goroutines.
type Process struct {
	// Name is unique in the cluster: "consul", "server", "client1", "governor".
	Name string
	// LogPath is where stdout and stderr of all its runs go.
	LogPath string

	command []string
	env     []string
	ready   func(ctx context.Context) error

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has been waited for
	exit error
}

// Start runs the process and waits until it is ready.
func (p *Process) Start(ctx context.Context) error {
	if err := p.spawn(); err != nil {
		return err
	}
	return p.WaitReady(ctx)
}

// spawn runs the process in a process group of its own, so that an interrupt
// typed at the terminal reaches only the harness, which stops it in order.
func (p *Process) spawn() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runningLocked() {
		return fmt.Errorf("start %s: it is running already", p.Name)
	}
	log, err := os.OpenFile(p.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", p.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(p.command[0], p.command[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done, p.exit = cmd, done, nil
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.exit = err
		p.mu.Unlock()
		close(done)
	}()
	return nil
}

// WaitReady returns when the process answers as it should, or with the tail
// of its log when it exits first or takes too long.
func (p *Process) WaitReady(ctx context.Context) error {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done == nil {
		return fmt.Errorf("wait for %s: it was not started", p.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var last error
	for {
		attempt, cancelAttempt := context.WithTimeout(ctx, 5*time.Second)
		err := p.ready(attempt)
		cancelAttempt()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-done:
			return fmt.Errorf("%s exited before it was ready: %w; the end of %s:\n%s", p.Name, p.exitError(), p.LogPath, p.LogTail(30))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w); the end of %s:\n%s", p.Name, last, ctx.Err(), p.LogPath, p.LogTail(30))
		case <-time.After(pollEvery):
		}
	}
}

// Stop ends the process with SIGTERM and waits; a process that does not end
// in time is killed with its group, and that is an error.
func (p *Process) Stop() error {
	done := p.signal(syscall.SIGTERM)
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-time.After(stopTimeout):
	}
	p.mu.Lock()
	if p.runningLocked() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
	p.mu.Unlock()
	<-done
	return fmt.Errorf("stop %s: it ignored SIGTERM for %s and was killed; the end of %s:\n%s", p.Name, stopTimeout, p.LogPath, p.LogTail(30))
}

// Kill ends the process with SIGKILL, as a crash would, and waits. Children
// of the process are left, as a crash would leave them; Close ends them.
func (p *Process) Kill() {
	if done := p.signal(syscall.SIGKILL); done != nil {
		<-done
	}
}

// Pause stops the process from running without ending it; Resume undoes it.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume lets a paused process run on.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

// Restart stops and starts the process.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Stop(); err != nil {
		return err
	}
	return p.Start(ctx)
}

// signal sends sig when the process runs and returns the channel that closes
// when it ends, or nil when it does not run.
func (p *Process) signal(sig syscall.Signal) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runningLocked() {
		return nil
	}
	_ = p.cmd.Process.Signal(sig)
	return p.done
}

// Running reports whether the process runs.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runningLocked()
}

func (p *Process) runningLocked() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PID is the process id of the current or last run, 0 before the first.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// exitError is how the last run ended; nil for exit status 0.
func (p *Process) exitError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exit == nil {
		return errors.New("exit status 0")
	}
	return p.exit
}

// logTailBytes bounds how much of a log is read for its tail.
const logTailBytes = 64 << 10

// LogTail returns the last n lines of the log.
func (p *Process) LogTail(n int) string {
	file, err := os.Open(p.LogPath)
	if err != nil {
		return "(no log: " + err.Error() + ")"
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > logTailBytes {
		_, _ = file.Seek(-logTailBytes, io.SeekEnd)
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return "(log not readable: " + err.Error() + ")"
	}
	lines := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return string(bytes.Join(lines, []byte("\n")))
}
