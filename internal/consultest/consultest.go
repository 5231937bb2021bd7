package consultest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// startTimeout is how long a server may take to elect itself. It takes about
	// two seconds on an idle machine.
	startTimeout = 60 * time.Second
	// stopTimeout is how long a server may take to end before it is killed.
	stopTimeout = 10 * time.Second
)

// Server is one Consul server. Its methods are for one goroutine at a time.
type Server struct {
	// Addr is the address of the HTTP API, "127.0.0.1:port". It stays the same
	// over Stop and Start.
	Addr string

	tb    testing.TB
	bin   string
	dir   string
	extra []string
	ports ports
	proc  *process
}

type ports struct{ http, rpc, serf int }

// Start starts a server and waits until it answers consistent reads. The server
// ends with the test. Without a Consul binary the test is skipped, or fails
// when the environment variable CI is set. Further arguments go to
// `consul agent`.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	bin, err := Find()
	if err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatalf("this test needs a real Consul: %v", err)
		}
		tb.Skipf("this test needs a real Consul: %v", err)
	}
	s := &Server{tb: tb, bin: bin, dir: tb.TempDir(), extra: args}
	tb.Cleanup(s.Stop)
	// Free ports are only known to be free until someone else takes them.
	for attempt := 1; ; attempt++ {
		if s.ports, err = freePorts(); err != nil {
			tb.Fatalf("find free ports for consul: %v", err)
		}
		s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.ports.http))
		if err = s.start(); err == nil {
			return s
		}
		s.Stop()
		if attempt == 3 {
			tb.Fatalf("start consul: %v", err)
		}
	}
}

// Find returns the path of a Consul binary: CONSUL_BIN, then consul in PATH,
// then the cache in which `make tools` keeps what it builds.
func Find() (string, error) {
	if bin := os.Getenv("CONSUL_BIN"); bin != "" {
		return bin, nil
	}
	if bin, err := exec.LookPath("consul"); err == nil {
		return bin, nil
	}
	cache := os.Getenv("GOVERNOR_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find the cache directory: %w", err)
		}
		cache = filepath.Join(base, "governor-tools")
	}
	for _, name := range []string{"consul-1.22.5", "consul"} {
		bin := filepath.Join(cache, name)
		if info, err := os.Stat(bin); err == nil && info.Mode().IsRegular() {
			return bin, nil
		}
	}
	return "", fmt.Errorf("no consul in CONSUL_BIN, PATH or %s: run `make tools`", cache)
}

// Start starts a stopped server again, with its data and on its address.
func (s *Server) Start() {
	s.tb.Helper()
	if s.proc != nil {
		s.tb.Fatal("start consul: it is running")
	}
	if err := s.start(); err != nil {
		s.tb.Fatalf("start consul again: %v", err)
	}
}

// Stop ends the server and keeps its data. Stopping twice is no error.
func (s *Server) Stop() {
	if s.proc == nil {
		return
	}
	s.proc.signal(syscall.SIGCONT)
	s.proc.signal(syscall.SIGTERM)
	select {
	case <-s.proc.done:
	case <-time.After(stopTimeout):
		s.proc.signal(syscall.SIGKILL)
		<-s.proc.done
	}
	s.proc = nil
}

// Pause freezes the server: connections open but nothing answers, as behind a
// partition. Resume or Stop ends it. When Pause returns, the server has stopped:
// the kernel delivers the signal to its threads one by one, and until then a
// request could still be answered.
func (s *Server) Pause() {
	s.proc.signal(syscall.SIGSTOP)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if stopped(s.proc.handle.Pid) {
			return
		}
	}
}

// stopped reports whether every thread of a process has stopped, by
// /proc/<pid>/task/<tid>/stat, whose third field then is T.
func stopped(pid int) bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // the thread has ended
		}
		_, state, _ := strings.Cut(string(text), ") ")
		if !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return true
}

// Resume lets a paused server go on.
func (s *Server) Resume() { s.proc.signal(syscall.SIGCONT) }

func (s *Server) start() error {
	args := []string{
		"agent", "-server", "-bootstrap-expect=1", "-data-dir=" + filepath.Join(s.dir, "data"), "-node=test",
		"-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn",
		"-http-port=" + strconv.Itoa(s.ports.http), "-server-port=" + strconv.Itoa(s.ports.rpc),
		"-serf-lan-port=" + strconv.Itoa(s.ports.serf), "-serf-wan-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-dns-port=-1",
		// Elections at the speed for production hardware, not the patient default.
		"-hcl=performance { raft_multiplier = 1 }", "-hcl=disable_update_check = true",
	}
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.bin, append(args, s.extra...)...)
	cmd.Stdout, cmd.Stderr = log, log
	// The settings of whoever runs the tests are not this server's.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
	if s.proc, err = launch(cmd); err != nil {
		return err
	}
	return s.await()
}

// await polls a consistent read, which only a server that leads can answer.
func (s *Server) await() error {
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	deadline := time.Now().Add(startTimeout)
	for {
		err := probe(client, "http://"+s.Addr+"/v1/kv/ready?consistent")
		if err == nil {
			return nil
		}
		select {
		case <-s.proc.done:
			return fmt.Errorf("consul ended: %w\n%s", s.proc.err, s.logTail())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("consul was not ready within %v: %w\n%s", startTimeout, err, s.logTail())
		}
	}
}

func probe(client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	// Forbidden is an answer too: the server checks tokens and has a leader.
	switch response.StatusCode {
	case http.StatusOK, http.StatusNotFound, http.StatusForbidden:
		return nil
	}
	return fmt.Errorf("status %d: %s", response.StatusCode, bytes.TrimSpace(body))
}

func (s *Server) logPath() string { return filepath.Join(s.dir, "consul.log") }

func (s *Server) logTail() string {
	text, err := os.ReadFile(s.logPath())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

func freePorts() (p ports, err error) {
	var listeners []net.Listener
	for _, port := range []*int{&p.http, &p.rpc, &p.serf} {
		l, listenErr := net.Listen("tcp", "127.0.0.1:0")
		if listenErr != nil {
			err = listenErr
			break
		}
		listeners = append(listeners, l)
		*port = l.Addr().(*net.TCPAddr).Port
	}
	for _, l := range listeners {
		err = errors.Join(err, l.Close())
	}
	return p, err
}
