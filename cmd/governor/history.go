package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/history"
)

// openHistory opens the file that keeps what happened; nil when none is kept.
func openHistory(config agentconfig.Config, logger hclog.Logger) (*history.Store, error) {
	path := config.HistoryFile()
	if path == "" {
		logger.Warn("no history of usage is kept, and there will be no reports: set data_dir, or history { path = \"...\" }")
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	store, err := history.Open(path, time.Now)
	if err != nil {
		return nil, err
	}
	return store, nil
}

// peersOf says how other agents are reached, and this one by them. An agent with an
// embedded ledger has no others.
func peersOf(config agentconfig.Config, listener net.Listener, logger hclog.Logger) (agent.Peers, error) {
	if config.Dev {
		return agent.Peers{}, nil
	}
	p := agent.Peers{Address: config.Advertise, Token: config.Nomad.Token}
	if p.Address == "" {
		p.Address = ownAddress(config, listener)
	}
	var files gate.Files
	if t := config.TLS; t != nil {
		files = gate.Files{CA: t.CAFile, Cert: t.CertFile, Key: t.KeyFile}
	}
	transport, err := gate.NewPeerTransport(files, logger.Named("peers"))
	if err != nil {
		return p, err
	}
	p.Client = &http.Client{Transport: transport}
	return p, nil
}

// ownAddress is the URL of what is served. Where that is every address of the
// machine, it is the machine's name.
func ownAddress(config agentconfig.Config, listener net.Listener) string {
	scheme := "http"
	if config.TLS != nil {
		scheme = "https"
	}
	host, _, err := net.SplitHostPort(config.Bind)
	if ip := net.ParseIP(host); err != nil || host == "" || ip != nil && ip.IsUnspecified() {
		host, _ = os.Hostname()
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return ""
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}
