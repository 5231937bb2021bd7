package plugin

import (
	"fmt"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-governor/governor/hcl/deviceconfig"
)

// Settings is a checked plugin block.
type Settings = deviceconfig.Settings

func attr(name, typ, literal string) *hclspec.Spec {
	spec := hclspec.NewAttr(name, typ, false)
	if literal == "" {
		return spec
	}
	return hclspec.NewDefault(spec, hclspec.NewLiteral(literal))
}

var configSpec = hclspec.NewObject(map[string]*hclspec.Spec{
	"config_file":        attr("config_file", "string", ""),
	"enabled":            attr("enabled", "bool", "true"),
	"ignored_gpu_ids":    attr("ignored_gpu_ids", "list(string)", "[]"),
	"ignored_gpus":       attr("ignored_gpus", "list(string)", "[]"),
	"fingerprint_period": attr("fingerprint_period", "string", `"15s"`),
	"health_period":      attr("health_period", "string", `"1s"`),
	"nvml_library_path":  attr("nvml_library_path", "string", ""),
	"sysfs_path":         attr("sysfs_path", "string", ""),
	"nics":               attr("nics", "list(string)", `["*"]`),
	"stats":              attr("stats", "bool", "true"),
	"state_dir":          attr("state_dir", "string", ""),
	"mig_strategy":       attr("mig_strategy", "string", `"mixed"`),
	"topology_groups":    attr("topology_groups", "string", `"off"`),
	"injection":          attr("injection", "string", `"auto"`),
	"driver_root":        attr("driver_root", "string", ""),
	"dev_root":           attr("dev_root", "string", ""),
	"cdi_spec_dir":       attr("cdi_spec_dir", "string", ""),
	"library_dir":        attr("library_dir", "string", ""),
	"docker_runtime":     attr("docker_runtime", "string", ""),
	"imex_channels":      attr("imex_channels", "list(number)", "[]"),
	"gds":                attr("gds", "bool", "false"),
	"gdrcopy":            attr("gdrcopy", "bool", "false"),
	"rdma":               attr("rdma", "bool", "false"),
	"prometheus_address": attr("prometheus_address", "string", ""),
	"mps_pipe_directory": attr("mps_pipe_directory", "string", ""),
	"mps_shm_directory":  attr("mps_shm_directory", "string", ""),
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

func decodeConfig(raw []byte) (Settings, error) {
	block := deviceconfig.Default()
	if len(raw) > 0 {
		if err := base.MsgPackDecode(raw, &block); err != nil {
			return Settings{}, fmt.Errorf("decode the plugin block, in which numbers must be whole: %w", err)
		}
	}
	return block.Check()
}
