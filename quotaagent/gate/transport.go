package gate

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
)

// TLS says how to reach a Nomad that serves HTTPS. The zero value uses the
// system's certificate authorities and no client certificate.
type TLS struct {
	// CAFile, CertFile and KeyFile are PEM files; empty means none.
	CAFile, CertFile, KeyFile string
	// ServerName to verify, such as "server.global.nomad"; empty means the
	// host of the address.
	ServerName string
	// SkipVerify turns off verification of Nomad's certificate.
	SkipVerify bool
	// Logger hears when the files change; nil for nobody.
	Logger hclog.Logger
}

// NewTransport returns the transport to Nomad. It has no limit on how long an
// answer may take, because blocking queries and streams last minutes to days,
// and it speaks HTTP/1.1 only, as Nomad does and as websockets need. New connections
// use what is in the files then.
func NewTransport(t TLS) (*http.Transport, error) {
	certificates, err := NewCertificates(Files{CA: t.CAFile, Cert: t.CertFile, Key: t.KeyFile}, t.Logger)
	if err != nil {
		return nil, fmt.Errorf("read the certificates for Nomad: %w", err)
	}
	return certificates.transport(t.base()), nil
}

// NewTLSDialer returns what opens connections to another server that is verified and
// told who comes in the same way: with what is in the files at that time.
func NewTLSDialer(t TLS) (func(ctx context.Context, network, address string) (net.Conn, error), error) {
	certificates, err := NewCertificates(Files{CA: t.CAFile, Cert: t.CertFile, Key: t.KeyFile}, t.Logger)
	if err != nil {
		return nil, err
	}
	return certificates.transport(t.base()).DialTLSContext, nil
}

func (t TLS) base() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.SkipVerify, //nolint:gosec // the operator's choice
	}
}

// NewPeerTransport returns a transport to other agents, which presents the gate's own
// certificate where they ask for one.
func NewPeerTransport(files Files, logger hclog.Logger) (*http.Transport, error) {
	certificates, err := NewCertificates(files, logger)
	if err != nil {
		return nil, fmt.Errorf("read the certificates for other agents: %w", err)
	}
	transport := certificates.transport(&tls.Config{MinVersion: tls.VersionTLS12})
	transport.DisableCompression = false
	return transport, nil
}

func (c *Certificates) transport(base *tls.Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		DialContext: dialer.DialContext,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialTLS(ctx, dialer, c.clientTLS(base), network, address)
		},
		TLSClientConfig:       c.clientTLS(base), // through an HTTP proxy only
		TLSHandshakeTimeout:   handshakeWithin,
		Protocols:             protocols,
		DisableCompression:    true, // answers pass as they are
		MaxIdleConns:          256,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		// A blocking query keeps its buffers for minutes, and what is sent is small; a
		// large body is not copied through them.
		WriteBufferSize: 1 << 10,
	}
}

// handshakeWithin bounds a TLS handshake.
const handshakeWithin = 10 * time.Second

func dialTLS(ctx context.Context, dialer *net.Dialer, config *tls.Config, network, address string) (net.Conn, error) {
	raw, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeWithin)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// NewServer returns a server for the gate: it limits how long a client may
// take for its headers, but neither bodies nor answers, and speaks HTTP/1.1
// only, because websockets of the Nomad UI need it.
func NewServer(handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 20 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    1 << 20,
		Protocols:         protocols,
	}
}
