package worker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"
	"go.uber.org/goleak"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// The test program is also the worker that a test starts, and once a
// supervisor, by its first argument.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == Argument {
		os.Exit(pretend(os.Args[2]))
	}
	if len(os.Args) == 3 && os.Args[1] == "supervise" {
		os.Exit(supervise(os.Args[2]))
	}
	goleak.VerifyTestMain(m)
}

// node is a reader whose faults are files in its directory, which outlive the
// worker: "hang", "crash", "outdated", "mismatch", "absent",
// "quiet" (no XID comes).
type node struct{ dir string }

func (n node) has(name string) bool {
	_, err := os.Stat(filepath.Join(n.dir, name))
	return err == nil
}

func (n node) enter() error {
	if n.has("crash") {
		fmt.Fprintln(os.Stderr, "symbol lookup error: undefined symbol: nvmlDeviceGetWheels")
		os.Exit(127)
	}
	for n.has("hang") {
		time.Sleep(time.Millisecond)
	}
	if n.has("absent") {
		return errors.New("NVML library not found")
	}
	if n.has("mismatch") {
		return errMismatch
	}
	return nil
}

var errMismatch = errors.New("version differs")

func full() inventory.Readings {
	return inventory.Readings{DriverVersion: "550", CUDAVersion: "12.4",
		GPUs: []inventory.GPU{{Index: 1, UUID: "GPU-1", Name: "Card", MemoryMiB: inventory.Known[int64](5),
			ECC: inventory.Known(false), LinksKnown: true,
			Links: []inventory.Link{{Active: true, Remote: inventory.RemoteSwitch, SpeedMBps: 7, Version: "4.0"}}}, {Index: 2, Failure: "gpu_lost"}},
		Paths: []inventory.Path{{A: "GPU-1", B: "GPU-2", Level: topology.Path(2)}}}
}

func (n node) Read() (inventory.Readings, error) {
	if err := n.enter(); err != nil {
		return inventory.Readings{}, err
	}
	return full(), nil
}

func (n node) Probe() (string, error) { return "same", n.enter() }

func (n node) Sample() ([]inventory.Sample, error) {
	err := n.enter()
	return []inventory.Sample{{UUID: "GPU-1", TemperatureC: inventory.Known[int64](int64(os.Getpid()))}}, err
}

func (n node) Wait(timeout time.Duration) ([]inventory.Event, bool, error) {
	if n.has("xid") {
		return []inventory.Event{{UUID: "GPU-1", XID: 79}}, false, nil
	}
	time.Sleep(timeout)
	for n.has("quiet") {
		time.Sleep(time.Millisecond)
	}
	return nil, false, nil
}

func (n node) Outdated(err error) string {
	if errors.Is(err, errMismatch) {
		return "mismatch"
	}
	// The library counts as replaced for the worker that was there before.
	if raw, _ := os.ReadFile(filepath.Join(n.dir, "outdated")); string(raw) == strconv.Itoa(os.Getpid()) {
		return "the driver's library was replaced"
	}
	return ""
}

// pretend is a worker; those that misbehave in a way that no reader can are
// told apart by a file.
func pretend(dir string) int {
	requests, answers, err := Pipes()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	n := node{dir}
	for i := range 3 * linesPerPeriod {
		if n.has("chatter") {
			fmt.Fprintln(os.Stderr, "line", i, strings.Repeat("x", 2*lineBytesMost))
		}
	}
	var garbage []byte
	switch {
	case n.has("noise"):
		garbage = []byte("Segmentation fault, or so\n")
	case n.has("large"):
		garbage = []byte{0xff, 0xff, 0xff, 0xff}
	case n.has("notjson"):
		garbage = []byte{0, 0, 0, 2, '{', '['}
	case n.has("stranger"):
		garbage = append([]byte{0, 0, 0, 9}, `{"ID":77}`...)
	}
	if garbage != nil {
		_, _ = answers.Write(garbage) // the supervisor may be gone
		_, _ = io.Copy(io.Discard, requests)
		time.Sleep(time.Hour) // to be killed
	}
	if n.has("child") { // a program that the library starts, and leaves
		if err := exec.Command("sleep", "3600").Start(); err != nil {
			return 1
		}
	}
	if err := Serve(n, requests, answers); err != nil {
		return 1
	}
	return 0
}

