package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"
	nomad "github.com/hashicorp/nomad/api"
	"go.opentelemetry.io/otel/trace"

	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/internal/version"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/nomadctl"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/nomad-governor/governor/quotaagent/posture"
	"github.com/nomad-governor/governor/quotaagent/sqlite"
	"github.com/nomad-governor/governor/quotaagent/uipanel"
	"github.com/nomad-governor/governor/quotaagent/web"
	hooks "github.com/nomad-governor/governor/quotaagent/webhook"
	"github.com/nomad-governor/governor/scheduler/nomadstate"
)

func agentCommand(env environment) command {
	return command{synopsis: "Run the quota agent", help: `Usage: governor agent [options]

  Serves Nomad's whole API and UI at one address and lets no GPU job through
  that does not fit its budget. Stops on SIGINT and SIGTERM when what it is
  doing is done, and at once on the second; reads certificates anew on SIGHUP.

      $ governor agent -config=/etc/governor/agent.hcl
      $ governor agent -dev -data-dir=/tmp/governor -nomad=http://127.0.0.1:4646

  -config=<file>    Configuration file (HCL).
  -dev              Keep the ledger in an embedded file instead of Consul. For
                    one agent only.
  -bind=<host:port> Address to serve. Default: 127.0.0.1:4640.
  -data-dir=<dir>   Directory of the history, and of the embedded store.
  -nomad=<url>      Address of Nomad. Default: NOMAD_ADDR, else
                    http://127.0.0.1:4646.
  -log-level=<l>    trace, debug, info, warn or error. Default: info.

  The agent's own tokens come from the configuration file, or from NOMAD_TOKEN
  and CONSUL_HTTP_TOKEN.`,
		run: func(args []string) int {
			config, err := agentFlags(env, args)
			if errors.Is(err, errUsage) {
				return 1
			}
			if err != nil {
				return env.fail(err)
			}
			if err := runAgent(env, config); err != nil {
				return env.fail(err)
			}
			return 0
		}}
}

// errUsage stands for a mistake that was explained already.
var errUsage = errors.New("the agent was not started")

func agentFlags(env environment, args []string) (agentconfig.Config, error) {
	fs := flags("agent")
	file, dev := fs.String("config", "", ""), fs.Bool("dev", false, "")
	bind, dataDir := fs.String("bind", "", ""), fs.String("data-dir", "", "")
	nomadAddress, logLevel := fs.String("nomad", "", ""), fs.String("log-level", "", "")
	config := agentconfig.Default()
	if !parse(env, fs, args, 0, 0) {
		return config, errUsage
	}
	if address := env.getenv("NOMAD_ADDR"); address != "" {
		config.Nomad.Address = address
	}
	if *file != "" {
		content, err := os.ReadFile(*file)
		if err != nil {
			return config, fmt.Errorf("read configuration: %w", err)
		}
		var diags hcl.Diagnostics
		if config, diags = agentconfig.Parse(*file, content, config); diags.HasErrors() {
			writer := hcl.NewDiagnosticTextWriter(env.stderr, map[string]*hcl.File{*file: {Bytes: content}}, 100, isTerminal(env.stderr))
			_ = writer.WriteDiagnostics(diags)
			return config, errUsage
		}
	}
	for _, o := range []struct{ to, from *string }{
		{&config.Bind, bind}, {&config.DataDir, dataDir}, {&config.Nomad.Address, nomadAddress}, {&config.LogLevel, logLevel},
	} {
		if *o.from != "" {
			*o.to = *o.from
		}
	}
	config.Dev = config.Dev || *dev
	if config.Nomad.Token == "" {
		config.Nomad.Token = env.getenv("NOMAD_TOKEN")
	}
	if config.Name == "" {
		config.Name, _ = os.Hostname()
	}
	return config, config.Validate()
}

