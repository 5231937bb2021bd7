package gate

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/certtest"
)

// serveTLS serves until the test ends and returns the address. It says who the client
// is.
func serveTLS(t *testing.T, config *tls.Config) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	server := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if len(r.TLS.VerifiedChains) > 0 {
			name = r.TLS.VerifiedChains[0][0].Subject.CommonName
		}
		_, _ = io.WriteString(w, r.Proto+" "+name)
	}))
	server.ErrorLog = log.New(io.Discard, "", 0)
	done := make(chan error, 1)
	go func() { done <- server.Serve(tls.NewListener(listener, config)) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return "https://" + listener.Addr().String()
}

// aged are certificates of which every connection looks at the files.
func aged(t *testing.T, files Files) *Certificates {
	t.Helper()
	c, err := NewCertificates(files, nil)
	must.NoError(t, err)
	var passed atomic.Int64
	c.now = func() time.Time { return time.Now().Add(time.Duration(passed.Add(1)) * lookEvery) }
	return c
}

func fetch(t *testing.T, transport http.RoundTripper, address string) (string, *tls.ConnectionState, error) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, address, nil)
	must.NoError(t, err)
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), response.TLS, err
}

// trusting is a client that trusts one authority.
func trusting(t *testing.T, ca string, edits ...func(*tls.Config)) *http.Transport {
	t.Helper()
	pem, err := os.ReadFile(ca)
	must.NoError(t, err)
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	must.True(t, config.RootCAs.AppendCertsFromPEM(pem))
	for _, edit := range edits {
		edit(config)
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

func withPair(t *testing.T, pair certtest.Pair) func(*tls.Config) {
	t.Helper()
	loaded, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	must.NoError(t, err)
	return func(c *tls.Config) { c.Certificates = []tls.Certificate{loaded} }
}

// A new certificate is served to new connections, and those that are open go on.
func TestCertificates_reloadWithoutDroppingConnections(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certtest.New(t, dir, "ca")
	pair := ca.Server(t, "gate")
	c, err := NewCertificates(Files{Cert: pair.Cert, Key: pair.Key}, nil)
	must.NoError(t, err)
	address := serveTLS(t, c.ServerTLS(false))
	open, later := trusting(t, ca.File), trusting(t, ca.File)
	body, before, err := fetch(t, open, address)
	must.NoError(t, err)
	must.EqOp(t, "HTTP/1.1 nobody", body)

	ca.Server(t, "gate")
	must.NoError(t, c.Reload())
	_, still, err := fetch(t, open, address)
	must.NoError(t, err)
	must.True(t, still.PeerCertificates[0].Equal(before.PeerCertificates[0]), must.Sprint("the same connection"))
	_, after, err := fetch(t, later, address)
	must.NoError(t, err)
	must.False(t, after.PeerCertificates[0].Equal(before.PeerCertificates[0]))

	// Half of a change, or none: the former certificate goes on being served.
	must.NoError(t, os.WriteFile(pair.Key, []byte("not yet"), 0o600))
	must.ErrorContains(t, c.Reload(), pair.Key)
	later.CloseIdleConnections()
	_, kept, err := fetch(t, later, address)
	must.NoError(t, err)
	must.True(t, kept.PeerCertificates[0].Equal(after.PeerCertificates[0]))
}

// Without a signal the files are looked at when a connection begins.
func TestCertificates_changesAreSeen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certtest.New(t, dir, "ca")
	pair := ca.Server(t, "gate")
	address := serveTLS(t, aged(t, Files{Cert: pair.Cert, Key: pair.Key}).ServerTLS(false))
	client := trusting(t, ca.File)
	client.DisableKeepAlives = true
	_, before, err := fetch(t, client, address)
	must.NoError(t, err)
	ca.Server(t, "gate")
	_, after, err := fetch(t, client, address)
	must.NoError(t, err)
	must.False(t, after.PeerCertificates[0].Equal(before.PeerCertificates[0]))
}

func TestCertificates_noOldProtocols(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t, t.TempDir(), "ca")
	pair := ca.Server(t, "gate")
	c, err := NewCertificates(Files{Cert: pair.Cert, Key: pair.Key}, nil)
	must.NoError(t, err)
	address := serveTLS(t, c.ServerTLS(false))
	old := trusting(t, ca.File, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
	_, _, err = fetch(t, old, address)
	must.ErrorContains(t, err, "protocol version")
}

func TestCertificates_ofClients(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, users, others := certtest.New(t, dir, "ca"), certtest.New(t, dir, "users"), certtest.New(t, dir, "others")
	pair := ca.Server(t, "gate")
	ann, mallory := users.Client(t, "ann", "spiffe://corp/ann"), others.Client(t, "mallory", "spiffe://corp/ann")
	for _, required := range []bool{false, true} {
		c := aged(t, Files{CA: users.File, Cert: pair.Cert, Key: pair.Key})
		address := serveTLS(t, c.ServerTLS(required))
		body, _, err := fetch(t, trusting(t, ca.File), address)
		if required {
			must.ErrorContains(t, err, "certificate required")
		} else {
			must.NoError(t, err)
			must.EqOp(t, "HTTP/1.1 nobody", body)
		}
		body, _, err = fetch(t, trusting(t, ca.File, withPair(t, ann)), address)
		must.NoError(t, err)
		must.EqOp(t, "HTTP/1.1 ann", body)
		_, _, err = fetch(t, trusting(t, ca.File, func(config *tls.Config) {
			chosen, err := tls.LoadX509KeyPair(mallory.Cert, mallory.Key)
			must.NoError(t, err)
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &chosen, nil }
		}), address)
		must.ErrorContains(t, err, "unknown certificate authority")
	}
}

