package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/quotaagent/gate"
)

// listen opens the address that is served; the certificates are nil without TLS.
func listen(config agentconfig.Config, logger hclog.Logger) (net.Listener, *gate.Certificates, error) {
	var certificates *gate.Certificates
	if t := config.TLS; t != nil {
		var err error
		certificates, err = gate.NewCertificates(gate.Files{CA: t.ClientCAFile, Cert: t.CertFile, Key: t.KeyFile}, logger.Named("tls"))
		if err != nil {
			return nil, nil, fmt.Errorf("read the gate's certificate: %w", err)
		}
	}
	listener, err := net.Listen("tcp", config.Bind)
	if err != nil {
		return nil, nil, fmt.Errorf("listen on %s: %w", config.Bind, err)
	}
	if certificates == nil {
		return listener, nil, nil
	}
	return tls.NewListener(listener, certificates.ServerTLS(config.TLS.VerifyClient != "optional")), certificates, nil
}

// reloadOnHangup reads the gate's certificates anew on SIGHUP, until the returned
// function is called. Those for connections to others are read when one begins.
func reloadOnHangup(certificates *gate.Certificates, logger hclog.Logger) (stop func()) {
	hangup, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hangup, syscall.SIGHUP)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-hangup:
			}
			logger.Info("hangup: reading certificates anew")
			if certificates != nil {
				_ = certificates.Reload() // it logs
			}
		}
	})
	return func() {
		signal.Stop(hangup)
		close(done)
		running.Wait()
	}
}

// tellSystemd says that the agent serves, where systemd waits for that (Type=notify).
func tellSystemd(logger hclog.Logger) func() {
	return func() {
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			logger.Warn("systemd not told that the agent serves", "error", err)
		}
	}
}

// identityOf is by what the gate knows people besides their tokens.
func identityOf(config agentconfig.Config) (gate.Senders, []string) {
	i := config.Identity
	if i == nil {
		return gate.Senders{}, nil
	}
	senders := gate.Senders{Certificates: i.ClientCertificates}
	if i.Header != nil {
		senders.Header, senders.Proxies = i.Header.Name, i.Header.Prefixes()
	}
	return senders, i.UserTokenNames
}
