package gate

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// gateEnv makes the test binary a gate in front of the address that it holds.
const gateEnv = "GOVERNOR_BENCH_GATE"

// serveGate is the gate's own process, so that its memory is its own.
func serveGate(nomad string) error {
	raiseFiles()
	address, err := url.Parse(nomad)
	if err != nil {
		return err
	}
	transport, err := NewTransport(TLS{})
	if err != nil {
		return err
	}
	verdict := Verdict{Patch: jobspec.Patch{Groups: []jobspec.GroupPatch{{Group: "g", Constraints: []jobspec.Constraint{{LTarget: "${node.unique.id}", Operand: "set_contains_any", RTarget: "n1,n2"}}}}}}
	g, err := New(Config{Nomad: address, Transport: transport, Region: "global", Admitter: &constant{verdict}})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + listener.Addr().String())
	return NewServer(g).Serve(listener)
}

// raiseFiles lets the process have two sockets for each query.
func raiseFiles() {
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 20000, Max: 20000})
}

// startGate runs a gate until the end of the benchmark.
func startGate(b *testing.B, nomad string) (address string, pid int) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), gateEnv+"="+nomad)
	out, err := cmd.StdoutPipe()
	must.NoError(b, err)
	must.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	must.NoError(b, err)
	return strings.TrimSpace(line), cmd.Process.Pid
}

// startNginx runs the peer; "" when it is not installed.
func startNginx(b *testing.B, nomad string) string {
	b.Helper()
	binary, err := exec.LookPath("nginx")
	if err != nil {
		return ""
	}
	dir := b.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(b, err)
	address := listener.Addr().String()
	must.NoError(b, listener.Close())
	config := fmt.Sprintf(`daemon off; pid %[1]s/pid; error_log %[1]s/error.log; worker_processes auto;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  keepalive_requests 1000000;
  upstream nomad { server %[2]s; keepalive 64; keepalive_requests 1000000; }
  server { listen %[3]s; location / { proxy_pass http://nomad; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_buffering off; } }
}`, dir, strings.TrimPrefix(nomad, "http://"), address)
	path := filepath.Join(dir, "nginx.conf")
	must.NoError(b, os.WriteFile(path, []byte(config), 0o600))
	cmd := exec.Command(binary, "-c", path, "-p", dir)
	must.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for range 100 {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			return "http://" + address
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.Fatal("nginx does not listen")
	return ""
}

// constant admits everything in the same way.
type constant struct{ verdict Verdict }

func (c *constant) Admit(context.Context, Submission) (Verdict, error) { return c.verdict, nil }

// quickNomad answers at once with what a small read and a plan are.
func quickNomad(b *testing.B) *httptest.Server {
	read := bytes.Repeat([]byte(`{"ID":"train","Status":"running"},`), 30)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path == "/v1/acl/token/self":
			reply(w, api.ACLToken{AccessorID: "acls-disabled"})
		case r.URL.Path == "/v1/job/train":
			http.NotFound(w, r)
		case strings.HasSuffix(r.URL.Path, "/plan"):
			_, _ = io.Copy(io.Discard, r.Body)
			reply(w, map[string]any{"JobModifyIndex": 5, "Warnings": "", "FailedTGAllocs": nil})
		default:
			_, _ = w.Write(read)
		}
	}))
	b.Cleanup(s.Close)
	return s
}

// measure sends n requests from 8 clients and tells how many there were in a second
// and how long the slowest hundredth took.
func measure(b *testing.B, address, method, path, body string, n int) (rate float64, p99 time.Duration) {
	b.Helper()
	const clients = 8
	transport := &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	took := make([]time.Duration, n)
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	began := time.Now()
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for i := range next {
				start := time.Now()
				r, err := http.NewRequest(method, address+path, strings.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				response, err := transport.RoundTrip(r)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if response.StatusCode != http.StatusOK {
					b.Errorf("%s %s: %s", method, path, response.Status)
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	group.Wait()
	rate = float64(n) / time.Since(began).Seconds()
	slices.Sort(took)
	return rate, took[n*99/100]
}

// BenchmarkBesideNginx compares the gate with nginx as a reverse proxy, in turns in
// one run: small reads, and plans of a GPU job, which the gate also reads, looks up,
// decides and changes.
func BenchmarkBesideNginx(b *testing.B) {
	nomad := quickNomad(b)
	gate, _ := startGate(b, nomad.URL)
	nginx := startNginx(b, nomad.URL)
	if nginx == "" {
		b.Skip("nginx is not installed: apt-get install nginx-light")
	}
	for name, c := range map[string]struct{ method, path, body string }{
		"read": {"GET", "/v1/jobs", ""}, "plan": {"PUT", "/v1/job/train/plan", `{"Job":` + gpuJob + `,"Diff":true}`},
	} {
		b.Run(name, func(b *testing.B) {
			const turn = 2000
			var ours, theirs, direct []float64
			var slow, without []time.Duration
			for b.Loop() {
				d, dp := measure(b, nomad.URL, c.method, c.path, c.body, turn)
				t, _ := measure(b, nginx, c.method, c.path, c.body, turn)
				o, op := measure(b, gate, c.method, c.path, c.body, turn)
				ours, theirs, direct, slow, without = append(ours, o), append(theirs, t), append(direct, d), append(slow, op), append(without, dp)
			}
			b.ReportMetric(median(ours), "gate/s")
			b.ReportMetric(median(theirs), "nginx/s")
			b.ReportMetric(median(direct), "direct/s")
			b.ReportMetric(median(ours)/median(theirs), "of-nginx")
			b.ReportMetric(float64(median(slow)-median(without))/1e6, "ms-p99-added")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median[T float64 | time.Duration](all []T) T {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkIdleBlockingQueries tells how much memory a gate has that holds nine
// thousand blocking queries, in its own process.
func BenchmarkIdleBlockingQueries(b *testing.B) {
	raiseFiles()
	const queries = 9_000 // two sockets each, below a hard limit of 20,000 files
	release, waiting := make(chan struct{}), make(chan struct{}, queries)
	nomad := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, _ *http.Request) {
		waiting <- struct{}{}
		<-release
	}))
	defer nomad.Close()
	defer close(release)
	gate, pid := startGate(b, nomad.URL)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range queries {
		c, err := net.Dial("tcp", strings.TrimPrefix(gate, "http://"))
		must.NoError(b, err)
		conns = append(conns, c)
		_, err = io.WriteString(c, "GET /v1/jobs?index=1&wait=300s HTTP/1.1\r\nHost: nomad\r\nAccept-Encoding: gzip\r\nX-Nomad-Token: x\r\n\r\n")
		must.NoError(b, err)
	}
	for range queries {
		select {
		case <-waiting:
		case <-time.After(20 * time.Second):
			b.Fatal("not all queries came through the gate: see ulimit -n")
		}
	}
	for b.Loop() {
		b.ReportMetric(residentMB(b, pid), "MB-RSS")
	}
	b.ReportMetric(0, "ns/op")
}

func residentMB(b *testing.B, pid int) float64 {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must.NoError(b, err)
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	must.NoError(b, err)
	return float64(kb) / 1024
}
