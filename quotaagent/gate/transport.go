package gate

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
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
}

// NewTransport returns the transport to Nomad. It has no limit on how long an
// answer may take, because blocking queries and streams last minutes to days,
// and it speaks HTTP/1.1 only, as Nomad does and as websockets need.
func NewTransport(t TLS) (*http.Transport, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.SkipVerify, //nolint:gosec // the operator's choice
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read Nomad CA: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read Nomad CA: %s holds no PEM certificate", t.CAFile)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, fmt.Errorf("read Nomad client certificate: certificate and key must be given together")
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read Nomad client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   10 * time.Second,
		Protocols:             protocols,
		DisableCompression:    true, // answers pass as they are
		MaxIdleConns:          256,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
	}, nil
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
