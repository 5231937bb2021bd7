package plugin

import (
	"fmt"
	"regexp"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
)

// The periods' bounds. Below the least the driver is asked for nothing new;
// above the most a lost GPU is offered to jobs for too long.
const (
	fingerprintPeriodLeast = time.Second
	healthPeriodLeast      = 100 * time.Millisecond
	periodMost             = time.Hour
)

var configSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"enabled": hclspec.NewDefault(
		hclspec.NewAttr("enabled", "bool", false), hclspec.NewLiteral("true")),
	"ignored_gpu_ids": hclspec.NewDefault(
		hclspec.NewAttr("ignored_gpu_ids", "list(string)", false), hclspec.NewLiteral("[]")),
	"fingerprint_period": hclspec.NewDefault(
		hclspec.NewAttr("fingerprint_period", "string", false), hclspec.NewLiteral("\"15s\"")),
	"health_period": hclspec.NewDefault(
		hclspec.NewAttr("health_period", "string", false), hclspec.NewLiteral("\"1s\"")),
	"nvml_library_path": hclspec.NewAttr("nvml_library_path", "string", false),
	"stats": hclspec.NewDefault(
		hclspec.NewAttr("stats", "bool", false), hclspec.NewLiteral("true")),
})

// wireConfig is the plugin block as Nomad sends it.
type wireConfig struct {
	Enabled           bool     `codec:"enabled"`
	IgnoredGPUIDs     []string `codec:"ignored_gpu_ids"`
	FingerprintPeriod string   `codec:"fingerprint_period"`
	HealthPeriod      string   `codec:"health_period"`
	NVMLLibraryPath   string   `codec:"nvml_library_path"`
	Stats             bool     `codec:"stats"`
}

// config is a checked plugin block.
type config struct {
	enabled           bool
	ignored           []string
	fingerprintPeriod time.Duration
	healthPeriod      time.Duration
	libraryPath       string
	stats             bool
}

var gpuID = regexp.MustCompile(`^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func decodeConfig(raw []byte) (config, error) {
	wire := wireConfig{Enabled: true, FingerprintPeriod: "15s", HealthPeriod: "1s", Stats: true}
	if len(raw) > 0 {
		if err := base.MsgPackDecode(raw, &wire); err != nil {
			return config{}, fmt.Errorf("decode the plugin block: %w", err)
		}
	}
	c := config{enabled: wire.Enabled, ignored: wire.IgnoredGPUIDs, libraryPath: wire.NVMLLibraryPath, stats: wire.Stats}
	for _, id := range c.ignored {
		if !gpuID.MatchString(id) {
			return config{}, fmt.Errorf(
				"ignored_gpu_ids has %q, which is not a GPU UUID; they look like GPU-01234567-89ab-cdef-0123-456789abcdef, list them with: nvidia-smi -L", id)
		}
	}
	var err error
	if c.fingerprintPeriod, err = period("fingerprint_period", wire.FingerprintPeriod, fingerprintPeriodLeast); err != nil {
		return config{}, err
	}
	if c.healthPeriod, err = period("health_period", wire.HealthPeriod, healthPeriodLeast); err != nil {
		return config{}, err
	}
	return c, nil
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