// supervise reads once, prints the worker's process, and stays.
func supervise(dir string) int {
	s := New(options(dir, hclog.NewNullLogger()))
	if _, err := s.Read(); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(s.process.cmd.Process.Pid)
	time.Sleep(time.Hour)
	return 0
}

func options(dir string, logger hclog.Logger) Options {
	return Options{Path: os.Args[0], Args: []string{os.Args[0], Argument, dir}, CallTimeout: 30 * time.Second,
		BackoffLeast: 10 * time.Millisecond, BackoffMost: 50 * time.Millisecond,
		Jitter: func() float64 { return 0.5 }, Now: time.Now, Logger: logger}
}

// start returns a supervisor of a node. Its end checks that no process remains.
func start(t *testing.T, change func(*Options)) (*Supervisor, func(fault string, on bool)) {
	t.Helper()
	dir := t.TempDir()
	o := options(dir, hclog.NewNullLogger())
	if change != nil {
		change(&o)
	}
	s := New(o)
	t.Cleanup(func() {
		s.Close()
		_, err := s.Read()
		must.ErrorContains(t, err, "closed")
		if s.process != nil {
			groupEnded(t, s.process.cmd.Process.Pid)
		}
	})
	return s, func(fault string, on bool) {
		t.Helper()
		path := filepath.Join(dir, fault)
		if on {
			must.NoError(t, os.WriteFile(path, nil, 0o644))
		} else {
			must.NoError(t, os.Remove(path))
		}
	}
}

func pid(t *testing.T, s *Supervisor) int {
	t.Helper()
	samples, err := s.Sample()
	must.NoError(t, err)
	return int(samples[0].TemperatureC.Value)
}

// eventually waits until a read succeeds.
func eventually(t *testing.T, s *Supervisor) {
	t.Helper()
	must.Wait(t, wait.InitialSuccess(wait.ErrorFunc(func() error {
		_, err := s.Read()
		return err
	}), wait.Timeout(time.Minute), wait.Gap(5*time.Millisecond)))
}

func ended(t *testing.T, pid int) {
	t.Helper()
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		// An orphan may stay a zombie where nobody reaps for init.
		return err != nil || strings.Contains(string(raw), ") Z ")
	}), wait.Timeout(time.Minute), wait.Gap(5*time.Millisecond)))
}

// group lists the living processes of a group.
func group(t *testing.T, id int) []string {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must.NoError(t, err)
	var members []string
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(raw), ") ") // state, parent, group
		if fields := strings.Fields(rest); len(fields) > 2 && fields[0] != "Z" && fields[2] == strconv.Itoa(id) {
			members = append(members, path)
		}
	}
	return members
}

func groupEnded(t *testing.T, id int) {
	t.Helper()
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool { return len(group(t, id)) == 0 }),
		wait.Timeout(time.Minute), wait.Gap(5*time.Millisecond)))
}

// probe is the digest of a watch that does not wait.
func probe(s *Supervisor) (string, error) {
	w, err := s.Watch(0)
	return w.Digest, err
}

func TestAnswersArriveWhole(t *testing.T) {
	t.Parallel()
	s, set := start(t, nil)
	_, err := s.Sample()
	must.EqError(t, err, "nvml_worker: the process that reads NVML is not running yet")
	got, err := s.Read()
	must.NoError(t, err)
	must.Eq(t, full(), got)
	digest, err := probe(s)
	must.NoError(t, err)
	must.Eq(t, "1: same", digest)
	must.NotEq(t, os.Getpid(), pid(t, s))
	w, err := s.Watch(10 * time.Millisecond)
	must.NoError(t, err)
	must.Eq(t, inventory.Watched{Digest: digest}, w)
	set("xid", true)
	w, err = s.Watch(time.Hour)
	must.NoError(t, err)
	must.Eq(t, []inventory.Event{{UUID: "GPU-1", XID: 79}}, w.Events)
	set("absent", true)
	_, err = s.Read()
	must.EqError(t, err, "NVML library not found")
	set("absent", false)
	before := pid(t, s)
	eventually(t, s)
	must.Eq(t, before, pid(t, s), must.Sprint("an error of NVML's is no reason to end the worker"))
}

