package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// stderrGrace is how long the log waits for what the worker still had to say
// after it ended.
const stderrGrace = time.Second

// process is one worker.
//
//	running ── deadline, bad frame, end of answers, outdated, close ──► retired ──► reaped
type process struct {
	cmd      *exec.Cmd
	requests *os.File // to the worker
	answers  *os.File // from the worker
	log      *lines
	number   uint64 // counts the workers of a supervisor
	started  time.Time

	failed chan struct{} // closed when retired; cause is set then
	reaped chan struct{} // closed when the process is gone and all is closed

	mu      sync.Mutex
	cause   error
	planned bool // retired for a reason that is no fault
	// exchange says that it was retired for another to take its place at once.
	exchange bool
	served   bool // has answered a request without an error
	gone     bool // its number may be another process's
	next     uint64
	pending  map[uint64]chan answer
}

// launch starts a worker. The process is started and waited for on one thread
// that is its own until then: the parent-death signal is sent when the thread
// that started a process ends, not when the whole parent does.
func launch(cmd *exec.Cmd, log *lines, number uint64, now time.Time) (*process, error) {
	requestsIn, requests, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answers, answersOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, requestsIn.Close(), requests.Close())
	}
	p := &process{cmd: cmd, requests: requests, answers: answers, log: log, number: number, started: now,
		failed: make(chan struct{}), reaped: make(chan struct{}), pending: map[uint64]chan answer{}}
	cmd.ExtraFiles = []*os.File{requestsIn, answersOut} // file descriptors 3 and 4
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = stderrGrace
	cmd.SysProcAttr = attributes()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		err = errors.Join(err, requestsIn.Close(), answersOut.Close())
		started <- err
		if cmd.Process != nil {
			p.reap()
		}
	}()
	if err := <-started; err != nil {
		if cmd.Process != nil {
			p.retire(err, false)
			<-p.reaped
			return nil, err
		}
		return nil, errors.Join(err, requests.Close(), answers.Close())
	}
	return p, nil
}

// reap waits for the end of the process, takes those along that it started,
// reads what it answered last, and closes everything.
func (p *process) reap() {
	received := make(chan struct{})
	go func() {
		defer close(received)
		p.receive()
	}()
	awaitExit(p.cmd.Process.Pid)
	p.mu.Lock()
	killGroup(p.cmd.Process.Pid)
	p.gone = true
	p.mu.Unlock()
	status := p.cmd.Wait()
	if !waitFor(received, stderrGrace) { // something that left the group holds the pipe
		p.answers.Close()
		<-received
	}
	text := "exit status 0"
	if status != nil {
		text = status.Error()
	}
	p.retire(failuref("nvml_worker: the process that reads NVML ended (%s)", text), false)
	p.log.flush()
	p.log.drain()
	close(p.reaped)
}

// receive hands answers to those who wait for them, until there are no more.
func (p *process) receive() {
	in := bufio.NewReader(p.answers)
	for {
		var a answer
		err := readFrame(in, &a, answerBytesMost)
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			p.kill()
			return
		}
		if err == nil && !p.deliver(a) {
			err = fmt.Errorf("it answers request %d, which nobody made", a.ID)
		}
		if err != nil {
			p.retire(&Failure{reason: "nvml_worker: the process that reads NVML wrote something that is not an answer", detail: err}, false)
			return
		}
	}
}

func (p *process) deliver(a answer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	waiter, found := p.pending[a.ID]
	delete(p.pending, a.ID)
	if !found {
		return a.ID > 0 && a.ID <= p.next // late: its caller gave up
	}
	if a.Error == "" && a.Outdated == "" {
		p.served = true
	}
	waiter <- a // has room for one
	return true
}

// retire ends the process for a reason. Only the first counts. A planned end
// lets the process leave by itself; the other kills it. Neither waits.
func (p *process) retire(cause error, planned bool) {
	p.mu.Lock()
	first := p.cause == nil
	if first {
		p.cause, p.planned = cause, planned
		close(p.failed)
	}
	p.mu.Unlock()
	if !first {
		return
	}
	p.requests.Close() // ends a worker that is well
	if !planned {
		p.kill()
	}
	p.answers.Close() // ends receive
}

// retireForAnother retires the process because its library was replaced. What
// one that has served still owes is asked of the next.
func (p *process) retireForAnother(cause error) {
	p.mu.Lock()
	p.exchange = p.exchange || p.cause == nil && p.served
	p.mu.Unlock()
	p.retire(cause, true)
}

// exchanged reports whether another process takes this one's place at once.
func (p *process) exchanged() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exchange
}

func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		killGroup(p.cmd.Process.Pid)
	}
}

// state is the reason why the process ended or is to end; nil while it runs.
func (p *process) state() (cause error, planned bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cause, p.planned
}

// call makes one request. When the deadline passes first, the process is
// ended: a call into the driver cannot be interrupted otherwise.
func (p *process) call(q request, deadline <-chan time.Time) (answer, error) {
	waiter := make(chan answer, 1)
	p.mu.Lock()
	if p.cause != nil {
		defer p.mu.Unlock()
		return answer{}, p.cause
	}
	if len(p.pending) >= inFlightMost {
		defer p.mu.Unlock()
		return answer{}, fmt.Errorf("%d requests to the NVML worker are under way already", inFlightMost)
	}
	p.next++
	q.ID = p.next
	p.pending[q.ID] = waiter
	// At most inFlightMost small frames: they fit into the pipe, so that the
	// write does not block while the lock is held.
	err := writeFrame(p.requests, q, requestBytesMost)
	p.mu.Unlock()
	if err != nil { // the process is gone or going
		p.kill()
	}
	select {
	case a := <-waiter:
		return a, nil
	case <-p.failed:
	case <-deadline:
		p.retire(&Failure{reason: hangReason, detail: fmt.Errorf("%s has not returned in time", q.Kind)}, false)
	}
	select {
	case a := <-waiter: // it answered, and ended then
		return a, nil
	default:
	}
	cause, _ := p.state()
	return answer{}, cause
}
