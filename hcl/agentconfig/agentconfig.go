package agentconfig

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
)

// Config is everything that `governor agent` can be told.
type Config struct {
	// Name of this replica, shown to operators; the host name by default.
	Name string `hcl:"name,optional"`
	// Bind is the host:port that serves Nomad's API and UI, governed.
	Bind string `hcl:"bind,optional"`
	// Advertise is the URL at which other agents reach this one; by default the
	// address that it serves.
	Advertise string `hcl:"advertise,optional"`
	// DataDir keeps the history, and the embedded store of -dev.
	DataDir string `hcl:"data_dir,optional"`
	// LogLevel is trace, debug, info, warn or error.
	LogLevel string `hcl:"log_level,optional"`
	LogJSON  bool   `hcl:"log_json,optional"`
	// Dev keeps the ledger in an embedded SQLite file instead of Consul.
	Dev    bool    `hcl:"dev,optional"`
	Nomad  *Nomad  `hcl:"nomad,block"`
	Consul *Consul `hcl:"consul,block"`
	Gate   *Gate   `hcl:"gate,block"`
	// Placement says how jobs get their GPUs.
	Placement *Placement `hcl:"placement,block"`
	History   *History   `hcl:"history,block"`
	TLS       *TLS       `hcl:"tls,block"`
	// Identity says by what people are known besides their Nomad tokens.
	Identity *Identity `hcl:"identity,block"`
	// Telemetry says what the agent tells about itself.
	Telemetry *Telemetry `hcl:"telemetry,block"`
	// Web says whether pages are served.
	Web *Web `hcl:"web,block"`
}

// Nomad is how the agent reaches Nomad.
type Nomad struct {
	Address string `hcl:"address,optional"`
	// Token with which the agent itself reads nodes, jobs and allocations of all
	// namespaces. NOMAD_TOKEN stands in when it is empty.
	Token         string `hcl:"token,optional"`
	Region        string `hcl:"region,optional"`
	CAFile        string `hcl:"ca_file,optional"`
	CertFile      string `hcl:"cert_file,optional"`
	KeyFile       string `hcl:"key_file,optional"`
	TLSServerName string `hcl:"tls_server_name,optional"`
}

// Consul is how the agent reaches the ledger's store.
type Consul struct {
	Address    string `hcl:"address,optional"`
	Token      string `hcl:"token,optional"`
	Datacenter string `hcl:"datacenter,optional"`
	// Prefix of all keys, "governor/" by default.
	Prefix   string `hcl:"prefix,optional"`
	CAFile   string `hcl:"ca_file,optional"`
	CertFile string `hcl:"cert_file,optional"`
	KeyFile  string `hcl:"key_file,optional"`
}

// capability is how Nomad's capabilities are written.
var capability = regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)

// nodePool is what Nomad's node pools may be called.
var nodePool = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// webhookKeyMin keeps a webhook's key from being guessed.
const webhookKeyMin = 20

// Gate tunes the proxy.
type Gate struct {
	// UnknownWrites is deny (default) or allow: what happens to writes under /v1/
	// that this build does not know.
	UnknownWrites string `hcl:"unknown_writes,optional"`
	// Infeasible is deny (default) or allow: what happens to a job that no node
	// could serve now. Allow it where nodes are added on demand.
	Infeasible string `hcl:"infeasible,optional"`
	// Credentials is passthrough (default: the users' own tokens are forwarded) or
	// delegated: users may not start work at Nomad, and the gate does it for them with
	// nomad.token once it has looked at their policies itself.
	Credentials string `hcl:"credentials,optional"`
	// SubmitCapability lets somebody start work through the gate where credentials are
	// delegated: plan-job by default.
	SubmitCapability string `hcl:"submit_capability,optional"`
	// WebhookKey turns the webhooks for NACP on. Who has it says in whose name is
	// asked; it stands in the address of the webhook.
	WebhookKey string `hcl:"webhook_key,optional"`
	// UIPanel shows Governor's panel on the job, allocation and task pages of Nomad's UI;
	// true by default.
	UIPanel *bool `hcl:"ui_panel,optional"`
	// UILink is the URL at which people reach the gate: new GPU jobs then get a link to
	// their page there in their ui block. Empty for none.
	UILink string `hcl:"ui_link,optional"`
}

// History says where the history of usage is kept, and for how long.
type History struct {
	// Path of the file; history.db in DataDir by default.
	Path string `hcl:"path,optional"`
	// Retention is how long single entries are kept: days ("90d"), hours ("2160h"), or
	// "forever". Their sums are kept for good.
	Retention string `hcl:"retention,optional"`
}

// HistoryFile is the path of the history; "" when none is kept.
func (c Config) HistoryFile() string {
	if c.History.Path != "" || c.DataDir == "" {
		return c.History.Path
	}
	return filepath.Join(c.DataDir, "history.db")
}