func TestWaitingForAnXIDDoesNotDelayOtherCalls(t *testing.T) {
	t.Parallel()
	s, set := start(t, nil)
	eventually(t, s)
	set("quiet", true)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := s.Watch(time.Millisecond)
		must.NoError(t, err)
	})
	_, err := s.Sample()
	must.NoError(t, err)
	set("quiet", false)
	wg.Wait()
}

// Each fault is told by the next Read, whoever met it first, and is gone by
// itself once its cause is.
func TestEndOfAWorkerIsToldOnceAndAnotherStarts(t *testing.T) {
	t.Parallel()
	const garbage = "nvml_worker: the process that reads NVML wrote something that is not an answer"
	for name, tc := range map[string]struct {
		fault   string
		timeout time.Duration
		want    string
	}{
		"killed":                     {"", 0, "nvml_worker: the process that reads NVML ended (signal: killed)"},
		"crash, missing symbol":      {"crash", 0, "nvml_worker: the process that reads NVML ended (exit status 127)"},
		"hang":                       {"hang", 2 * time.Second, "nvml_hang: a call into the driver does not return"},
		"noise":                      {"noise", 0, garbage},
		"frame that is too large":    {"large", 0, garbage},
		"frame without a document":   {"notjson", 0, garbage},
		"answer to nobody's request": {"stranger", 0, garbage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, set := start(t, func(o *Options) {
				if tc.timeout > 0 {
					o.CallTimeout = tc.timeout
				}
			})
			eventually(t, s)
			first := pid(t, s)
			if tc.fault != "" {
				set(tc.fault, true)
			}
			switch tc.fault {
			case "crash", "hang":
				_, err := probe(s)
				must.EqError(t, err, tc.want)
			default:
				must.NoError(t, syscall.Kill(first, syscall.SIGKILL))
				ended(t, first)
			}
			_, err := s.Read()
			if tc.fault == "" || tc.fault == "crash" || tc.fault == "hang" {
				var reasoned interface{ Reason() string }
				must.True(t, errors.As(err, &reasoned))
				must.Eq(t, tc.want, reasoned.Reason())
			}
			if tc.fault != "" {
				must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool {
					_, err := s.Read()
					return err != nil && err.Error() == tc.want
				}), wait.Timeout(time.Minute), wait.Gap(5*time.Millisecond)))
				set(tc.fault, false)
			}
			eventually(t, s)
			must.NotEq(t, first, pid(t, s))
			ended(t, first)
			digest, err := probe(s)
			must.NoError(t, err)
			must.NotEq(t, "1: same", digest, must.Sprint("another worker calls for a read"))
		})
	}
}

func TestWorkerThatCannotStartIsTriedAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "program")
	s, _ := start(t, func(o *Options) { o.Path = path })
	for range 3 {
		_, err := s.Read()
		must.EqError(t, err, "nvml_worker: the process that reads NVML cannot be started: no such file or directory")
	}
	must.NoError(t, os.Symlink(os.Args[0], path))
	eventually(t, s)
}