func runAgent(env environment, config agentconfig.Config) error {
	roomyHeap()
	logger := hclog.New(&hclog.LoggerOptions{Name: "governor", Level: hclog.LevelFromString(config.LogLevel), Output: env.stderr, JSONFormat: config.LogJSON})
	clock := nomadevents.NewClock(time.Now)
	client, err := nomadClient(config.Nomad, clock, logger)
	if err != nil {
		return err
	}
	listener, certificates, err := listen(config, logger)
	if err != nil {
		return err
	}
	defer reloadOnHangup(certificates, logger)()
	opened := []io.Closer{listener}
	closeAll := func(err error) error {
		for _, c := range opened {
			err = errors.Join(err, c.Close())
		}
		return err
	}
	store, err := openStore(config, logger)
	if err != nil {
		return closeAll(err)
	}
	opened = append(opened, store)
	past, err := openHistory(config, logger)
	if err != nil {
		return closeAll(err)
	}
	if past != nil {
		opened = append(opened, past)
	}
	archive, err := openAudit(config, logger)
	if err != nil {
		return closeAll(err)
	}
	peers, err := peersOf(config, listener, logger)
	if err != nil {
		return closeAll(err) // of the audit archive every record is on the disk already
	}
	placement := newPlacer(nomadstate.New(client.Raw()), store, time.Now, *config.Placement, config.Gate.Infeasible == "allow")
	options := agentOptions(config, client, clock, logger)
	options.Store, options.Placer, options.History, options.Peers = store, placement, past, peers
	if archive != nil {
		defer func() { _ = archive.Close() }() // every record is on the disk already
		options.Archive = archive
	}
	a := agent.New(options)
	defer placement.follow(env.ctx)()
	tracer, stopTraces, err := newTracer(config, logger)
	if err != nil {
		return closeAll(err)
	}
	defer stopTraces()
	handler, err := newHandler(env.ctx, config, client, a, placement, tracer, logger)
	if err != nil && env.ctx.Err() != nil {
		logger.Info("stopped before it served", "error", err)
		return closeAll(nil)
	}
	if err != nil {
		return closeAll(err)
	}
	stopMetrics, err := serveMetrics(config.Telemetry.MetricsBind, a.MetricsHandler(), logger)
	if err != nil {
		return closeAll(err)
	}
	defer stopMetrics()
	logger.Info("starting", "version", version.String(), "nomad", config.Nomad.Address, "embedded_store", config.Dev)
	return a.Run(env.ctx, listener, handler)
}

// agentOptions are the parts of an agent that need nothing opened.
func agentOptions(config agentconfig.Config, client *nomad.Client, clock *nomadevents.Clock, logger hclog.Logger) agent.Options {
	gangTimeout, _ := config.Placement.GangWithin() // wrong ones were refused
	planAfter, _ := config.Placement.GangPlans()
	retention, _ := config.History.Keep()
	source := strings.TrimSuffix("/governor/"+config.Nomad.Region, "/")
	return agent.Options{Notify: agent.Notify{Poster: hooks.New(time.Now, version.String()), Source: source, Secret: os.Getenv},
		Name: config.Name, Version: version.String(), Configuration: config.Shown(), Nomad: nomadevents.New(client, clock), Registrar: nomadctl.New(client), Actor: nomadctl.New(client),
		GangTimeout: gangTimeout, GangPlanAfter: planAfter, Retention: retention, Logger: logger, Now: time.Now, Posture: posture.New(client, time.Now),
		UnknownWrites: config.Gate.UnknownWrites == "allow", Delegated: delegated(config), OpenMetrics: config.Telemetry.MetricsAccess == "anyone", OnServe: tellSystemd(logger)}
}

