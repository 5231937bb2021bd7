package worker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/device/inventory"
)

// Defaults of Options.
const (
	// DefaultCallTimeout is shorter than the plugin's own guard of 10 s, so
	// that the worker is killed before the guard gives up on the call.
	DefaultCallTimeout  = 8 * time.Second
	defaultBackoffLeast = 500 * time.Millisecond
	defaultBackoffMost  = 30 * time.Second
)

const (
	// watchMost bounds one wait for XIDs: a longer one would hide a hang, and
	// keep the reader from opening the library again.
	watchMost = time.Second
	// steadyAfter is how long a worker must have run for its end not to
	// count as one more in a row.
	steadyAfter = time.Minute
	// closeGrace is how long a worker may take to leave by itself.
	closeGrace = time.Second
	// closeMost is how long Close waits for a worker that was killed.
	closeMost = 2 * time.Second
)

// hangReason is the plugin's own word for a hang, so that the devices'
// description does not change with who notices it first.
const hangReason = "nvml_hang: a call into the driver does not return"

var errNotStarted = failuref("nvml_worker: the process that reads NVML is not running yet")

// Failure is why there is no worker. Its text does not vary between two
// failures of one kind, because each change is sent to Nomad's servers.
type Failure struct {
	reason string
	detail error // for the log
}

func failuref(format string, args ...any) *Failure {
	return &Failure{reason: fmt.Sprintf(format, args...)}
}

// Error implements error.
func (f *Failure) Error() string { return f.reason }

// Reason is the devices' health description. The plugin looks for this method.
func (f *Failure) Reason() string { return f.reason }

// Options say how a worker is started.
type Options struct {
	// Path is the program; empty means this one. Args are its arguments
	// with the name first, Env its whole environment.
	Path string
	Args []string
	Env  []string
	// CallTimeout bounds one call into NVML; 0 means DefaultCallTimeout.
	CallTimeout time.Duration
	// BackoffLeast and BackoffMost bound the time between the end of a
	// worker and the start of the next; 0 means half a second and 30 s.
	BackoffLeast, BackoffMost time.Duration
	// Jitter returns a number in [0, 1) that spreads the restarts.
	Jitter func() float64
	Now    func() time.Time
	Logger hclog.Logger
}

// Supervisor reads GPUs through a worker. It is safe for concurrent use.
type Supervisor struct {
	options Options

	mu         sync.Mutex
	process    *process // nil before the first
	accounted  bool     // the end of process is in the fields below
	last       error    // why there is no worker; nil before the first
	unreported bool     // no Read has returned last yet
	inRow      int      // ends and failed starts without a steady worker between
	notBefore  time.Time
	number     uint64
	closed     bool
}

// New returns a supervisor. The worker is started by the first Read.
func New(o Options) *Supervisor {
	if o.Path == "" {
		o.Path = selfPath
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = DefaultCallTimeout
	}
	if o.BackoffLeast == 0 {
		o.BackoffLeast = defaultBackoffLeast
	}
	if o.BackoffMost == 0 {
		o.BackoffMost = defaultBackoffMost
	}
	return &Supervisor{options: o}
}

// Read reads every GPU; an error means that none can be read. It is the only
// call that starts a worker after one has failed.
func (s *Supervisor) Read() (inventory.Readings, error) {
	a, _, err := s.call(request{Kind: kindRead}, s.options.CallTimeout)
	if err != nil {
		return inventory.Readings{}, err
	}
	if a.Readings == nil {
		return inventory.Readings{}, errors.New("the NVML worker answered a read without readings")
	}
	return *a.Readings, nil
}

// Sample reads the numbers that move.
func (s *Supervisor) Sample() ([]inventory.Sample, error) {
	a, _, err := s.call(request{Kind: kindSample}, s.options.CallTimeout)
	return a.Samples, err
}

// Watch waits for XIDs, at most that long and at most watchMost. Its digest
// differs when a Read would, also because another worker, maybe with another
// driver, answers.
func (s *Supervisor) Watch(timeout time.Duration) (inventory.Watched, error) {
	timeout = min(timeout, watchMost)
	a, number, err := s.call(request{Kind: kindWatch, Milliseconds: timeout.Milliseconds()}, timeout+s.options.CallTimeout)
	if err != nil {
		return inventory.Watched{}, err
	}
	if a.Watched == nil {
		return inventory.Watched{}, errors.New("the NVML worker answered a watch without what it saw")
	}
	w := *a.Watched
	w.Digest = fmt.Sprintf("%d: %s", number, w.Digest)
	return w, nil
}

// call makes one request. A worker that finds its library replaced is
// exchanged, once.
func (s *Supervisor) call(q request, timeout time.Duration) (answer, uint64, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	start := q.Kind == kindRead
	for try := 0; ; try++ {
		p, err := s.acquire(start)
		if err != nil && (p == nil || !s.awaitExchange(p, timer.C)) {
			return answer{}, 0, err
		}
		if err != nil {
			start = true
			continue
		}
		a, err := p.call(q, timer.C)
		if err != nil {
			if p.exchanged() && s.awaitExchange(p, timer.C) {
				start = true
				continue
			}
			s.settle(p, q.Kind == kindRead)
			return answer{}, 0, err
		}
		if a.Outdated == "" {
			if a.Error != "" {
				return a, p.number, errors.New(a.Error)
			}
			return a, p.number, nil
		}
		cause := error(failuref("nvml_unavailable: %s", a.Outdated))
		if a.Error != "" {
			cause = errors.New(a.Error)
		}
		p.retireForAnother(cause)
		again := p.exchanged() && try < exchangesMost && s.awaitExchange(p, timer.C)
		if !again {
			waitFor(p.reaped, closeGrace)
			s.settle(p, q.Kind == kindRead)
			return answer{}, 0, cause
		}
		start = true
	}
}

