package deviceconfig

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-governor/governor/device/inventory"
)

// The periods' bounds. Below the least the driver is asked for nothing new;
// above the most a lost GPU is offered to jobs for too long.
const (
	fingerprintPeriodLeast = time.Second
	healthPeriodLeast      = 100 * time.Millisecond
	periodMost             = time.Hour
)

// The defaults of directories.
const (
	// DefaultStateDir is where the plugin keeps what must outlive it.
	DefaultStateDir = "/var/lib/nomad-device-gpu"
	// DefaultMPSPipeDirectory is where nvidia-cuda-mps-control listens unless
	// told otherwise.
	DefaultMPSPipeDirectory = "/tmp/nvidia-mps"
)

// Block is the plugin block as Nomad sends it, and as HCL has it. Settings says
// what each means.
type Block struct {
	ConfigFile        string    `codec:"config_file" hcl:"config_file,optional"`
	Enabled           bool      `codec:"enabled" hcl:"enabled,optional"`
	IgnoredGPUIDs     []string  `codec:"ignored_gpu_ids" hcl:"ignored_gpu_ids,optional"`
	IgnoredGPUs       []string  `codec:"ignored_gpus" hcl:"ignored_gpus,optional"`
	FingerprintPeriod string    `codec:"fingerprint_period" hcl:"fingerprint_period,optional"`
	HealthPeriod      string    `codec:"health_period" hcl:"health_period,optional"`
	NVMLLibraryPath   string    `codec:"nvml_library_path" hcl:"nvml_library_path,optional"`
	SysfsPath         string    `codec:"sysfs_path" hcl:"sysfs_path,optional"`
	NICs              []string  `codec:"nics" hcl:"nics,optional"`
	Stats             bool      `codec:"stats" hcl:"stats,optional"`
	StateDir          string    `codec:"state_dir" hcl:"state_dir,optional"`
	MIGStrategy       string    `codec:"mig_strategy" hcl:"mig_strategy,optional"`
	TopologyGroups    string    `codec:"topology_groups" hcl:"topology_groups,optional"`
	Injection         string    `codec:"injection" hcl:"injection,optional"`
	DriverRoot        string    `codec:"driver_root" hcl:"driver_root,optional"`
	DevRoot           string    `codec:"dev_root" hcl:"dev_root,optional"`
	CDISpecDir        string    `codec:"cdi_spec_dir" hcl:"cdi_spec_dir,optional"`
	LibraryDir        string    `codec:"library_dir" hcl:"library_dir,optional"`
	DockerRuntime     string    `codec:"docker_runtime" hcl:"docker_runtime,optional"`
	IMEXChannels      []int     `codec:"imex_channels" hcl:"imex_channels,optional"`
	GDS               bool      `codec:"gds" hcl:"gds,optional"`
	GDRCopy           bool      `codec:"gdrcopy" hcl:"gdrcopy,optional"`
	RDMA              bool      `codec:"rdma" hcl:"rdma,optional"`
	PrometheusAddress string    `codec:"prometheus_address" hcl:"prometheus_address,optional"`
	MPSPipeDirectory  string    `codec:"mps_pipe_directory" hcl:"mps_pipe_directory,optional"`
	MPSShmDirectory   string    `codec:"mps_shm_directory" hcl:"mps_shm_directory,optional"`
	RogueExempt       []string  `codec:"rogue_exempt" hcl:"rogue_exempt,optional"`
	Sharing           []Sharing `codec:"sharing" hcl:"sharing,block"`
	Health            *Health   `codec:"health" hcl:"health,block"`
}

// Sharing is one sharing block: which GPUs are shared, how, and by how many.
type Sharing struct {
	GPUs     []string `codec:"gpus" hcl:"gpus,optional"`
	Strategy string   `codec:"strategy" hcl:"strategy,optional"`
	Replicas int      `codec:"replicas" hcl:"replicas,optional"`
}

// Health is the health block: what conditions mean.
type Health struct {
	WithholdDegraded bool     `codec:"withhold_degraded" hcl:"withhold_degraded,optional"`
	CleanReadings    int      `codec:"clean_readings" hcl:"clean_readings,optional"`
	Unhealthy        []string `codec:"unhealthy" hcl:"unhealthy,optional"`
	Degraded         []string `codec:"degraded" hcl:"degraded,optional"`
	Ignore           []string `codec:"ignore" hcl:"ignore,optional"`
}