func openStore(config agentconfig.Config, logger hclog.Logger) (agent.Store, error) {
	if !config.Dev {
		c := config.Consul
		store, err := consulkv.New(consulkv.Config{Address: c.Address, Token: c.Token, Datacenter: c.Datacenter, Prefix: c.Prefix,
			TLS: consulkv.TLS{CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile},
			NewDialer: func(t consulkv.TLS) (consulkv.Dial, error) {
				return gate.NewTLSDialer(gate.TLS{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile,
					ServerName: t.ServerName, SkipVerify: t.SkipVerify, Logger: logger.Named("consul.tls")})
			}}, logger)
		if err != nil {
			return nil, fmt.Errorf("open ledger: %w", err)
		}
		return store, nil
	}
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	store, err := sqlite.Open(filepath.Join(config.DataDir, "governor.db"))
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return store, nil
}

func nomadClient(n *agentconfig.Nomad, clock *nomadevents.Clock, logger hclog.Logger) (*nomad.Client, error) {
	transport, err := nomadTransport(n, logger)
	if err != nil {
		return nil, fmt.Errorf("configure the Nomad client: %w", err)
	}
	transport.Proxy = http.ProxyFromEnvironment
	client, err := nomad.NewClient(&nomad.Config{Address: n.Address, SecretID: n.Token, Region: n.Region,
		HttpClient: &http.Client{Transport: clock.Watch(nomadctl.Uncompressed(transport))}})
	if err != nil {
		return nil, fmt.Errorf("configure the Nomad client: %w", err)
	}
	return client, nil
}

// nomadTransport is a new transport to Nomad with its TLS settings.
func nomadTransport(n *agentconfig.Nomad, logger hclog.Logger) (*http.Transport, error) {
	return gate.NewTransport(gate.TLS{CAFile: n.CAFile, CertFile: n.CertFile, KeyFile: n.KeyFile, ServerName: n.TLSServerName, Logger: logger})
}

// delegated is the capability that lets users start work through the gate; "" where the
// gate forwards their own tokens.
func delegated(config agentconfig.Config) string {
	if config.Gate.Credentials != "delegated" {
		return ""
	}
	return config.Gate.SubmitCapability
}

// editPage is what the gate does with the pages of Nomad's UI; nil where they stay as they
// are.
func editPage(config agentconfig.Config) gate.EditPage {
	if !*config.Gate.UIPanel {
		return nil
	}
	return uipanel.Edit
}

// newHandler is everything that the address serves: Governor's own paths, those of the
// placement service among them, and Nomad behind the gate.
func newHandler(ctx context.Context, config agentconfig.Config, client *nomad.Client, a *agent.Agent, placement *placer, tracer trace.Tracer, logger hclog.Logger) (http.Handler, error) {
	region, err := awaitRegion(ctx, config.Nomad, client, logger)
	if err != nil {
		return nil, err
	}
	address, err := url.Parse(config.Nomad.Address)
	if err != nil {
		return nil, fmt.Errorf("nomad.address: %w", err)
	}
	transport, err := nomadTransport(config.Nomad, logger)
	if err != nil {
		return nil, fmt.Errorf("configure gate: %w", err)
	}
	senders, userTokens := identityOf(config)
	var delegation *gate.Delegation
	if capability := delegated(config); capability != "" {
		delegation = &gate.Delegation{Token: config.Nomad.Token, Capability: capability}
	}
	g, err := gate.New(gate.Config{Nomad: address, Transport: transport, Region: region, Admitter: a.Engine, ReadToken: config.Nomad.Token,
		Delegation: delegation, UserTokens: userTokens, AllowUnknownWrites: config.Gate.UnknownWrites == "allow", EditPage: editPage(config), JobLink: config.Gate.UILink,
		Tracer: tracer, Logger: logger})
	if err != nil {
		return nil, err
	}
	shown := panels{gate: g, agent: a, placement: placement, region: region}
	own := quiet(api.Handler(slices.Concat(a.Routes(), placement.routes(a.Engine.PlacingOf), shown.routes(), []api.Route{estimateRoute(g)}), authorize(g), func(r *http.Request, err error) {
		logger.Warn("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}))
	pages := newPages(config, g, a, placement, logger)
	return senders.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// No ServeMux here: it would redirect job ids that look like unclean paths.
		if pages != nil && r.URL.Path == strings.TrimSuffix(api.Prefix, "/") {
			http.Redirect(w, r, api.Prefix, http.StatusFound)
			return
		}
		if !strings.HasPrefix(r.URL.Path, api.Prefix) {
			g.ServeHTTP(w, r)
			return
		}
		if hook := webhook(g, config.Gate.WebhookKey, r); hook != nil {
			hook.ServeHTTP(w, r)
			return
		}
		if file := uipanel.Handler(r.URL.Path); file != nil {
			file.ServeHTTP(w, r)
			return
		}
		if pages != nil && !strings.HasPrefix(r.URL.Path, api.Prefix+"v1/") {
			pages.ServeHTTP(w, r)
			return
		}
		own.ServeHTTP(w, web.ForReading(r))
	})), nil
}

// awaitRegion asks Nomad for its region until it answers: the agent may start
// before Nomad does.
func awaitRegion(ctx context.Context, n *agentconfig.Nomad, client *nomad.Client, logger hclog.Logger) (string, error) {
	if n.Region != "" {
		return n.Region, nil
	}
	for {
		region, err := askRegion(ctx, client)
		if err == nil {
			return region, nil
		}
		logger.Warn("waiting for nomad to say its region; set nomad.region if the agent's token may not read agents",
			"address", n.Address, "error", err)
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("nomad at %s did not say its region: %w", n.Address, err)
		case <-time.After(2 * time.Second):
		}
	}
}

