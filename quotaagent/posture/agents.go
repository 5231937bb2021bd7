package posture

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/nomad-governor/governor/quotaagent/bypass"
)

// self is what is read of /v1/agent/self; the rest of the configuration is not
// kept.
type self struct {
	Config struct {
		Name      string                `json:"NodeName"`
		Advertise struct{ HTTP string } `json:"AdvertiseAddrs"`
		Ports     struct{ HTTP int }
		Limits    struct {
			MaxConns *int `json:"HTTPMaxConnsPerClient"`
		}
		TLS struct {
			EnableHTTP, VerifyHTTPSClient bool
		} `json:"TLSConfig"`
		Version struct{ Version string }
	} `json:"config"`
	Member struct {
		Name string
		Tags map[string]string
	} `json:"member"`
}

// agent reads the configuration of the agent behind the gate, and where the
// servers are.
func (l *look) agent() {
	const command = "nomad operator api /v1/agent/self"
	var s self
	if !l.read(bypass.CheckAgent, command, "/v1/agent/self", &s) {
		l.facts.Missing = append(l.facts.Missing, bypass.Missing{Check: bypass.CheckAddresses, Look: "nomad server members",
			Why: l.facts.Missing[len(l.facts.Missing)-1].Why})
		return
	}
	c := s.Config
	l.facts.Agent = bypass.Agent{Name: c.Name, Version: cmp.Or(s.Member.Tags["build"], c.Version.Version), HTTPS: c.TLS.EnableHTTP,
		VerifyClients: c.TLS.VerifyHTTPSClient}
	if c.Limits.MaxConns != nil {
		l.facts.Agent.MaxConns = *c.Limits.MaxConns
	}
	scheme := "http://"
	if c.TLS.EnableHTTP {
		scheme = "https://"
	}
	l.address("agent "+c.Name, scheme, c.Advertise.HTTP)
	var members struct {
		Members []struct {
			Name, Addr, Status string
		}
	}
	if !l.read(bypass.CheckAddresses, "nomad server members", "/v1/agent/members", &members) {
		return
	}
	for _, m := range members.Members {
		if m.Name == s.Member.Name || m.Status == "left" {
			continue
		}
		// Members do not say where they serve HTTP: on the port of the one that was asked.
		l.address("server "+m.Name, scheme, net.JoinHostPort(m.Addr, strconv.Itoa(c.Ports.HTTP)))
	}
}

// address notes where an agent serves its API, each place once.
func (l *look) address(agent, scheme, hostPort string) {
	if hostPort == "" || slices.ContainsFunc(l.facts.Addresses, func(a bypass.Address) bool { return a.URL == scheme+hostPort }) {
		return
	}
	l.facts.Addresses = append(l.facts.Addresses, bypass.Address{Agent: agent, URL: scheme + hostPort})
}

// clients reads the drivers of the clients that have GPUs, unless that was done a
// short while ago.
func (l *look) clients() {
	l.mu.Lock()
	known, at := l.Reader.clients, l.clientsAt
	l.mu.Unlock()
	if !at.IsZero() && l.now().Sub(at) < clientsFor {
		l.facts.Clients = known
		return
	}
	var nodes []*api.NodeListStub
	if !l.read(bypass.CheckNodes, "nomad node status", "/v1/nodes?resources=true", &nodes) {
		return
	}
	slices.SortFunc(nodes, func(a, b *api.NodeListStub) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	for _, n := range nodes {
		if n.Status == api.NodeStatusDown || !hasGPUs(n) {
			continue
		}
		c := bypass.Client{ID: n.ID, Name: n.Name, Drivers: map[string]map[string]string{}}
		for name, d := range n.Drivers {
			if d != nil && d.Detected {
				c.Drivers[name] = d.Attributes
			}
		}
		l.facts.Clients = append(l.facts.Clients, c)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Reader.clients, l.clientsAt = l.facts.Clients, l.now()
}

func hasGPUs(n *api.NodeListStub) bool {
	return n.NodeResources != nil && slices.ContainsFunc(n.NodeResources.Devices, func(d *api.NodeDeviceResource) bool { return gpu.IsType(d.Type) })
}

// probeWithin bounds how long one address is tried.
const probeWithin = 3 * time.Second

// Probe finds the addresses of the clients too and tries all from here, without a
// token and without a client certificate. gate is the host of the gate.
func (r *Reader) Probe(ctx context.Context, f *bypass.Facts, gate string) {
	r.clientAddresses(ctx, f)
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true}, DisableKeepAlives: true} //nolint:gosec // nothing is sent that anybody must not read, and nothing is believed
	client := &http.Client{Transport: transport, Timeout: probeWithin}
	together(len(f.Addresses), func(i int) {
		f.Addresses[i].Answers, f.Addresses[i].Detail = try(ctx, client, f.Addresses[i].URL)
	})
	f.Probed, f.Gate = true, gate
}

// try asks for what Nomad tells everybody.
func try(ctx context.Context, client *http.Client, address string) (answers bool, detail string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/v1/status/leader", nil)
	if err != nil {
		return false, "not an address"
	}
	response, err := client.Do(request)
	if err != nil {
		return false, "no answer"
	}
	_ = response.Body.Close()
	return true, fmt.Sprintf("%d without a token", response.StatusCode)
}

// clientAddresses asks each client where it serves its API.
func (r *Reader) clientAddresses(ctx context.Context, f *bypass.Facts) {
	var stubs []*api.NodeListStub
	if err := r.get(ctx, "/v1/nodes", &stubs); err != nil {
		f.Missing = append(f.Missing, bypass.Missing{Check: bypass.CheckAddresses, Why: reason(err), Look: "nomad node status -verbose"})
		return
	}
	stubs = slices.DeleteFunc(stubs, func(n *api.NodeListStub) bool { return n.Status == api.NodeStatusDown })
	slices.SortFunc(stubs, func(a, b *api.NodeListStub) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	nodes := make([]api.Node, len(stubs))
	errs := make([]error, len(stubs))
	together(len(stubs), func(i int) { errs[i] = r.get(ctx, "/v1/node/"+url.PathEscape(stubs[i].ID), &nodes[i]) })
	l := look{facts: *f}
	for i, n := range nodes {
		if errs[i] != nil {
			l.miss(bypass.CheckAddresses, "nomad node status -verbose "+stubs[i].ID, errs[i])
			break
		}
		scheme := "http://"
		if n.TLSEnabled {
			scheme = "https://"
		}
		l.address("client "+n.Name, scheme, n.HTTPAddr)
	}
	*f = l.facts
}
