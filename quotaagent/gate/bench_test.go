package gate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/load"
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
	return NewFront(context.Background(), NewServer(g)).Serve(listener)
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
			reply(w, map[string]any{"JobModifyIndex": 0, "Warnings": "", "FailedTGAllocs": nil})
		default:
			_, _ = w.Write(read)
		}
	}))
	b.Cleanup(s.Close)
	return s
}

// BenchmarkBesideNginx compares the gate with nginx as a reverse proxy, in turns in
// one run: small reads, and plans of a GPU job, which the gate also reads, looks up,
// decides and changes.
func BenchmarkBesideNginx(b *testing.B) {
	nomad := quickNomad(b)
	gate, _ := startGate(b, nomad.URL)
	nginx, stop, err := load.StartNginx(b.TempDir(), nomad.URL)
	if errors.Is(err, load.ErrNoNginx) {
		b.Skip(err)
	}
	must.NoError(b, err)
	defer stop()
	for name, request := range map[string]load.Request{
		"read": {Method: "GET", Path: "/v1/jobs"}, "plan": {Method: "PUT", Path: "/v1/job/train/plan", Body: `{"Job":` + gpuJob + `,"Diff":true}`},
	} {
		b.Run(name, func(b *testing.B) {
			measure := func(address string) load.Result {
				r, err := load.Measure(address, 8, 2000, func(int) load.Request { return request })
				must.NoError(b, err)
				return r
			}
			var ours, theirs, direct []float64
			var slow, without []time.Duration
			for b.Loop() {
				d, t, o := measure(nomad.URL), measure(nginx), measure(gate)
				ours, theirs, direct = append(ours, o.PerSecond), append(theirs, t.PerSecond), append(direct, d.PerSecond)
				slow, without = append(slow, o.P99), append(without, d.P99)
			}
			b.ReportMetric(load.Median(ours), "gate/s")
			b.ReportMetric(load.Median(theirs), "nginx/s")
			b.ReportMetric(load.Median(direct), "direct/s")
			b.ReportMetric(load.Median(ours)/load.Median(theirs), "of-nginx")
			b.ReportMetric(float64(load.Median(slow)-load.Median(without))/1e6, "ms-p99-added")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkIdleBlockingQueries tells how much memory a gate has that holds as many
// blocking queries as a hard limit of 20,000 files lets it, in its own process.
func BenchmarkIdleBlockingQueries(b *testing.B) {
	raiseFiles()
	const queries = 9_950 // two sockets each
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
