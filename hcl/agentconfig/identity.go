package agentconfig

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Identity says by what people are known besides their Nomad tokens. All of it is off
// by default.
type Identity struct {
	// UserTokenNames are forms of the names that auth methods give to tokens, each with
	// one * for the user.
	UserTokenNames []string `hcl:"user_token_names,optional"`
	// ClientCertificates names clients by their certificates where Nomad has no ACLs.
	ClientCertificates bool `hcl:"client_certificates,optional"`
	// Header is where an authenticating proxy names the user, where Nomad has no ACLs.
	Header *UserHeader `hcl:"header,block"`

	UserTokenNamesRange     hcl.Range `hcl:"user_token_names,attr_value_range"`
	ClientCertificatesRange hcl.Range `hcl:"client_certificates,attr_range"`
}

// UserHeader is a header that only some proxies may set.
type UserHeader struct {
	Name string `hcl:"name"`
	// TrustedCIDRs are the addresses of those proxies.
	TrustedCIDRs []string `hcl:"trusted_cidrs"`

	NameRange         hcl.Range `hcl:"name,attr_value_range"`
	TrustedCIDRsRange hcl.Range `hcl:"trusted_cidrs,attr_value_range"`
}

// Prefixes are the trusted addresses of a configuration that was linted.
func (h UserHeader) Prefixes() []netip.Prefix {
	out := make([]netip.Prefix, 0, len(h.TrustedCIDRs))
	for _, text := range h.TrustedCIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// lintIdentity finds what is wrong or not safe.
func lintIdentity(c Config) hcl.Diagnostics {
	var diags hcl.Diagnostics
	complain := func(at hcl.Range, summary, format string, args ...any) {
		diags = append(diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &at})
	}
	if t := c.TLS; t != nil && t.VerifyClient != "" {
		switch {
		case !oneOf(t.VerifyClient, "require", "optional"):
			complain(t.VerifyClientRange, "Invalid verify_client", "You wrote %q. It must be \"require\" or \"optional\".", t.VerifyClient)
		case t.ClientCAFile == "":
			complain(t.VerifyClientRange, "Clients verified with nothing", "verify_client needs client_ca_file, the authorities whose client certificates are good. Add client_ca_file = \"...\" to the tls block.")
		}
	}
	i := c.Identity
	if i == nil {
		return diags
	}
	for _, form := range i.UserTokenNames {
		if strings.Count(form, "*") != 1 {
			complain(i.UserTokenNamesRange, "Invalid form of a token's name", "You wrote %q. It must have one *, which stands for the user, as in \"OIDC-okta-*\" for an auth method with token_name_format = \"${auth_method_type}-${auth_method_name}-${value.user}\".", form)
		}
	}
	if i.ClientCertificates && (c.TLS == nil || c.TLS.ClientCAFile == "") {
		complain(i.ClientCertificatesRange, "Certificates that nobody verifies", "client_certificates needs a tls block with client_ca_file, the authorities whose client certificates are good: without them anybody could call themselves what they like. Add it, or remove client_certificates.")
	}
	if i.Header != nil {
		i.Header.lint(complain)
	}
	return diags
}

func (h UserHeader) lint(complain func(at hcl.Range, summary, format string, args ...any)) {
	if !validHeader(h.Name) {
		complain(h.NameRange, "Invalid name of a header", "You wrote %q. It must be a header of your own for the user, such as \"X-Forwarded-User\", and none that clients, HTTP or Nomad use for something else.", h.Name)
	}
	if len(h.TrustedCIDRs) == 0 {
		complain(h.TrustedCIDRsRange, "Header that anybody can set", "trusted_cidrs is empty, so that nobody could name a user. List the addresses of the proxies, such as [\"10.0.0.7/32\"].")
	}
	for _, text := range h.TrustedCIDRs {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			complain(h.TrustedCIDRsRange, "Invalid address range", "You wrote %q. It must be a range of addresses such as \"10.0.0.7/32\" or \"fd00::7/128\".", text)
		case p.Addr().Is4In6():
			complain(h.TrustedCIDRsRange, "Invalid address range", "You wrote %q. Write it as an IPv4 range such as \"10.0.0.7/32\".", text)
		case p.Bits() == 0:
			complain(h.TrustedCIDRsRange, "Header that anybody can set", "You wrote %q, which is everybody: whoever reaches the gate could call themselves what they like. List the addresses of the proxies only.", text)
		}
	}
}

// validHeader reports whether a header can carry a user and nothing else does.
func validHeader(name string) bool {
	taken := []string{
		"accept", "accept-encoding", "authorization", "connection", "content-encoding", "content-length", "content-type", "cookie", "expect", "forwarded", "host",
		"keep-alive", "origin", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "via", "x-forwarded-for",
		"x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip",
	}
	known := strings.ToLower(name)
	return name != "" && !slices.Contains(taken, known) && !strings.HasPrefix(known, "x-nomad-") && !strings.HasPrefix(known, "sec-") &&
		!strings.ContainsFunc(name, func(r rune) bool {
			return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		})
}