// retentionLeast is the shortest retention: a month must be over, and its receipts
// read, before its entries go.
const retentionLeast = 32 * 24 * time.Hour

// Keep is how long single entries are kept; 0 means for good.
func (h History) Keep() (time.Duration, error) {
	if h.Retention == "forever" {
		return 0, nil
	}
	var d time.Duration
	var err error
	if days, isDays := strings.CutSuffix(h.Retention, "d"); isDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	} else {
		d, err = time.ParseDuration(h.Retention)
	}
	if err != nil || d < retentionLeast {
		return 0, fmt.Errorf("history.retention is %q; it must be at least 32d, or forever", h.Retention)
	}
	return d, nil
}

// TLS serves the gate over HTTPS.
type TLS struct {
	CertFile string `hcl:"cert_file"`
	KeyFile  string `hcl:"key_file"`
	// CAFile is what agents check each other's certificates with; those that the system
	// trusts by default.
	CAFile string `hcl:"ca_file,optional"`
	// ClientCAFile is what certificates of clients are checked with. VerifyClient is
	// require (default), or optional for clients without one.
	ClientCAFile string `hcl:"client_ca_file,optional"`
	VerifyClient string `hcl:"verify_client,optional"`

	VerifyClientRange hcl.Range `hcl:"verify_client,attr_value_range"`
}

// Default is the configuration of an agent beside a local Nomad and Consul.
func Default() Config {
	return Config{
		Bind: "127.0.0.1:4640", LogLevel: "info",
		Nomad:   &Nomad{Address: "http://127.0.0.1:4646"},
		Consul:  &Consul{Address: "http://127.0.0.1:8500", Prefix: "governor/"},
		Gate:    &Gate{UnknownWrites: "deny", Infeasible: "deny", Credentials: "passthrough", SubmitCapability: "plan-job", UIPanel: new(true)},
		History: &History{Retention: "90d"}, Placement: &Placement{Mode: "require", GangTimeout: "2m", GangPlanAfter: "15m", Rack: "${meta.governor_rack}", Block: "${meta.governor_block}"},
		Telemetry: &Telemetry{MetricsAccess: "token", TraceRatio: "1"},
	}
}

// Parse decodes one file on top of base. Unknown names are errors.
func Parse(name string, content []byte, base Config) (Config, hcl.Diagnostics) {
	file, diags := hclparse.NewParser().ParseHCL(content, name)
	if diags.HasErrors() {
		return base, diags
	}
	out := base
	var read Config
	diags = append(diags, gohcl.DecodeBody(file.Body, nil, &read)...)
	if diags.HasErrors() {
		return base, diags
	}
	if diags = append(diags, lintIdentity(read)...); diags.HasErrors() {
		return base, diags
	}
	out.merge(read)
	return out, diags
}

func (c *Config) merge(o Config) {
	for _, pair := range []struct{ to, from *string }{
		{&c.Name, &o.Name}, {&c.Bind, &o.Bind}, {&c.Advertise, &o.Advertise}, {&c.DataDir, &o.DataDir}, {&c.LogLevel, &o.LogLevel},
	} {
		override(pair.to, *pair.from)
	}
	c.LogJSON, c.Dev = c.LogJSON || o.LogJSON, c.Dev || o.Dev
	if o.Nomad != nil {
		n := *c.Nomad
		for _, pair := range []struct{ to, from *string }{
			{&n.Address, &o.Nomad.Address}, {&n.Token, &o.Nomad.Token}, {&n.Region, &o.Nomad.Region}, {&n.CAFile, &o.Nomad.CAFile},
			{&n.CertFile, &o.Nomad.CertFile}, {&n.KeyFile, &o.Nomad.KeyFile}, {&n.TLSServerName, &o.Nomad.TLSServerName},
		} {
			override(pair.to, *pair.from)
		}
		c.Nomad = &n
	}
	if o.Consul != nil {
		k := *c.Consul
		for _, pair := range []struct{ to, from *string }{
			{&k.Address, &o.Consul.Address}, {&k.Token, &o.Consul.Token}, {&k.Datacenter, &o.Consul.Datacenter},
			{&k.Prefix, &o.Consul.Prefix}, {&k.CAFile, &o.Consul.CAFile}, {&k.CertFile, &o.Consul.CertFile}, {&k.KeyFile, &o.Consul.KeyFile},
		} {
			override(pair.to, *pair.from)
		}
		c.Consul = &k
	}
	if o.Gate != nil {
		g := *c.Gate
		override(&g.UnknownWrites, o.Gate.UnknownWrites)
		override(&g.Infeasible, o.Gate.Infeasible)
		override(&g.WebhookKey, o.Gate.WebhookKey)
		override(&g.Credentials, o.Gate.Credentials)
		override(&g.SubmitCapability, o.Gate.SubmitCapability)
		override(&g.UILink, o.Gate.UILink)
		if o.Gate.UIPanel != nil {
			g.UIPanel = o.Gate.UIPanel
		}
		c.Gate = &g
	}
	if o.Placement != nil {
		c.Placement = c.Placement.merge(*o.Placement)
	}
	if o.History != nil {
		h := *c.History
		override(&h.Path, o.History.Path)
		override(&h.Retention, o.History.Retention)
		c.History = &h
	}
	if o.TLS != nil {
		c.TLS = o.TLS
	}
	if o.Identity != nil {
		c.Identity = o.Identity
	}
	if o.Telemetry != nil {
		c.Telemetry = c.Telemetry.merge(*o.Telemetry)
	}
	if o.Web != nil {
		c.Web = o.Web
	}
}

