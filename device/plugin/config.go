package plugin

import (
	"fmt"
	"net"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-governor/governor/device/inventory"
)

// The periods' bounds. Below the least the driver is asked for nothing new;
// above the most a lost GPU is offered to jobs for too long.
const (
	fingerprintPeriodLeast = time.Second
	healthPeriodLeast      = 100 * time.Millisecond
	periodMost             = time.Hour
)

// DefaultStateDir is where the plugin keeps what must outlive it.
const DefaultStateDir = "/var/lib/nomad-device-gpu"

func attr(name, typ, literal string) *hclspec.Spec {
	spec := hclspec.NewAttr(name, typ, false)
	if literal == "" {
		return spec
	}
	return hclspec.NewDefault(spec, hclspec.NewLiteral(literal))
}

var configSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"enabled":            attr("enabled", "bool", "true"),
	"ignored_gpu_ids":    attr("ignored_gpu_ids", "list(string)", "[]"),
	"fingerprint_period": attr("fingerprint_period", "string", `"15s"`),
	"health_period":      attr("health_period", "string", `"1s"`),
	"nvml_library_path":  attr("nvml_library_path", "string", ""),
	"stats":              attr("stats", "bool", "true"),
	"state_dir":          attr("state_dir", "string", ""),
	"mig_strategy":       attr("mig_strategy", "string", `"mixed"`),
	"topology_groups":    attr("topology_groups", "string", `"off"`),
	"injection":          attr("injection", "string", `"auto"`),
	"driver_root":        attr("driver_root", "string", ""),
	"dev_root":           attr("dev_root", "string", ""),
	"cdi_spec_dir":       attr("cdi_spec_dir", "string", ""),
	"imex_channels":      attr("imex_channels", "list(number)", "[]"),
	"prometheus_address": attr("prometheus_address", "string", ""),
	"mps_pipe_directory": attr("mps_pipe_directory", "string", ""),
	"rogue_exempt":       attr("rogue_exempt", "list(string)", ""),
	"sharing": hclspec.NewBlockList("sharing", hclspec.NewObject(map[string]*hclspec.Spec{
		"gpus":     hclspec.NewAttr("gpus", "list(string)", true),
		"strategy": attr("strategy", "string", `"time-slicing"`),
		"replicas": hclspec.NewAttr("replicas", "number", true),
	})),
	"health": hclspec.NewBlock("health", false, hclspec.NewObject(map[string]*hclspec.Spec{
		"withhold_degraded": attr("withhold_degraded", "bool", "false"),
		"clean_readings":    attr("clean_readings", "number", "10"),
		"unhealthy":         attr("unhealthy", "list(string)", "[]"),
		"degraded":          attr("degraded", "list(string)", "[]"),
		"ignore":            attr("ignore", "list(string)", "[]"),
	})),
})

// wireConfig is the plugin block as Nomad sends it, and as HCL has it.
type wireConfig struct {
	Enabled           bool          `codec:"enabled" hcl:"enabled,optional"`
	IgnoredGPUIDs     []string      `codec:"ignored_gpu_ids" hcl:"ignored_gpu_ids,optional"`
	FingerprintPeriod string        `codec:"fingerprint_period" hcl:"fingerprint_period,optional"`
	HealthPeriod      string        `codec:"health_period" hcl:"health_period,optional"`
	NVMLLibraryPath   string        `codec:"nvml_library_path" hcl:"nvml_library_path,optional"`
	Stats             bool          `codec:"stats" hcl:"stats,optional"`
	StateDir          string        `codec:"state_dir" hcl:"state_dir,optional"`
	MIGStrategy       string        `codec:"mig_strategy" hcl:"mig_strategy,optional"`
	TopologyGroups    string        `codec:"topology_groups" hcl:"topology_groups,optional"`
	Injection         string        `codec:"injection" hcl:"injection,optional"`
	DriverRoot        string        `codec:"driver_root" hcl:"driver_root,optional"`
	DevRoot           string        `codec:"dev_root" hcl:"dev_root,optional"`
	CDISpecDir        string        `codec:"cdi_spec_dir" hcl:"cdi_spec_dir,optional"`
	IMEXChannels      []int         `codec:"imex_channels" hcl:"imex_channels,optional"`
	PrometheusAddress string        `codec:"prometheus_address" hcl:"prometheus_address,optional"`
	MPSPipeDirectory  string        `codec:"mps_pipe_directory" hcl:"mps_pipe_directory,optional"`
	RogueExempt       []string      `codec:"rogue_exempt" hcl:"rogue_exempt,optional"`
	Sharing           []wireSharing `codec:"sharing" hcl:"sharing,block"`
	Health            *wireHealth   `codec:"health" hcl:"health,block"`
}

