package agentconfig

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/shoenig/test/must"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestTheDefaultsAreValid(t *testing.T) {
	t.Parallel()
	must.NoError(t, Default().Validate())
}

func TestNodePoolsHaveModesOfTheirOwn(t *testing.T) {
	t.Parallel()
	first, diags := Parse("a.hcl", []byte("placement {\n  mode = \"prefer\"\n  node_pool \"gpu\" {\n    mode = \"off\"\n  }\n  node_pool \"batch\" {\n    mode = \"off\"\n  }\n}\n"), Default())
	must.False(t, diags.HasErrors())
	both, diags := Parse("b.hcl", []byte("placement {\n  node_pool \"gpu\" {\n    mode = \"require\"\n  }\n}\n"), first)
	must.False(t, diags.HasErrors())
	must.NoError(t, both.Validate())
	must.Eq(t, "prefer", both.Placement.Mode)
	must.Eq(t, map[string]string{"gpu": "require", "batch": "off"}, both.Placement.Pools())
	must.Eq(t, map[string]string{"gpu": "off", "batch": "off"}, first.Placement.Pools(), must.Sprint("what was read before stays"))
	must.Eq(t, map[string]string{}, Default().Placement.Pools())
}

func TestPagesAreServedUnlessSwitchedOff(t *testing.T) {
	t.Parallel()
	must.True(t, Default().ServesPages())
	for text, want := range map[string]bool{"web {\n  enabled = false\n}\n": false, "web {\n  enabled = true\n}\n": true, "web {}\n": true, "": true} {
		config, diags := Parse("a.hcl", []byte(text), Default())
		must.False(t, diags.HasErrors())
		must.EqOp(t, want, config.ServesPages(), must.Sprint(text))
	}
}

func TestWhatNomadsUIShows(t *testing.T) {
	t.Parallel()
	must.True(t, *Default().Gate.UIPanel)
	must.Eq(t, "", Default().Gate.UILink)
	first, diags := Parse("a.hcl", []byte("gate {\n  ui_panel = false\n  ui_link = \"https://governor.example:4640\"\n}\n"), Default())
	must.False(t, diags.HasErrors())
	both, diags := Parse("b.hcl", []byte("gate {\n  infeasible = \"allow\"\n}\n"), first)
	must.False(t, diags.HasErrors())
	must.NoError(t, both.Validate())
	must.False(t, *both.Gate.UIPanel)
	must.Eq(t, "https://governor.example:4640", both.Gate.UILink)
	on, diags := Parse("c.hcl", []byte("gate {\n  ui_panel = true\n}\n"), both)
	must.False(t, diags.HasErrors())
	must.True(t, *on.Gate.UIPanel)
	must.False(t, *both.Gate.UIPanel, must.Sprint("what was read before stays"))
}

func TestRatesOfLoading(t *testing.T) {
	t.Parallel()
	rates := func(c Config) []int64 {
		fetch, disk, memory, err := c.Placement.Rates()
		must.NoError(t, err)
		return []int64{fetch, disk, memory}
	}
	must.Eq(t, []int64{1_250_000_000, 5_000_000_000, 25_000_000_000}, rates(Default()))
	first, diags := Parse("a.hcl", []byte("placement {\n  loading {\n    fetch = \"1GiB\"\n    disk = \"2GB\"\n  }\n}\n"), Default())
	must.False(t, diags.HasErrors())
	both, diags := Parse("b.hcl", []byte("placement {\n  loading {\n    disk = \"3GB\"\n  }\n}\n"), first)
	must.False(t, diags.HasErrors())
	must.NoError(t, both.Validate())
	must.Eq(t, []int64{1 << 30, 3_000_000_000, 25_000_000_000}, rates(both))
	must.Eq(t, []int64{1 << 30, 2_000_000_000, 25_000_000_000}, rates(first), must.Sprint("what was read before stays"))
}