// askRegion asks once. Where there is one region Nomad tells it to everybody; else
// the token must be allowed to read agents. Unlike the client's own calls it ends
// with ctx.
func askRegion(ctx context.Context, client *nomad.Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var regions []string
	if _, err := client.Raw().Query("/v1/regions", &regions, (&nomad.QueryOptions{}).WithContext(ctx)); err != nil {
		return "", fmt.Errorf("ask nomad for its regions: %w", err)
	}
	if len(regions) == 1 {
		return regions[0], nil
	}
	var self nomad.AgentSelf
	if _, err := client.Raw().Query("/v1/agent/self", &self, (&nomad.QueryOptions{}).WithContext(ctx)); err != nil {
		return "", fmt.Errorf("ask nomad about itself: %w", err)
	}
	region, ok := self.Config["Region"].(string)
	if !ok || region == "" {
		return "", errors.New("nomad's answer names no region")
	}
	return region, nil
}

// authorize lets anyone read whose token Nomad accepts, and management tokens
// change budgets. Without ACLs everybody may do everything, as in Nomad.
func authorize(g *gate.Gate) api.Authorize {
	return func(r *http.Request, right api.Right) (api.Caller, int, string) {
		id, err := g.Caller(r)
		switch {
		case errors.Is(err, gate.ErrUnknownToken):
			return api.Caller{}, http.StatusForbidden, "Nomad does not accept this token; set NOMAD_TOKEN"
		case err != nil:
			return api.Caller{}, http.StatusServiceUnavailable, "Nomad cannot be asked who you are: " + err.Error()
		case slices.Contains(id.Names, gate.NameACLDisabled):
			return api.Caller{Accessor: cmp.Or(id.Accessor, "anonymous"), Names: id.Names}, 0, ""
		case slices.Contains(id.Names, gate.NameAnonymous):
			return api.Caller{}, http.StatusForbidden, "a Nomad token is needed; set NOMAD_TOKEN"
		case right == api.Write && !slices.Contains(id.Names, "type:management"):
			return api.Caller{}, http.StatusForbidden, "changing budgets needs a Nomad management token"
		}
		caller := api.Caller{Accessor: id.Accessor, Names: id.Names}
		if !slices.Contains(id.Names, "type:management") {
			caller.Sees = func() (func(string) bool, error) {
				_, reads, err := g.Sees(r)
				return reads, err
			}
		}
		return caller, 0, ""
	}
}
