package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"

	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/internal/certtest"
)

// Certificates for Consul are short-lived where Consul's own authority signs them: what
// is new in the files is used for new connections, in both directions.
func TestTheCertificatesForConsulAreReadAnew(t *testing.T) {
	dir := t.TempDir()
	ca := certtest.New(t, dir, "ca")
	ours, theirs := ca.Client(t, "agent", "spiffe://governor"), ca.Server(t, "consul")
	var seen string
	consul := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.TLS.PeerCertificates[0].SerialNumber.String()
		w.Header().Set("Connection", "close")
		http.Error(w, "no leader", http.StatusInternalServerError)
	}))
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(ca.File)
	must.NoError(t, err)
	must.True(t, pool.AppendCertsFromPEM(pem))
	pair, err := tls.LoadX509KeyPair(theirs.Cert, theirs.Key)
	must.NoError(t, err)
	consul.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	consul.StartTLS()
	t.Cleanup(consul.Close)

	config := agentconfig.Default()
	config.Consul = &agentconfig.Consul{Address: consul.Listener.Addr().String(), CAFile: ca.File, CertFile: ours.Cert, KeyFile: ours.Key}
	store, err := openStore(config, hclog.NewNullLogger())
	must.NoError(t, err)
	serial := func() string {
		seen = ""
		_, err := store.Read(t.Context(), "hold/1")
		must.ErrorContains(t, err, "no leader")
		must.NotEq(t, "", seen)
		return seen
	}
	before := serial()
	must.EqOp(t, before, serial())
	ca.Client(t, "agent", "spiffe://governor")
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool { return serial() != before }), wait.Timeout(30*time.Second), wait.Gap(100*time.Millisecond)))

	config.Consul.CertFile = "/missing.pem"
	_, err = openStore(config, hclog.NewNullLogger())
	must.ErrorContains(t, err, "/missing.pem")
}