// Diagnostics that people read, one golden file for each mistake.
func TestMistakesAreExplained(t *testing.T) {
	t.Parallel()
	cases := map[string]string{
		"unknown_attribute": "bind = \"127.0.0.1:4640\"\nbindd = \"x\"\n",
		"unknown_in_block":  "nomad {\n  addresz = \"http://127.0.0.1:4646\"\n}\n",
		"unknown_block":     "vault {\n}\n",
		"block_twice":       "gate {\n}\ngate {\n}\n",
		"wrong_type":        "log_json = \"perhaps\"\n",
		"missing_attribute": "tls {\n  cert_file = \"a.pem\"\n}\n",
		"node_pool":         "placement {\n  node_pool \"gpu\" {\n  }\n}\n",
		"variable":          "name = host\n",
		"not_hcl":           "{ \"name\": \"x\" \n",
		"user_token_names":  "identity {\n  user_token_names = [\n    \"okta-*\", \"okta\", \"*-*\",\n  ]\n}\n",
		"unverified":        "identity {\n  client_certificates = true\n}\ntls {\n  cert_file = \"a.pem\"\n  key_file  = \"b.pem\"\n}\n",
		"verify_client":     "tls {\n  cert_file     = \"a.pem\"\n  key_file      = \"b.pem\"\n  verify_client = \"require\"\n}\n",
		"verify_client_how": "tls {\n  cert_file      = \"a.pem\"\n  key_file       = \"b.pem\"\n  client_ca_file = \"c.pem\"\n  verify_client  = \"perhaps\"\n}\n",
		"header_of_all":     "identity {\n  header {\n    name          = \"X-User\"\n    trusted_cidrs = [\"0.0.0.0/0\", \"::/0\", \"::ffff:10.0.0.0/104\", \"10.0.0.7\"]\n  }\n}\n",
		"header_of_nobody":  "identity {\n  header {\n    name          = \"X-User\"\n    trusted_cidrs = []\n  }\n}\n",
		"header_alone":      "identity {\n  header {\n    name = \"X-User\"\n  }\n}\n",
		"header_forwarded":  "identity {\n  header {\n    name          = \"x-forwarded-for\"\n    trusted_cidrs = [\"10.0.0.7/32\"]\n  }\n}\n",
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := Default()
			got, diags := Parse("agent.hcl", []byte(text), base)
			must.True(t, diags.HasErrors())
			must.Eq(t, base, got, must.Sprint("a broken file changes nothing"))
			var out bytes.Buffer
			writer := hcl.NewDiagnosticTextWriter(&out, map[string]*hcl.File{"agent.hcl": {Bytes: []byte(text)}}, 100, false)
			must.NoError(t, writer.WriteDiagnostics(diags))
			golden(t, name, out.Bytes())
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	path := filepath.Join("testdata", name+".txt")
	if *update {
		must.NoError(t, os.WriteFile(path, got, 0o600))
	}
	want, err := os.ReadFile(path)
	must.NoError(t, err)
	must.Eq(t, string(want), string(got))
}

func TestAFileChangesOnlyWhatItNames(t *testing.T) {
	t.Parallel()
	base := Default()
	base.Nomad.Token, base.Nomad.Region = "from the environment", "eu"
	got, diags := Parse("agent.hcl", []byte(`
name      = "one"
log_level = "debug"
nomad { ca_file = "ca.pem" }
consul { token = "t" }
gate { infeasible = "allow" }
telemetry { metrics_bind = "127.0.0.1:4641" }
tls {
  cert_file = "c"
  key_file  = "k"
}
`), base)
	must.False(t, diags.HasErrors(), must.Sprint(diags.Error()))
	must.NoError(t, got.Validate())
	want := Default()
	want.Name, want.LogLevel = "one", "debug"
	want.Nomad = &Nomad{Address: "http://127.0.0.1:4646", Token: "from the environment", Region: "eu", CAFile: "ca.pem"}
	want.Consul.Token, want.Gate.Infeasible = "t", "allow"
	want.Telemetry.MetricsBind = "127.0.0.1:4641"
	want.TLS = &TLS{CertFile: "c", KeyFile: "k"}
	got.TLS.VerifyClientRange = hcl.Range{} // where something is that the file does not have
	must.Eq(t, want, got)
	must.Eq(t, Default().Gate, base.Gate, must.Sprint("the base is not changed"))
	must.Eq(t, "", base.Consul.Token)
}

func TestValidateSaysAllThatIsWrong(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change func(*Config)
		want   string
	}{
		"bind without a port":    {func(c *Config) { c.Bind = "localhost" }, `bind is "localhost"; it must be host:port`},
		"bind with a name":       {func(c *Config) { c.Bind = "localhost:http" }, `bind is "localhost:http"`},
		"bind beyond the ports":  {func(c *Config) { c.Bind = ":70000" }, `bind is ":70000"`},
		"level":                  {func(c *Config) { c.LogLevel = "loud" }, `log_level is "loud"`},
		"dev without a place":    {func(c *Config) { c.Dev = true }, "needs data_dir"},
		"an address of no kind":  {func(c *Config) { c.Nomad.Address = "127.0.0.1:4646" }, `nomad.address is "127.0.0.1:4646"`},
		"an address with a path": {func(c *Config) { c.Nomad.Address = "http://h/nomad" }, "without a path"},
		"a password":             {func(c *Config) { c.Consul.Address = "http://u:hunter2@h" }, "consul.address holds a user or password"},
		"a prefix without end":   {func(c *Config) { c.Consul.Prefix = "governor" }, "must end in a slash"},
		"a prefix with a slash":  {func(c *Config) { c.Consul.Prefix = "/governor/" }, "not begin with one"},
		"a key without its cert": {func(c *Config) { c.Nomad.KeyFile = "k" }, "nomad sets only one of cert_file and key_file"},
		"unknown writes":         {func(c *Config) { c.Gate.UnknownWrites = "ask" }, `gate.unknown_writes is "ask"`},
		"a link without a host":  {func(c *Config) { c.Gate.UILink = "governor.example" }, `gate.ui_link is "governor.example"; it must be a URL`},
		"a webhook's key":        {func(c *Config) { c.Gate.WebhookKey = "secret" }, "gate.webhook_key is too short"},
		"a key with blanks":      {func(c *Config) { c.Gate.WebhookKey = "twenty characters & more" }, "letters, digits, dots"},
		"placement":              {func(c *Config) { c.Placement.Mode = "best" }, `placement.mode is "best"; it must be require, prefer or off`},
		"who reads metrics":      {func(c *Config) { c.Telemetry.MetricsAccess = "all" }, `telemetry.metrics_access is "all"; it must be token or anyone`},
		"metrics without a port": {func(c *Config) { c.Telemetry.MetricsBind = "localhost" }, `telemetry.metrics_bind is "localhost"; it must be host:port`},
		"a collector's address":  {func(c *Config) { c.Telemetry.OTLPEndpoint = "localhost:4318" }, `telemetry.otlp_endpoint is "localhost:4318"; it must be a URL`},
		"more than all traces":   {func(c *Config) { c.Telemetry.TraceRatio = "1.5" }, `telemetry.trace_ratio is "1.5"; it must be a number from 0 to 1`},
		"no part of the traces":  {func(c *Config) { c.Telemetry.TraceRatio = "NaN" }, `telemetry.trace_ratio is "NaN"`},
		"a gang's timeout":       {func(c *Config) { c.Placement.GangTimeout = "soon" }, `placement.gang_timeout is "soon"; it must be a duration of at least 1s`},
		"when a gang plans":      {func(c *Config) { c.Placement.GangPlanAfter = "0" }, `placement.gang_plan_after is "0"; it must be a duration of at least 1s, for example 15m, or never`},
		"a short timeout":        {func(c *Config) { c.Placement.GangTimeout = "10ms" }, `placement.gang_timeout is "10ms"`},
		"a rack":                 {func(c *Config) { c.Placement.Rack = "rack" }, `placement.rack is "rack"; it must be what a node has, as in a constraint`},
		"a block":                {func(c *Config) { c.Placement.Block = "${device.model}" }, `placement.block is "${device.model}"`},
		"a pool's placement": {func(c *Config) { c.Placement.NodePools = []NodePool{{"gpu", "on"}} },
			`the mode of placement's node_pool "gpu" is "on"; it must be require, prefer or off`},
		"a pool of no name": {func(c *Config) { c.Placement.NodePools = []NodePool{{"gpu pool", "off"}} }, `placement has a node_pool "gpu pool"; a name has letters`},
		"a pool twice": {func(c *Config) { c.Placement.NodePools = []NodePool{{"gpu", "off"}, {"gpu", "off"}} },
			`placement has two blocks for node_pool "gpu"; write one`},
		"a rate of loading": {func(c *Config) { c.Placement.Loading = &Loading{Fetch: "fast", Disk: "0"} },
			`placement.loading.fetch is "fast"; it must be a size per second, such as 2GB; placement.loading.disk is "0"`},
		"infeasible":       {func(c *Config) { c.Gate.Infeasible = "" }, `gate.infeasible is ""`},
		"credentials":      {func(c *Config) { c.Gate.Credentials = "mine" }, `gate.credentials is "mine"; it must be passthrough or delegated`},
		"no token to lend": {func(c *Config) { c.Gate.Credentials = "delegated" }, "gate.credentials is delegated and nomad.token is not set"},
		"a capability":     {func(c *Config) { c.Gate.SubmitCapability = "Plan Job" }, `gate.submit_capability is "Plan Job"`},
	}
	all := Default()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			config := Default()
			c.change(&config)
			err := config.Validate()
			must.ErrorContains(t, err, c.want)
			must.StrNotContains(t, err.Error(), "hunter2")
		})
		if name == "level" || name == "infeasible" {
			c.change(&all)
		}
	}
	err := all.Validate()
	must.ErrorContains(t, err, "log_level")
	must.ErrorContains(t, err, "gate.infeasible")
}

