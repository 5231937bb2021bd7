package gate

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"

	"github.com/shoenig/test/must"
)

// from sends a request through the senders and returns who the gate then says sends
// it, without ACLs, and the headers that go on.
func from(t *testing.T, s Senders, remote string, certificate *x509.Certificate, header http.Header) (Identity, http.Header, int) {
	t.Helper()
	f, ids, _ := newIdentityRig(t)
	f.acl = false
	r := httptest.NewRequest(http.MethodGet, "/v1/jobs", nil)
	r.RemoteAddr = remote
	for name, values := range header {
		r.Header[name] = values
	}
	if certificate != nil {
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{certificate}}}
	}
	var id Identity
	var left http.Header
	w := httptest.NewRecorder()
	s.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var err error
		id, err = ids.identify(r.Context(), "any")
		must.NoError(t, err)
		left = r.Header
	})).ServeHTTP(w, r)
	return id, left, w.Code
}

func TestSenders_header(t *testing.T) {
	t.Parallel()
	s := Senders{Header: "X-Remote-User", Proxies: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::1/128")}}
	nobody := Identity{Names: []string{NameACLDisabled}}
	ann := Identity{Accessor: "user:ann", Names: []string{NameACLDisabled, "user:ann"}}
	says := http.Header{"X-Remote-User": {"ann"}, "X-Forwarded-For": {"10.1.0.1"}, "X-Other": {"1"}}
	for remote, want := range map[string]Identity{
		"10.1.2.3:1": ann, "[::ffff:10.1.2.3]:1": ann, "[fd00::1]:1": ann,
		"10.2.0.1:1": nobody, "[fd00::2]:1": nobody, "@": nobody, "": nobody,
	} {
		id, left, code := from(t, s, remote, nil, says)
		must.EqOp(t, http.StatusOK, code)
		must.Eq(t, want, id, must.Sprint(remote))
		must.Eq(t, http.Header{"X-Forwarded-For": {"10.1.0.1"}, "X-Other": {"1"}}, left, must.Sprint(remote))
	}
	id, _, _ := from(t, s, "10.1.2.3:1", nil, http.Header{})
	must.Eq(t, nobody, id, must.Sprint("a proxy that names nobody"))
	_, _, code := from(t, s, "10.1.2.3:1", nil, http.Header{"X-Remote-User": {"root", "ann"}})
	must.EqOp(t, http.StatusBadRequest, code, must.Sprint("a proxy that adds to what the client sends"))
	id, left, _ := from(t, Senders{}, "10.1.2.3:1", nil, says)
	must.Eq(t, nobody, id)
	must.Eq(t, says, left, must.Sprint("off"))
}

func TestSenders_certificate(t *testing.T) {
	t.Parallel()
	spiffe, err := url.Parse("spiffe://corp/ann")
	must.NoError(t, err)
	c := &x509.Certificate{URIs: []*url.URL{spiffe}, EmailAddresses: []string{"ann@corp"}, DNSNames: []string{"ann.corp"}}
	c.Subject.CommonName = "root"
	id, _, _ := from(t, Senders{Certificates: true}, "10.1.2.3:1", c, nil)
	must.Eq(t, Identity{Accessor: "cert:spiffe://corp/ann", Names: []string{NameACLDisabled, "cert:ann.corp", "cert:ann@corp", "cert:spiffe://corp/ann"}}, id)
	nobody := Identity{Names: []string{NameACLDisabled}}
	id, _, _ = from(t, Senders{}, "10.1.2.3:1", c, nil)
	must.Eq(t, nobody, id, must.Sprint("off"))
	id, _, _ = from(t, Senders{Certificates: true}, "10.1.2.3:1", &x509.Certificate{Subject: c.Subject}, nil)
	must.Eq(t, nobody, id, must.Sprint("a common name is nobody's"))
	proxy := Senders{Certificates: true, Header: "X-User", Proxies: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	id, _, _ = from(t, proxy, "10.1.2.3:1", c, nil)
	must.Eq(t, nobody, id, must.Sprint("the certificate of a proxy names the proxy"))
	id, _, _ = from(t, proxy, "10.1.2.3:1", c, http.Header{"X-User": {"bob"}})
	must.EqOp(t, "user:bob", id.Accessor)
}

// With ACLs on a token says who somebody is, whatever the connection says.
func TestSenders_tokensComeFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.acl = true
	s := Senders{Header: "X-User", Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	r.gate.Config.Handler = s.Wrap(r.gate.Config.Handler)
	r.do(t, "PUT", "/v1/jobs", register(gpuJob), "X-User", "ann")
	must.Len(t, 0, r.admitter.asked, must.Sprint("anonymous may read no job"))
	r.nomad.acl = false
	a := r.do(t, "PUT", "/v1/jobs", register(gpuJob), "X-User", "ann")
	must.EqOp(t, http.StatusOK, a.status)
	must.Len(t, 1, r.admitter.asked)
	must.EqOp(t, "user:ann", r.admitter.asked[0].Identity.Accessor)
	for _, s := range r.nomad.seen {
		must.EqOp(t, "", s.header.Get("X-User"))
	}
}
