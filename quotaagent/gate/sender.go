package gate

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Senders says how the gate may tell who sends a request where Nomad runs without
// ACLs, so that tokens mean nothing. The zero value believes nobody.
type Senders struct {
	// Certificates takes the names of a verified client certificate: "cert:<name>".
	Certificates bool
	// Header is a header in which an authenticating proxy names the user, "user:<name>",
	// and Proxies are the addresses that such proxies have. "" for none. It reaches
	// nobody else: whoever else sends it is not believed, and Nomad does not see it.
	Header  string
	Proxies []netip.Prefix
}

// sender is what the connection says about who sends a request.
type sender struct{ names []string }

type senderKey struct{}

func senderOf(ctx context.Context) sender {
	s, _ := ctx.Value(senderKey{}).(sender)
	return s
}

// named adds what is known of the sender to an identity without any of its own.
func (s sender) named(id Identity) Identity {
	if len(s.names) == 0 {
		return id
	}
	id.Accessor = s.names[0]
	id.Names = append(slices.Clone(id.Names), s.names...)
	slices.Sort(id.Names)
	id.Names = slices.Compact(id.Names)
	return id
}

// Wrap returns a handler that notes who sends a request for the gate behind it, and
// takes the header away.
func (s Senders) Wrap(next http.Handler) http.Handler {
	if !s.Certificates && s.Header == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		values := r.Header.Values(s.Header)
		proxied := s.proxy(r.RemoteAddr)
		if proxied && len(values) > 1 {
			refuse(http.StatusBadRequest, ReasonBadRequest, "This request has the header %s %d times, so that it does not say who sends it. Nothing was changed.\n"+
				"Have the proxy in front of Governor replace the header, not add to it.", s.Header, len(values)).write(w)
			return
		}
		var from sender
		switch {
		case proxied: // its certificate would be the proxy's own
			if user := strings.Join(values, ""); user != "" {
				from.names = []string{"user:" + user}
			}
		case s.Certificates && r.TLS != nil && len(r.TLS.VerifiedChains) > 0:
			from.names = certificateNames(r.TLS.VerifiedChains[0][0])
		}
		r = r.WithContext(context.WithValue(r.Context(), senderKey{}, from))
		if len(values) > 0 {
			r.Header = r.Header.Clone()
			r.Header.Del(s.Header)
		}
		next.ServeHTTP(w, r)
	})
}

// proxy reports whether a connection comes from a trusted proxy.
func (s Senders) proxy(remote string) bool {
	from, err := netip.ParseAddrPort(remote)
	if err != nil || s.Header == "" {
		return false
	}
	address := from.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(s.Proxies, func(p netip.Prefix) bool { return p.Contains(address) })
}

// certificateNames are the subject alternative names of a certificate, the most
// telling first. Its common name counts for nothing: no authority need have checked it.
func certificateNames(c *x509.Certificate) []string {
	var names []string
	for _, u := range c.URIs {
		names = append(names, "cert:"+u.String())
	}
	for _, list := range [][]string{c.EmailAddresses, c.DNSNames} {
		for _, name := range list {
			names = append(names, "cert:"+name)
		}
	}
	return names
}