// Settings is a checked plugin block.
type Settings struct {
	// ConfigFile is laid over the block and followed; empty for none.
	ConfigFile string
	block      Block // what the settings were made of

	Enabled                         bool
	FingerprintPeriod, HealthPeriod time.Duration
	LibraryPath                     string
	// SysfsPath is where the host's sysfs is mounted; empty for the usual place. NICs are
	// the RDMA devices in it that count, in which * stands for any text.
	SysfsPath string
	NICs      []string
	Stats     bool
	// StateDir is where group identities and the key for grants are kept.
	StateDir string

	// Layout has what the block says about devices; Grouping its
	// topology_groups.
	Layout   inventory.Layout
	Grouping inventory.Grouping
	Policy   inventory.Policy

	// Injection is runtime, devices, cdi, env or auto. The roots, directories and
	// the runtime's name are empty for the usual ones.
	Injection                       string
	DriverRoot, DevRoot, CDISpecDir string
	LibraryDir, DockerRuntime       string
	// IMEXChannels, and the nodes of GPUDirect Storage, GDRCopy and
	// InfiniBand, go to every task with a GPU.
	IMEXChannels       []int
	GDS, GDRCopy, RDMA bool
	// MPSPipeDirectory is where the MPS control daemon listens,
	// MPSShmDirectory its /dev/shm on the host.
	MPSPipeDirectory, MPSShmDirectory string

	// PrometheusAddress is host:port of the listener; empty for none.
	PrometheusAddress string
	// RogueExempt are commands that may use GPUs which they do not hold; nil
	// means the usual ones.
	RogueExempt []string
}

