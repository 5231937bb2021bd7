package gate

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// lookEvery is how often the files of certificates are looked at, at most and only
// when a connection begins.
const lookEvery = time.Second

// Files are PEM files; empty means none. The certificate and its key belong together.
type Files struct{ CA, Cert, Key string }

// Certificates are what is in the files. When they change, new connections use what
// is in them then, and those that are open go on. It has no goroutines of its own.
type Certificates struct {
	files  Files
	logger hclog.Logger
	now    func() time.Time

	mu     sync.Mutex
	looked time.Time
	inUse  material
	// failed is why the files cannot be used as they are; what they were is used.
	failed string
}

// material is what one state of the files holds.
type material struct {
	raw [3][]byte
	// pair is nil without a certificate, pool nil without authorities.
	pair *tls.Certificate
	pool *x509.CertPool
}

// NewCertificates reads the files.
func NewCertificates(files Files, logger hclog.Logger) (*Certificates, error) {
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	c := &Certificates{files: files, logger: logger, now: time.Now}
	var err error
	if c.inUse, err = files.read(); err != nil {
		return nil, err
	}
	c.looked = c.now()
	return c, nil
}

func (f Files) read() (material, error) {
	var m material
	if (f.Cert == "") != (f.Key == "") {
		return m, errors.New("certificate and key must be given together")
	}
	for i, path := range [...]string{f.CA, f.Cert, f.Key} {
		if path == "" {
			continue
		}
		var err error
		if m.raw[i], err = os.ReadFile(path); err != nil {
			return m, err
		}
	}
	if f.CA != "" {
		m.pool = x509.NewCertPool()
		if !m.pool.AppendCertsFromPEM(m.raw[0]) {
			return m, fmt.Errorf("%s holds no PEM certificate", f.CA)
		}
	}
	if f.Cert != "" {
		pair, err := tls.X509KeyPair(m.raw[1], m.raw[2])
		if err != nil {
			return m, fmt.Errorf("%s and %s: %w", f.Cert, f.Key, err)
		}
		m.pair = &pair
	}
	return m, nil
}

// Reload looks at the files at once. When they cannot be used, for example because
// one of them is not written yet, what was in them stays in use.
func (c *Certificates) Reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reload()
}

func (c *Certificates) reload() error {
	c.looked = c.now()
	m, err := c.files.read()
	if err != nil {
		if c.failed != err.Error() {
			c.failed = err.Error()
			c.logger.Error("certificates not reloaded, the former ones stay in use", "error", err)
		}
		return err
	}
	c.failed = ""
	if !slices.EqualFunc(m.raw[:], c.inUse.raw[:], bytes.Equal) {
		c.inUse = m
		c.logger.Info("certificates reloaded", "cert_file", c.files.Cert, "ca_file", c.files.CA)
	}
	return nil
}

// current is what new connections use.
func (c *Certificates) current() material {
	c.mu.Lock()
	defer c.mu.Unlock()
	if since := c.now().Sub(c.looked); since < 0 || since >= lookEvery {
		_ = c.reload() // logged
	}
	return c.inUse
}

// ServerTLS serves with the certificate. With authorities in the files, a client
// certificate must be of theirs; required says that there must be one. HTTP/1.1 only:
// websockets need it, and Nomad speaks nothing else.
func (c *Certificates) ServerTLS(required bool) *tls.Config {
	protocols := []string{"http/1.1"}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		m := c.current()
		if m.pair == nil {
			return nil, errors.New("there is no certificate to serve with")
		}
		config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, Certificates: []tls.Certificate{*m.pair}}
		if m.pool == nil {
			return config, nil
		}
		config.ClientCAs, config.ClientAuth = m.pool, tls.VerifyClientCertIfGiven
		if required {
			config.ClientAuth = tls.RequireAndVerifyClientCert
		}
		return config, nil
	}}
}

// clientTLS is base for one connection to a server.
func (c *Certificates) clientTLS(base *tls.Config) *tls.Config {
	m, config := c.current(), base.Clone()
	config.RootCAs = m.pool
	config.GetClientCertificate = m.certificate
	return config
}

// certificate presents what there is, or nothing, when a server asks.
func (m material) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if m.pair == nil {
		return &tls.Certificate{}, nil
	}
	return m.pair, nil
}