type wireSharing struct {
	GPUs     []string `codec:"gpus" hcl:"gpus,optional"`
	Strategy string   `codec:"strategy" hcl:"strategy,optional"`
	Replicas int      `codec:"replicas" hcl:"replicas,optional"`
}

type wireHealth struct {
	WithholdDegraded bool     `codec:"withhold_degraded" hcl:"withhold_degraded,optional"`
	CleanReadings    int      `codec:"clean_readings" hcl:"clean_readings,optional"`
	Unhealthy        []string `codec:"unhealthy" hcl:"unhealthy,optional"`
	Degraded         []string `codec:"degraded" hcl:"degraded,optional"`
	Ignore           []string `codec:"ignore" hcl:"ignore,optional"`
}

// Settings is a checked plugin block.
type Settings struct {
	Enabled                         bool
	FingerprintPeriod, HealthPeriod time.Duration
	LibraryPath                     string
	Stats                           bool
	// StateDir is where group identities and the key for grants are kept.
	StateDir string

	// Layout has what the block says about devices; Grouping its
	// topology_groups.
	Layout   inventory.Layout
	Grouping inventory.Grouping
	Policy   inventory.Policy

	// Injection is runtime, devices, cdi or auto. The roots and directories
	// are empty for the usual ones.
	Injection                       string
	DriverRoot, DevRoot, CDISpecDir string
	IMEXChannels                    []int
	// MPSPipeDirectory is where the MPS control daemon listens.
	MPSPipeDirectory string

	// PrometheusAddress is host:port of the listener; empty for none.
	PrometheusAddress string
	// RogueExempt are commands that may use GPUs which they do not hold; nil
	// means the usual ones.
	RogueExempt []string
}