// An authority that is taken out of the file is not believed any more, also by a
// client that was here before and resumes its session.
func TestCertificates_anAuthorityIsWithdrawn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, users := certtest.New(t, dir, "ca"), certtest.New(t, dir, "users")
	pair := ca.Server(t, "gate")
	address := serveTLS(t, aged(t, Files{CA: users.File, Cert: pair.Cert, Key: pair.Key}).ServerTLS(true))
	client := trusting(t, ca.File, withPair(t, users.Client(t, "ann", "spiffe://corp/ann")), func(c *tls.Config) {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	})
	client.DisableKeepAlives = true
	for _, resumed := range []bool{false, true} {
		body, state, err := fetch(t, client, address)
		must.NoError(t, err)
		must.EqOp(t, "HTTP/1.1 ann", body)
		must.EqOp(t, resumed, state.DidResume)
	}
	certtest.New(t, dir, "users")
	_, _, err := fetch(t, client, address)
	must.ErrorContains(t, err, "tls: ")
}

// The transport presents the certificate of the moment, and trusts the authority of
// the moment.
func TestTransport_reloads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, users := certtest.New(t, dir, "ca"), certtest.New(t, dir, "users")
	pair := ca.Server(t, "nomad")
	server := aged(t, Files{CA: users.File, Cert: pair.Cert, Key: pair.Key})
	address := serveTLS(t, server.ServerTLS(true))
	own := users.Client(t, "governor", "spiffe://corp/governor")
	client := aged(t, Files{CA: ca.File, Cert: own.Cert, Key: own.Key})
	transport := client.transport(&tls.Config{MinVersion: tls.VersionTLS12})
	t.Cleanup(transport.CloseIdleConnections)
	ask := func() error {
		transport.CloseIdleConnections()
		body, _, err := fetch(t, transport, address)
		if err == nil {
			must.EqOp(t, "HTTP/1.1 governor", body)
		}
		return err
	}
	must.NoError(t, ask())
	users = certtest.New(t, dir, "users") // everything is made anew
	must.Error(t, ask())
	users.Client(t, "governor", "spiffe://corp/governor")
	must.NoError(t, ask())
	ca = certtest.New(t, dir, "ca")
	must.Error(t, ask())
	ca.Server(t, "nomad")
	must.NoError(t, ask())
}

// The name is verified, also where it is an address.
func TestTransport_verifiesTheName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certtest.New(t, dir, "ca")
	pair := ca.Client(t, "nobody", "spiffe://corp/x") // has no name of a server
	wrong, err := NewCertificates(Files{Cert: pair.Cert, Key: pair.Key}, nil)
	must.NoError(t, err)
	right := ca.Server(t, "nomad")
	good, err := NewCertificates(Files{Cert: right.Cert, Key: right.Key}, nil)
	must.NoError(t, err)
	for name, c := range map[string]struct {
		server     *Certificates
		serverName string
		want       string
	}{
		"an address":       {good, "", ""},
		"a name":           {good, "localhost", ""},
		"another name":     {good, "server.global.nomad", "server.global.nomad"},
		"no name":          {wrong, "", "127.0.0.1"},
		"no name, by name": {wrong, "localhost", "localhost"},
	} {
		transport, err := NewTransport(TLS{CAFile: ca.File, ServerName: c.serverName})
		must.NoError(t, err)
		_, _, err = fetch(t, transport, serveTLS(t, c.server.ServerTLS(false)))
		transport.CloseIdleConnections()
		if c.want == "" {
			must.NoError(t, err, must.Sprint(name))
			continue
		}
		must.ErrorContains(t, err, c.want, must.Sprint(name))
	}
}

func TestCertificates_mistakesAreNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certtest.New(t, dir, "ca")
	one, other := ca.Server(t, "one"), ca.Server(t, "other")
	for want, files := range map[string]Files{
		"given together":          {Cert: one.Cert},
		"no such file":            {CA: dir + "/none"},
		"holds no PEM":            {CA: one.Key},
		"private key does not":    {Cert: one.Cert, Key: other.Key},
		"failed to find any PEM ": {Cert: "certificates.go", Key: one.Key},
	} {
		_, err := NewCertificates(files, nil)
		must.ErrorContains(t, err, want)
	}
}

// A gate over TLS speaks HTTP/1.1 only, as websockets need.
func TestGate_overTLS(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t, t.TempDir(), "ca")
	pair := ca.Server(t, "gate")
	c, err := NewCertificates(Files{Cert: pair.Cert, Key: pair.Key}, nil)
	must.NoError(t, err)
	r := newRig(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	server := NewServer(r.gate.Config.Handler)
	done := make(chan error, 1)
	go func() { done <- server.Serve(tls.NewListener(listener, c.ServerTLS(false))) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	address := &url.URL{Scheme: "https", Host: listener.Addr().String(), Path: "/v1/jobs"}
	request, err := http.NewRequest(http.MethodPut, address.String(), strings.NewReader(register(gpuJob)))
	must.NoError(t, err)
	response, err := trusting(t, ca.File).RoundTrip(request)
	must.NoError(t, err)
	defer response.Body.Close()
	must.EqOp(t, http.StatusOK, response.StatusCode)
	must.EqOp(t, "HTTP/1.1", response.Proto)
	must.Len(t, 1, r.admitter.asked)
}