func TestStartsAreSpacedByTheBackoff(t *testing.T) {
	t.Parallel()
	clock := time.Unix(0, 0)
	s, set := start(t, func(o *Options) {
		o.Now = func() time.Time { return clock }
		o.BackoffLeast, o.BackoffMost = time.Second, 4*time.Second
	})
	set("crash", true)
	for i, delay := range []time.Duration{750 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second, 3 * time.Second} {
		_, err := s.Read()
		must.ErrorContains(t, err, "exit status 127")
		must.Eq(t, uint64(i+1), s.number)
		clock = clock.Add(delay - 1)
		_, err = s.Read()
		must.ErrorContains(t, err, "exit status 127")
		must.Eq(t, uint64(i+1), s.number, must.Sprint("started too soon"))
		clock = clock.Add(1)
		must.True(t, waitFor(s.process.reaped, time.Minute))
	}
	set("crash", false)
	eventually(t, s)
	clock = clock.Add(steadyAfter)
	must.NoError(t, syscall.Kill(s.process.cmd.Process.Pid, syscall.SIGKILL))
	must.True(t, waitFor(s.process.reaped, time.Minute))
	_, err := s.Read()
	must.ErrorContains(t, err, "killed")
	must.Eq(t, 1, s.inRow)
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	must.Eq(t, 500*time.Millisecond, backoff(1, time.Second, 30*time.Second, 0))
	must.Eq(t, 20*time.Second, backoff(6, time.Second, 20*time.Second, 1))
	must.Eq(t, 15*time.Second, backoff(1<<30, time.Second, 30*time.Second, 0))
}

func TestProgramsThatTheLibraryStartedEndWithTheWorker(t *testing.T) {
	t.Parallel()
	s, set := start(t, nil)
	set("child", true)
	eventually(t, s)
	must.Len(t, 2, group(t, s.process.cmd.Process.Pid))
	must.NoError(t, syscall.Kill(s.process.cmd.Process.Pid, syscall.SIGKILL))
	must.True(t, waitFor(s.process.reaped, time.Minute))
	groupEnded(t, s.process.cmd.Process.Pid)
}

// Also a worker that hangs ends with its supervisor: by the signal.
func TestWorkerEndsWithItsSupervisor(t *testing.T) {
	t.Parallel()
	for _, stopped := range []bool{false, true} {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "supervise", dir)
		out, err := cmd.StdoutPipe()
		must.NoError(t, err)
		must.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		must.NoError(t, err)
		worker, err := strconv.Atoi(strings.TrimSpace(line))
		must.NoError(t, err, must.Sprint(line))
		if stopped {
			must.NoError(t, syscall.Kill(worker, syscall.SIGSTOP))
		}
		must.NoError(t, cmd.Process.Kill())
		must.Error(t, cmd.Wait())
		ended(t, worker)
	}
}

func TestWhatTheWorkerSaysIsLoggedWithinBounds(t *testing.T) {
	t.Parallel()
	var buffer bytes.Buffer
	s, set := start(t, func(o *Options) { o.Logger = hclog.New(&hclog.LoggerOptions{Output: &buffer}) })
	set("chatter", true)
	eventually(t, s)
	s.Close()
	log := buffer.String()
	must.StrContains(t, log, "line 0 xxx")
	must.Eq(t, linesPerPeriod, strings.Count(log, "the NVML worker says"))
	must.StrContains(t, log, "lines_left_out=120")
	must.Less(t, linesPerPeriod*(lineBytesMost+200), len(log))
}

func TestWorkerOfNobodySaysSo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, os.Args[0], Argument, t.TempDir()).CombinedOutput()
	must.Error(t, err)
	must.StrContains(t, string(out), "is not a pipe: nvml-worker is for the plugin's own use")
}

func TestManyFaultsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	s, _ := start(t, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				_, _ = s.Read() // may meet the end of a worker
				_, _ = s.Sample()
				_, _ = s.Watch(time.Millisecond)
				runtime.Gosched()
			}
		})
	}
	for range 20 {
		eventually(t, s)
		s.mu.Lock()
		p := s.process
		s.mu.Unlock()
		p.kill()
	}
	wg.Wait()
	eventually(t, s)
}

func FuzzReadFrame(f *testing.F) {
	var frame bytes.Buffer
	readings := full()
	must.NoError(f, writeFrame(&frame, answer{ID: 3, Readings: &readings, Watched: &inventory.Watched{Digest: "x"}}, answerBytesMost))
	f.Add(frame.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var a answer
		if readFrame(bytes.NewReader(raw), &a, 1<<16) != nil {
			return
		}
		var again bytes.Buffer
		must.NoError(t, writeFrame(&again, a, 1<<20))
		var b answer
		must.NoError(t, readFrame(&again, &b, 1<<20))
		must.Eq(t, a.ID, b.ID)
		must.Eq(t, a.Watched, b.Watched)
	})
}