// exchangesMost bounds how often one call asks another worker because the
// library was replaced under the one before.
const exchangesMost = 3

// awaitExchange waits for the end of a worker whose place another takes, and
// reports whether that came in time.
func (s *Supervisor) awaitExchange(p *process, deadline <-chan time.Time) bool {
	select {
	case <-p.reaped:
	case <-deadline:
		p.kill()
		return false
	}
	s.settle(p, false)
	return true
}

// settle accounts for the end of a worker; told says that a Read returns it.
func (s *Supervisor) settle(p *process, told bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == p {
		s.account()
		s.unreported = s.unreported && !told
	}
}

// account takes note of the end of the current worker, once. The caller holds
// the lock.
func (s *Supervisor) account() {
	cause, planned := s.process.state()
	if cause == nil || s.accounted {
		return
	}
	s.accounted = true
	s.unreported = !planned
	facts := []any{"reason", cause}
	var f *Failure
	if errors.As(cause, &f) && f.detail != nil {
		facts = append(facts, "detail", f.detail)
	}
	lived := s.options.Now().Sub(s.process.started)
	if lived >= steadyAfter {
		s.inRow = 0
	}
	var delay time.Duration
	if s.process.exchanged() {
		// It did its work until the library was replaced: no failure, whatever
		// befell the workers before it.
		s.last, s.notBefore = cause, s.options.Now()
	} else if delay = s.fail(cause); planned && s.inRow == 1 {
		s.notBefore, delay = s.options.Now(), 0
	}
	s.options.Logger.Warn("the NVML worker ended", append(facts, "restart_after", delay.String())...)
}

// fail sets back the next start. The caller holds the lock.
func (s *Supervisor) fail(cause error) time.Duration {
	s.last = cause
	s.inRow++
	delay := backoff(s.inRow, s.options.BackoffLeast, s.options.BackoffMost, s.options.Jitter())
	s.notBefore = s.options.Now().Add(delay)
	return delay
}

// backoff doubles with each failure in a row, up to most, and is then spread
// over the upper half of that time.
func backoff(inRow int, least, most time.Duration, jitter float64) time.Duration {
	delay := least
	for range inRow - 1 {
		if delay >= most {
			break
		}
		delay *= 2
	}
	delay = min(delay, most)
	return delay/2 + time.Duration(jitter*float64(delay/2))
}

// acquire returns the running worker. One that ends and whose place another
// takes comes with the reason of its end: it is to be waited for. With start it
// starts one where there is none, unless that is to wait or its end is still to
// be told.
func (s *Supervisor) acquire(start bool) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("the NVML worker was closed")
	}
	if s.process != nil {
		cause, _ := s.process.state()
		if cause == nil {
			return s.process, nil
		}
		s.account()
		select {
		case <-s.process.reaped:
		default: // ending; a driver may keep it for long, and two must not be
			if s.process.exchanged() {
				return s.process, cause
			}
			s.unreported = s.unreported && !start
			return nil, cause
		}
	}
	switch {
	case !start && s.last == nil:
		return nil, errNotStarted
	case !start, s.unreported, s.options.Now().Before(s.notBefore):
		s.unreported = s.unreported && !start
		return nil, s.last
	}
	return s.begin()
}

// begin starts a worker. The caller holds the lock.
func (s *Supervisor) begin() (*process, error) {
	o := s.options
	s.number++
	cmd := &exec.Cmd{Path: o.Path, Args: o.Args, Env: o.Env}
	p, err := launch(cmd, &lines{logger: o.Logger, now: o.Now}, s.number, o.Now())
	if err != nil {
		failure := &Failure{reason: "nvml_worker: the process that reads NVML cannot be started: " + innermost(err), detail: err}
		delay := s.fail(failure)
		o.Logger.Error("the NVML worker cannot be started", "error", err, "restart_after", delay.String())
		return nil, failure
	}
	s.process, s.accounted = p, false
	o.Logger.Debug("the NVML worker runs", "pid", p.cmd.Process.Pid)
	return p, nil
}

// innermost is the error its path, which Nomad's users need not know.
func innermost(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// Release ends the worker, and with it this machine's hold on the driver. The
// next Read starts another.
func (s *Supervisor) Release() {
	s.mu.Lock()
	p := s.process
	s.mu.Unlock()
	if p == nil {
		return
	}
	p.retire(failuref("nvml_worker: the driver was released"), true)
	if !waitFor(p.reaped, closeGrace) {
		p.kill()
		waitFor(p.reaped, closeMost)
	}
	s.settle(p, true)
}

// Close ends the worker and waits for its end. One that the kernel cannot end
// within closeMost is left to the parent-death signal.
func (s *Supervisor) Close() {
	s.mu.Lock()
	s.closed = true
	p := s.process
	s.mu.Unlock()
	if p == nil {
		return
	}
	p.retire(errors.New("the NVML worker was closed"), true)
	if waitFor(p.reaped, closeGrace) {
		return
	}
	p.kill()
	if !waitFor(p.reaped, closeMost) {
		s.options.Logger.Warn("the NVML worker cannot be ended; it ends when the driver lets it", "pid", p.cmd.Process.Pid)
	}
}

func waitFor(done <-chan struct{}, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
