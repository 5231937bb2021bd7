package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/internal/certtest"
	"github.com/nomad-governor/governor/quotaagent/gate"
)

// slowNomad answers what an agent asks when it starts. Reads with an index block until
// their client leaves, and a stopped allocation until it is released.
type slowNomad struct {
	*httptest.Server
	entered chan string
	release chan struct{}
}

func newSlowNomad(t *testing.T) *slowNomad {
	n := &slowNomad{entered: make(chan string, 10), release: make(chan struct{})}
	n.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v1/regions":
			fmt.Fprint(w, `["global"]`)
		case r.URL.Path == "/v1/jobs" && r.URL.Query().Get("index") == "7":
			n.entered <- "read"
			<-r.Context().Done()
		case strings.HasSuffix(r.URL.Path, "/stop"):
			n.entered <- "write"
			select {
			case <-n.release:
				fmt.Fprint(w, `{"EvalID": "e"}`)
			case <-r.Context().Done():
			}
		default:
			stubNomad(w, r)
		}
	}))
	t.Cleanup(func() {
		n.CloseClientConnections()
		n.Close()
	})
	return n
}

// process is an agent as a process of its own.
type process struct {
	cmd     *exec.Cmd
	address string
	client  *http.Client
	done    chan struct{}
	mu      sync.Mutex
	log     bytes.Buffer
}

func (p *process) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(text)
}

func (p *process) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// startProcess runs `governor agent` until the test ends. The certificate is of ca;
// nil means no TLS.
func startProcess(t *testing.T, nomad string, ca *certtest.Authority, config string) *process {
	t.Helper()
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	host := reserved.Addr().String()
	must.NoError(t, reserved.Close())
	dir := t.TempDir()
	text := fmt.Sprintf("bind = %q\ndata_dir = %q\ndev = true\nnomad {\n  address = %q\n  token = \"root\"\n}\n%s", host, dir, nomad, config)
	p := &process{address: "http://" + host, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, done: make(chan struct{})}
	if ca != nil {
		pool := x509.NewCertPool()
		pem, err := os.ReadFile(ca.File)
		must.NoError(t, err)
		must.True(t, pool.AppendCertsFromPEM(pem))
		p.address = "https://" + host
		p.client.Transport = &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	}
	file := filepath.Join(dir, "agent.hcl")
	must.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	p.cmd = exec.Command("governor", "agent", "-config="+file) // the test's own binary: see TestMain
	p.cmd.Stdout, p.cmd.Stderr = p, p
	must.NoError(t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	p.eventually(t, "serves", func() bool { return p.status("GET", "/governor/v1/health") == http.StatusOK })
	return p
}

func (p *process) eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s\n%s", what, p.logged())
		}
	}
}

// status is the code of an answer, 0 for none.
func (p *process) status(method, path string) int {
	r, err := http.NewRequest(method, p.address+path, nil)
	if err != nil {
		return 0
	}
	response, err := p.client.Do(r)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

func (p *process) refuses() bool {
	conn, err := net.Dial("tcp", p.address[strings.LastIndex(p.address, "/")+1:])
	if err == nil {
		_ = conn.Close()
	}
	return err != nil
}

func (p *process) ended(t *testing.T, within time.Duration) *os.ProcessState {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		t.Fatalf("the agent has not ended in %s\n%s", within, p.logged())
	}
	return p.cmd.ProcessState
}

func TestTheAgentStopsWhenItsWorkIsDone(t *testing.T) {
	t.Parallel()
	n := newSlowNomad(t)
	p := startProcess(t, n.URL, nil, "")
	read, written := make(chan int, 1), make(chan int, 1)
	go func() { read <- p.status("GET", "/v1/jobs?index=7") }()
	go func() { written <- p.status("PUT", "/v1/allocation/a/stop") }()
	<-n.entered
	<-n.entered
	must.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	p.eventually(t, "new connections are refused", p.refuses)
	select {
	case code := <-read:
		must.Eq(t, http.StatusBadGateway, code)
	case <-time.After(15 * time.Second):
		t.Fatal("a blocking query was not cut")
	}
	select {
	case <-p.done:
		t.Fatal("the agent has not waited for a write")
	case <-time.After(time.Second):
	}
	close(n.release)
	must.Eq(t, http.StatusOK, <-written)
	must.Eq(t, 0, p.ended(t, 10*time.Second).ExitCode(), must.Sprint(p.logged()))
}

func TestSystemdHearsWhenTheAgentServes(t *testing.T) {
	dir, err := os.MkdirTemp("", "notify") // a short path: sockets have at most 108 bytes
	must.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must.NoError(t, err)
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	n := newSlowNomad(t)
	p := startProcess(t, n.URL, nil, "")
	said := make([]byte, 64)
	must.NoError(t, socket.SetReadDeadline(time.Now().Add(10*time.Second)))
	length, err := socket.Read(said)
	must.NoError(t, err, must.Sprint(p.logged()))
	must.Eq(t, "READY=1", string(said[:length]))
}