func override(to *string, from string) {
	if from != "" {
		*to = from
	}
}

// Validate checks the whole and says everything that is wrong at once.
func (c Config) Validate() error {
	var problems []string
	complain := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if _, port, err := net.SplitHostPort(c.Bind); err != nil || !validPort(port) {
		complain("bind is %q; it must be host:port, for example 127.0.0.1:4640", c.Bind)
	}
	if !oneOf(c.LogLevel, "trace", "debug", "info", "warn", "error") {
		complain("log_level is %q; it must be trace, debug, info, warn or error", c.LogLevel)
	}
	if c.Dev && c.DataDir == "" {
		complain("the embedded store needs data_dir, a directory for its file")
	}
	if c.Advertise != "" {
		checkURL(complain, "advertise", c.Advertise)
	}
	if _, err := c.History.Keep(); err != nil {
		complain("%v", err)
	}
	checkURL(complain, "nomad.address", c.Nomad.Address)
	checkPair(complain, "nomad", c.Nomad.CertFile, c.Nomad.KeyFile)
	if !c.Dev {
		checkURL(complain, "consul.address", c.Consul.Address)
		checkPair(complain, "consul", c.Consul.CertFile, c.Consul.KeyFile)
		if !strings.HasSuffix(c.Consul.Prefix, "/") || strings.HasPrefix(c.Consul.Prefix, "/") {
			complain("consul.prefix is %q; it must end in a slash and not begin with one, for example governor/", c.Consul.Prefix)
		}
	}
	if !oneOf(c.Gate.UnknownWrites, "deny", "allow") {
		complain("gate.unknown_writes is %q; it must be deny or allow", c.Gate.UnknownWrites)
	}
	if key := c.Gate.WebhookKey; key != "" && (len(key) < webhookKeyMin || url.QueryEscape(key) != key) {
		complain("gate.webhook_key is too short or no plain text; it must have at least %d letters, digits, dots, dashes and underscores", webhookKeyMin)
	}
	if c.Gate.UILink != "" {
		checkURL(complain, "gate.ui_link", c.Gate.UILink)
	}
	if !oneOf(c.Gate.Credentials, "passthrough", "delegated") {
		complain("gate.credentials is %q; it must be passthrough or delegated", c.Gate.Credentials)
	}
	if c.Gate.Credentials == "delegated" && c.Nomad.Token == "" {
		complain("gate.credentials is delegated and nomad.token is not set; the gate starts work with it")
	}
	if !capability.MatchString(c.Gate.SubmitCapability) {
		complain("gate.submit_capability is %q; it must be a capability of Nomad's namespace policies, for example plan-job", c.Gate.SubmitCapability)
	}
	if !oneOf(c.Gate.Infeasible, "deny", "allow") {
		complain("gate.infeasible is %q; it must be deny or allow", c.Gate.Infeasible)
	}
	c.Placement.validate(complain)
	c.Telemetry.validate(complain)
	if len(problems) > 0 {
		return fmt.Errorf("agent configuration:\n  - %s", strings.Join(problems, "\n  - "))
	}
	return nil
}

func oneOf(text string, allowed ...string) bool {
	for _, a := range allowed {
		if text == a {
			return true
		}
	}
	return false
}

func checkURL(complain func(string, ...any), name, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		complain("%s is %q; it must be a URL, for example http://127.0.0.1:4646", name, text)
	case u.User != nil:
		complain("%s holds a user or password; use token instead", name) // and is not repeated here
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		complain("%s is %q; it must be a URL without a path, for example http://127.0.0.1:4646", name, text)
	}
}

// checkPair: a certificate is of no use without its key, nor a key without its
// certificate.
func checkPair(complain func(string, ...any), block, cert, key string) {
	if (cert == "") != (key == "") {
		complain("%s sets only one of cert_file and key_file; set both or neither", block)
	}
}

func validPort(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return err == nil && (port > 0 || text == "0") // 0 picks a free port
}
