package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// Authority signs certificates and keeps all files in one directory.
type Authority struct {
	// File holds its own certificate.
	File string
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority; name is that of its file.
func New(t testing.TB, dir, name string) *Authority {
	t.Helper()
	a := &Authority{File: filepath.Join(dir, name+".pem"), dir: dir}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = sign(t, template, nil, nil)
	write(t, a.File, "CERTIFICATE", a.cert.Raw)
	return a
}

// Pair is a certificate with its key.
type Pair struct{ Cert, Key string }

// Server issues a certificate for 127.0.0.1 and localhost, that is good for clients
// too. The same name again replaces the files.
func (a *Authority) Server(t testing.TB, name string) Pair {
	t.Helper()
	return a.issue(t, name, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
}

// Client issues a certificate for a URI.
func (a *Authority) Client(t testing.TB, name, uri string) Pair {
	t.Helper()
	u, err := url.Parse(uri)
	must.NoError(t, err)
	return a.issue(t, name, &x509.Certificate{URIs: []*url.URL{u}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

func (a *Authority) issue(t testing.TB, name string, template *x509.Certificate) Pair {
	t.Helper()
	template.Subject, template.KeyUsage = pkix.Name{CommonName: name}, x509.KeyUsageDigitalSignature
	cert, key := sign(t, template, a.cert, a.key)
	pair := Pair{Cert: filepath.Join(a.dir, name+".pem"), Key: filepath.Join(a.dir, name+"-key.pem")}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	must.NoError(t, err)
	write(t, pair.Cert, "CERTIFICATE", cert.Raw)
	write(t, pair.Key, "PRIVATE KEY", raw)
	return pair
}

// sign makes a key and a certificate for it, signed by its own key without a parent.
func sign(t testing.TB, template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	if parent == nil {
		parent, by = template, key
	}
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	must.NoError(t, err)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	must.NoError(t, err)
	cert, err := x509.ParseCertificate(raw)
	must.NoError(t, err)
	return cert, key
}

func write(t testing.TB, path, kind string, raw []byte) {
	t.Helper()
	must.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600))
}