func TestASecondSignalEndsTheAgentAtOnce(t *testing.T) {
	t.Parallel()
	n := newSlowNomad(t)
	p := startProcess(t, n.URL, nil, "")
	go p.status("PUT", "/v1/allocation/a/stop")
	<-n.entered
	must.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	p.eventually(t, "new connections are refused", p.refuses)
	must.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	status, ok := p.ended(t, 2*time.Second).Sys().(syscall.WaitStatus)
	must.True(t, ok)
	must.True(t, status.Signaled())
	must.Eq(t, syscall.SIGTERM, status.Signal())
}

func TestAnAgentThatStillWaitsForNomadStops(t *testing.T) {
	t.Parallel()
	n := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(n.Close)
	p := &process{done: make(chan struct{})}
	p.cmd = exec.Command("governor", "agent", "-dev", "-data-dir="+t.TempDir(), "-bind=127.0.0.1:0", "-nomad="+n.URL)
	p.cmd.Stderr = p
	must.NoError(t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.done })
	p.eventually(t, "waits for Nomad", func() bool { return strings.Contains(p.logged(), "waiting for nomad") })
	must.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	must.Eq(t, 0, p.ended(t, 10*time.Second).ExitCode(), must.Sprint(p.logged()))
}

func TestHangupReadsTheCertificatesAnew(t *testing.T) {
	t.Parallel()
	n := newSlowNomad(t)
	dir := t.TempDir()
	ca := certtest.New(t, dir, "ca")
	pair := ca.Server(t, "gate")
	p := startProcess(t, n.URL, ca, fmt.Sprintf("tls {\n  cert_file = %q\n  key_file = %q\n}\n", pair.Cert, pair.Key))
	serial := func() string {
		response, err := p.client.Get(p.address + "/governor/v1/health")
		must.NoError(t, err)
		defer response.Body.Close()
		return response.TLS.PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	ca.Server(t, "gate")
	must.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	p.eventually(t, "reloads", func() bool { return strings.Contains(p.logged(), "certificates reloaded") })
	must.NotEq(t, before, serial())
	must.NoError(t, os.WriteFile(pair.Cert, nil, 0o600))
	must.NoError(t, p.cmd.Process.Signal(syscall.SIGHUP))
	p.eventually(t, "says why not", func() bool { return strings.Contains(p.logged(), "certificates not reloaded") })
	must.Eq(t, http.StatusOK, p.status("GET", "/governor/v1/health"))

	plain := startProcess(t, n.URL, nil, "")
	must.NoError(t, plain.cmd.Process.Signal(syscall.SIGHUP))
	plain.eventually(t, "hears it", func() bool { return strings.Contains(plain.logged(), "hangup") })
	must.Eq(t, http.StatusOK, plain.status("GET", "/governor/v1/health"))
}

func TestWhoIsKnownIsWhatIsConfigured(t *testing.T) {
	t.Parallel()
	senders, forms := identityOf(agentconfig.Default())
	must.Eq(t, gate.Senders{}, senders)
	must.SliceEmpty(t, forms)
	config := agentconfig.Default()
	config.Identity = &agentconfig.Identity{UserTokenNames: []string{"okta-*"}, ClientCertificates: true,
		Header: &agentconfig.UserHeader{Name: "X-User", TrustedCIDRs: []string{"10.0.0.7/32"}}}
	senders, forms = identityOf(config)
	must.Eq(t, gate.Senders{Certificates: true, Header: "X-User", Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32")}}, senders)
	must.Eq(t, []string{"okta-*"}, forms)
}

// Agents reach each other with their own certificates where clients need one; where
// they need none, others are served too.
func TestAgentsPresentTheirCertificateToEachOther(t *testing.T) {
	t.Parallel()
	n := newSlowNomad(t)
	dir := t.TempDir()
	ca := certtest.New(t, dir, "ca")
	pair := ca.Server(t, "gate")
	tlsBlock := fmt.Sprintf("tls {\n  cert_file = %q\n  key_file = %q\n  ca_file = %q\n  client_ca_file = %q\n  verify_client = \"optional\"\n}\n",
		pair.Cert, pair.Key, ca.File, ca.File)
	p := startProcess(t, n.URL, ca, tlsBlock) // its own client has no certificate
	file := filepath.Join(dir, "agent.hcl")
	config, diags := agentconfig.Parse(file, []byte(strings.Replace(tlsBlock, "optional", "require", 1)), agentconfig.Default())
	must.False(t, diags.HasErrors())
	config.Bind = "127.0.0.1:0"
	listener, _, err := listen(config, hclog.NewNullLogger())
	must.NoError(t, err)
	server := gate.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.VerifiedChains[0][0].Subject.CommonName)
	}))
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	defer func() { _ = server.Close(); <-done }()
	peers, err := peersOf(config, listener, hclog.NewNullLogger())
	must.NoError(t, err)
	response, err := peers.Client.Get(peers.Address)
	must.NoError(t, err)
	name, err := io.ReadAll(response.Body)
	must.NoError(t, err)
	must.NoError(t, response.Body.Close())
	must.Eq(t, "gate", string(name))
	response, err = p.client.Get(peers.Address)
	if err == nil {
		_ = response.Body.Close()
	}
	must.ErrorContains(t, err, "certificate required")
}