var (
	gpuID             = regexp.MustCompile(`^(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	groupings         = []inventory.Grouping{inventory.GroupOff, inventory.GroupNVLink, inventory.GroupNUMA, inventory.GroupPCIe, inventory.GroupAuto}
	mig               = []inventory.MIGStrategy{inventory.MIGNone, inventory.MIGSingle, inventory.MIGMixed}
	injections        = []string{"auto", "runtime", "devices", "cdi", "env"}
	sharingStrategies = []inventory.SharingStrategy{inventory.TimeSlicing, inventory.MPS}
)

// Default is the block of a client that says nothing.
func Default() Block {
	return Block{NICs: []string{"*"}, Enabled: true, FingerprintPeriod: "15s", HealthPeriod: "1s", Stats: true,
		MIGStrategy: string(inventory.MIGMixed), TopologyGroups: string(inventory.GroupOff), Injection: "auto"}
}

// Check makes settings of the block, or says what in it is wrong and what to do.
func (b Block) Check() (Settings, error) {
	s := Settings{block: b, ConfigFile: b.ConfigFile, Enabled: b.Enabled, LibraryPath: b.NVMLLibraryPath, SysfsPath: b.SysfsPath, NICs: b.NICs, Stats: b.Stats, StateDir: b.StateDir,
		DriverRoot: b.DriverRoot, DevRoot: b.DevRoot, CDISpecDir: b.CDISpecDir, IMEXChannels: b.IMEXChannels,
		LibraryDir: b.LibraryDir, DockerRuntime: b.DockerRuntime, GDS: b.GDS, GDRCopy: b.GDRCopy, RDMA: b.RDMA,
		MPSPipeDirectory: cmp.Or(b.MPSPipeDirectory, DefaultMPSPipeDirectory), MPSShmDirectory: b.MPSShmDirectory,
		PrometheusAddress: b.PrometheusAddress, RogueExempt: b.RogueExempt, Injection: b.Injection}
	s.Layout.Ignored, s.Layout.IgnoredGPUs = b.IgnoredGPUIDs, b.IgnoredGPUs
	if s.StateDir == "" {
		s.StateDir = DefaultStateDir
	}
	for _, id := range b.IgnoredGPUIDs {
		if !gpuID.MatchString(id) {
			return Settings{}, fmt.Errorf(
				"ignored_gpu_ids has %q, which is not a GPU UUID; they look like GPU-01234567-89ab-cdef-0123-456789abcdef, list them with: nvidia-smi -L", id)
		}
	}
	err := checkPatterns("ignored_gpus", b.IgnoredGPUs)
	if err != nil {
		return Settings{}, err
	}
	for _, pattern := range b.NICs {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return Settings{}, fmt.Errorf("nics has %q, which no RDMA device can match; a [ needs its ], list them with: ls /sys/class/infiniband", pattern)
		}
	}
	if s.FingerprintPeriod, err = period("fingerprint_period", b.FingerprintPeriod, fingerprintPeriodLeast); err != nil {
		return Settings{}, err
	}
	if s.HealthPeriod, err = period("health_period", b.HealthPeriod, healthPeriodLeast); err != nil {
		return Settings{}, err
	}
	if s.Layout.MIG, err = oneOf("mig_strategy", b.MIGStrategy, mig); err != nil {
		return Settings{}, err
	}
	if s.Grouping, err = oneOf("topology_groups", b.TopologyGroups, groupings); err != nil {
		return Settings{}, err
	}
	if _, err = oneOf("injection", b.Injection, injections); err != nil {
		return Settings{}, err
	}
	if s.Layout.Sharing, err = shareRules(b.Sharing); err != nil {
		return Settings{}, err
	}
	if s.Policy, err = policy(b.Health); err != nil {
		return Settings{}, err
	}
	return s, b.checkPlaces()
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
func (b Block) checkPlaces() error {
	dirs := map[string]string{"config_file": b.ConfigFile, "state_dir": b.StateDir, "driver_root": b.DriverRoot, "dev_root": b.DevRoot,
		"cdi_spec_dir": b.CDISpecDir, "library_dir": b.LibraryDir, "mps_pipe_directory": b.MPSPipeDirectory,
		"mps_shm_directory": b.MPSShmDirectory, "sysfs_path": b.SysfsPath}
	for _, name := range slices.Sorted(maps.Keys(dirs)) {
		if dir := dirs[name]; dir != "" && !filepath.IsAbs(dir) {
			return fmt.Errorf("%s is %q; it must be an absolute path", name, dir)
		}
	}
	for _, channel := range b.IMEXChannels {
		if channel < 0 || channel > imexChannelsMost {
			return fmt.Errorf("imex_channels has %d; channels are numbered 0 to %d", channel, imexChannelsMost)
		}
	}
	if b.PrometheusAddress != "" && !listenable(b.PrometheusAddress) {
		return fmt.Errorf("prometheus_address is %q; write an IP address and a port, such as \"127.0.0.1:9400\"", b.PrometheusAddress)
	}
	return nil
}

// listenable reports whether an address is one to listen on: an IP address,
// localhost or nothing, and the number of a port.
func listenable(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil && (host == "" || host == "localhost" || net.ParseIP(host) != nil)
}

// imexChannelsMost is the driver's largest number of IMEX channels
// (NVreg_ImexChannelCount).
const imexChannelsMost = 2047

func shareRules(blocks []Sharing) ([]inventory.ShareRule, error) {
	var rules []inventory.ShareRule
	for i, b := range blocks {
		where := fmt.Sprintf("sharing block %d", i+1)
		strategy, err := oneOf(where+": strategy", cmp.Or(b.Strategy, string(inventory.TimeSlicing)), sharingStrategies)
		if err != nil {
			return nil, err
		}
		if b.Replicas < 2 || b.Replicas > inventory.ReplicasMost {
			return nil, fmt.Errorf("%s: replicas is %d; it must be between 2 and %d", where, b.Replicas, inventory.ReplicasMost)
		}
		if len(b.GPUs) == 0 {
			return nil, fmt.Errorf(`%s: gpus is empty; list UUIDs, PCI addresses, indices or model names, or "*" for every GPU`, where)
		}
		if err := checkPatterns(where+": gpus", b.GPUs); err != nil {
			return nil, err
		}
		rules = append(rules, inventory.ShareRule{GPUs: b.GPUs, Strategy: strategy, Replicas: b.Replicas})
	}
	return rules, nil
}

func checkPatterns(name string, patterns []string) error {
	for _, pattern := range patterns {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return fmt.Errorf("%s has %q, which no GPU can match; a [ needs its ]", name, pattern)
		}
	}
	return nil
}

const cleanReadingsMost = 1000

func policy(block *Health) (inventory.Policy, error) {
	p := inventory.Policy{XIDs: map[int64]inventory.Severity{}, Conditions: map[inventory.Code]inventory.Severity{}}
	if block == nil {
		return p, nil
	}
	if block.CleanReadings < 0 || block.CleanReadings > cleanReadingsMost {
		return p, fmt.Errorf("health: clean_readings is %d; it must be between 1 and %d, or 0 for the default", block.CleanReadings, cleanReadingsMost)
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