var (
	gpuID     = regexp.MustCompile(`^(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	groupings = []inventory.Grouping{inventory.GroupOff, inventory.GroupNVLink, inventory.GroupNUMA, inventory.GroupPCIe, inventory.GroupAuto}
	mig       = []inventory.MIGStrategy{inventory.MIGNone, inventory.MIGSingle, inventory.MIGMixed}
	sharings  = []inventory.SharingStrategy{inventory.TimeSlicing, inventory.MPS}
)

// Injections are the values of injection.
func Injections() []string { return []string{"auto", "runtime", "devices", "cdi"} }

func defaultConfig() wireConfig {
	return wireConfig{Enabled: true, FingerprintPeriod: "15s", HealthPeriod: "1s", Stats: true,
		MIGStrategy: string(inventory.MIGMixed), TopologyGroups: string(inventory.GroupOff), Injection: "auto"}
}

func decodeConfig(raw []byte) (Settings, error) {
	wire := defaultConfig()
	if len(raw) > 0 {
		if err := base.MsgPackDecode(raw, &wire); err != nil {
			return Settings{}, fmt.Errorf("decode the plugin block: %w", err)
		}
	}
	return wire.settings()
}

// ParseConfig reads the inside of a plugin's config block, or a Nomad client's
// configuration with a plugin block for this plugin in it; without one the
// defaults count. Other parts of the configuration are not looked at.
func ParseConfig(src []byte, filename string) (Settings, error) {
	wire := defaultConfig()
	file, diags := hclparse.NewParser().ParseHCL(src, filename)
	if diags.HasErrors() {
		return Settings{}, diags
	}
	body, err := pluginBody(file.Body)
	if err != nil {
		return Settings{}, err
	}
	if diags := gohcl.DecodeBody(body, nil, &wire); diags.HasErrors() {
		return Settings{}, diags
	}
	s, err := wire.settings()
	if err != nil {
		return Settings{}, fmt.Errorf("%s: %w", filename, err)
	}
	return s, nil
}

// pluginBody finds this plugin's config block in a client's configuration; a
// file without any plugin block is taken as the block's inside when it has
// attributes of one.
func pluginBody(body hcl.Body) (hcl.Body, error) {
	content, rest, diags := body.PartialContent(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
		{Type: "plugin", LabelNames: []string{"name"}}, {Type: "client"}, {Type: "server"}}})
	if diags.HasErrors() {
		return nil, diags
	}
	if len(content.Blocks) == 0 {
		return rest, nil
	}
	for _, block := range content.Blocks.OfType("plugin") {
		if block.Labels[0] != Name {
			continue
		}
		inside, _, diags := block.Body.PartialContent(&hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "config"}}})
		if diags.HasErrors() {
			return nil, diags
		}
		if len(inside.Blocks) > 0 {
			return inside.Blocks[0].Body, nil
		}
	}
	return hcl.EmptyBody(), nil
}

func (wire wireConfig) settings() (Settings, error) {
	s := Settings{Enabled: wire.Enabled, LibraryPath: wire.NVMLLibraryPath, Stats: wire.Stats, StateDir: wire.StateDir,
		DriverRoot: wire.DriverRoot, DevRoot: wire.DevRoot, CDISpecDir: wire.CDISpecDir, IMEXChannels: wire.IMEXChannels,
		MPSPipeDirectory: wire.MPSPipeDirectory, PrometheusAddress: wire.PrometheusAddress, RogueExempt: wire.RogueExempt,
		Injection: wire.Injection}
	s.Layout.Ignored = wire.IgnoredGPUIDs
	if s.StateDir == "" {
		s.StateDir = DefaultStateDir
	}
	for _, id := range wire.IgnoredGPUIDs {
		if !gpuID.MatchString(id) {
			return Settings{}, fmt.Errorf(
				"ignored_gpu_ids has %q, which is not a GPU UUID; they look like GPU-01234567-89ab-cdef-0123-456789abcdef, list them with: nvidia-smi -L", id)
		}
	}
	var err error
	if s.FingerprintPeriod, err = period("fingerprint_period", wire.FingerprintPeriod, fingerprintPeriodLeast); err != nil {
		return Settings{}, err
	}
	if s.HealthPeriod, err = period("health_period", wire.HealthPeriod, healthPeriodLeast); err != nil {
		return Settings{}, err
	}
	if s.Layout.MIG, err = oneOf("mig_strategy", wire.MIGStrategy, mig); err != nil {
		return Settings{}, err
	}
	if s.Grouping, err = oneOf("topology_groups", wire.TopologyGroups, groupings); err != nil {
		return Settings{}, err
	}
	if _, err = oneOf("injection", wire.Injection, Injections()); err != nil {
		return Settings{}, err
	}
	if s.Layout.Sharing, err = sharing(wire.Sharing); err != nil {
		return Settings{}, err
	}
	if s.Policy, err = policy(wire.Health); err != nil {
		return Settings{}, err
	}
	return s, wire.checkPlaces()
}

// oneOf checks a word.
func oneOf[T ~string](name, text string, words []T) (T, error) {
	if i := slices.Index(words, T(text)); i >= 0 {
		return words[i], nil
	}
	var quoted []string
	for _, word := range words {
		quoted = append(quoted, strconv.Quote(string(word)))
	}
	return "", fmt.Errorf("%s is %q; it must be one of %s", name, text, strings.Join(quoted, ", "))
}

// checkPlaces checks paths, channels and the address.
func (wire wireConfig) checkPlaces() error {
	for name, dir := range map[string]string{"state_dir": wire.StateDir, "driver_root": wire.DriverRoot, "dev_root": wire.DevRoot,
		"cdi_spec_dir": wire.CDISpecDir, "mps_pipe_directory": wire.MPSPipeDirectory} {
		if dir != "" && !filepath.IsAbs(dir) {
			return fmt.Errorf("%s is %q; it must be an absolute path", name, dir)
		}
	}
	for _, channel := range wire.IMEXChannels {
		if channel < 0 || channel > imexChannelsMost {
			return fmt.Errorf("imex_channels has %d; channels are numbered 0 to %d", channel, imexChannelsMost)
		}
	}
	if wire.PrometheusAddress != "" {
		if _, _, err := net.SplitHostPort(wire.PrometheusAddress); err != nil {
			return fmt.Errorf("prometheus_address is %q; write host:port, such as \"127.0.0.1:9400\"", wire.PrometheusAddress)
		}
	}
	return nil
}

// imexChannelsMost is the driver's largest number of IMEX channels
// (NVreg_ImexChannelCount).
const imexChannelsMost = 2047

func sharing(blocks []wireSharing) ([]inventory.ShareRule, error) {
	var rules []inventory.ShareRule
	for i, b := range blocks {
		where := fmt.Sprintf("sharing block %d", i+1)
		strategy, err := oneOf(where+": strategy", b.Strategy, sharings)
		if err != nil {
			return nil, err
		}
		if b.Replicas < 2 || b.Replicas > inventory.ReplicasMost {
			return nil, fmt.Errorf("%s: replicas is %d; it must be between 2 and %d", where, b.Replicas, inventory.ReplicasMost)
		}
		if len(b.GPUs) == 0 {
			return nil, fmt.Errorf(`%s: gpus is empty; list UUIDs, PCI addresses, indices or model names, or "*" for every GPU`, where)
		}
		for _, pattern := range b.GPUs {
			if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
				return nil, fmt.Errorf("%s: gpus has %q, which no GPU can match; a [ needs its ]", where, pattern)
			}
		}
		rules = append(rules, inventory.ShareRule{GPUs: b.GPUs, Strategy: strategy, Replicas: b.Replicas})
	}
	return rules, nil
}

const cleanReadingsMost = 1000

func policy(block *wireHealth) (inventory.Policy, error) {
	p := inventory.Policy{XIDs: map[int64]inventory.Severity{}, Conditions: map[inventory.Code]inventory.Severity{}}
	if block == nil {
		return p, nil
	}
	if block.CleanReadings < 1 || block.CleanReadings > cleanReadingsMost {
		return p, fmt.Errorf("health: clean_readings is %d; it must be between 1 and %d", block.CleanReadings, cleanReadingsMost)
	}
	p.CleanReads, p.Withhold = block.CleanReadings, block.WithholdDegraded
	for _, list := range []struct {
		name     string
		codes    []string
		severity inventory.Severity
	}{{"unhealthy", block.Unhealthy, inventory.Unhealthy}, {"degraded", block.Degraded, inventory.Degraded}, {"ignore", block.Ignore, inventory.Harmless}} {
		for _, code := range list.codes {
			if err := override(&p, list.name, code, list.severity); err != nil {
				return p, err
			}
		}
	}
	return p, nil
}

// override sets what one condition means. A condition in two lists is a mistake.
func override(p *inventory.Policy, list, code string, severity inventory.Severity) error {
	if number, isXID := strings.CutPrefix(code, "xid_"); isXID {
		xid, err := strconv.ParseInt(number, 10, 32)
		if err != nil || xid < 1 {
			return fmt.Errorf("health: %s has %q; an XID is written xid_79", list, code)
		}
		if _, twice := p.XIDs[xid]; twice {
			return fmt.Errorf("health: %q is listed twice", code)
		}
		p.XIDs[xid] = severity
		return nil
	}
	if !slices.Contains(inventory.Codes(), inventory.Code(code)) {
		return fmt.Errorf("health: %s has %q, which is not a condition; they are xid_<number>, %s", list, code, join(inventory.Codes()))
	}
	if _, twice := p.Conditions[inventory.Code(code)]; twice {
		return fmt.Errorf("health: %q is listed twice", code)
	}
	p.Conditions[inventory.Code(code)] = severity
	return nil
}

func join(codes []inventory.Code) string {
	var texts []string
	for _, code := range codes {
		texts = append(texts, string(code))
	}
	return strings.Join(texts, ", ")
}

func period(name, text string, least time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%s is %q, which is not a duration; write it with a unit, such as \"10s\"", name, text)
	}
	if d < least || d > periodMost {
		return 0, fmt.Errorf("%s is %s; it must be between %s and %s", name, d, least, periodMost)
	}
	return d, nil
}