func TestAnEmbeddedStoreNeedsNoConsul(t *testing.T) {
	t.Parallel()
	c := Default()
	c.Dev, c.DataDir, c.Consul.Address = true, "/tmp/x", "nonsense"
	must.NoError(t, c.Validate())
}

func TestIdentityIsOffUntilItIsConfigured(t *testing.T) {
	t.Parallel()
	must.Nil(t, Default().Identity)
	got, diags := Parse("agent.hcl", []byte(`
tls {
  cert_file      = "c"
  key_file       = "k"
  client_ca_file = "users"
  verify_client  = "optional"
}
identity {
  user_token_names    = ["OIDC-okta-*", "*@ci"]
  client_certificates = true
  header {
    name          = "X-Forwarded-User"
    trusted_cidrs = ["10.0.0.7/8", "fd00::7/128"]
  }
}
`), Default())
	must.False(t, diags.HasErrors(), must.Sprint(diags.Error()))
	must.NoError(t, got.Validate())
	must.Eq(t, []string{"OIDC-okta-*", "*@ci"}, got.Identity.UserTokenNames)
	must.True(t, got.Identity.ClientCertificates)
	must.Eq(t, "X-Forwarded-User", got.Identity.Header.Name)
	must.Eq(t, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::7/128")}, got.Identity.Header.Prefixes())
	must.Eq(t, "users", got.TLS.ClientCAFile)
	must.Eq(t, "optional", got.TLS.VerifyClient)
}

func TestHeadersThatCannotNameAUser(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "X User", "X_User", "X-Usér", "Host", "authorization", "X-Nomad-Token", "x-nomad-index", "x-forwarded-for", "Sec-WebSocket-Key", "Forwarded", "x-real-ip"} {
		must.False(t, validHeader(name), must.Sprint(name))
	}
	for _, name := range []string{"X-Forwarded-User", "x-auth-request-email", "Remote-User"} {
		must.True(t, validHeader(name), must.Sprint(name))
	}
}

// The examples of the operator's guide are configurations that work.
func TestTheExamplesOfTheGuideAreValid(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/agent.md")
	must.NoError(t, err)
	examples := 0
	for _, found := range regexp.MustCompile("(?s)```hcl\n(.*?)```").FindAllSubmatch(page, -1) {
		if !bytes.Contains(found[1], []byte("identity {")) && !bytes.Contains(found[1], []byte("agent.hcl")) {
			continue
		}
		examples++
		config, diags := Parse("agent.hcl", found[1], Default())
		must.False(t, diags.HasErrors(), must.Sprint(diags.Error()))
		must.NoError(t, config.Validate())
	}
	must.Eq(t, 3, examples)
}
