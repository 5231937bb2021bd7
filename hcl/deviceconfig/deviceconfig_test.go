package deviceconfig_test

import (
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
)

const plugin = "nomad-device-gpu"

func share(strategy string, replicas int, gpus ...string) func(*deviceconfig.Block) {
	return func(b *deviceconfig.Block) {
		b.Sharing = []deviceconfig.Sharing{{GPUs: gpus, Strategy: strategy, Replicas: replicas}}
	}
}

func health(h deviceconfig.Health) func(*deviceconfig.Block) {
	return func(b *deviceconfig.Block) { b.Health = &h }
}

func TestBlockThatIsWrongIsExplained(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*deviceconfig.Block)
		text   string
	}{
		"no unit":                  {func(c *deviceconfig.Block) { c.FingerprintPeriod = "10" }, `fingerprint_period is "10", which is not a duration; write it with a unit, such as "10s"`},
		"too short":                {func(c *deviceconfig.Block) { c.FingerprintPeriod = "1ms" }, "fingerprint_period is 1ms; it must be between 1s and 1h0m0s"},
		"negative":                 {func(c *deviceconfig.Block) { c.HealthPeriod = "-1s" }, "health_period is -1s; it must be between 100ms and 1h0m0s"},
		"not a UUID":               {func(c *deviceconfig.Block) { c.IgnoredGPUIDs = []string{"0"} }, `ignored_gpu_ids has "0", which is not a GPU UUID`},
		"no strategy of MIG":       {func(c *deviceconfig.Block) { c.MIGStrategy = "all" }, `mig_strategy is "all"; it must be one of "none", "single", "mixed"`},
		"no grouping":              {func(c *deviceconfig.Block) { c.TopologyGroups = "rack" }, `topology_groups is "rack"; it must be one of "off", "nvlink", "numa", "pcie", "auto"`},
		"no injection":             {func(c *deviceconfig.Block) { c.Injection = "magic" }, `injection is "magic"; it must be one of "auto", "runtime", "devices", "cdi", "env"`},
		"relative state directory": {func(c *deviceconfig.Block) { c.StateDir = "state" }, `state_dir is "state"; it must be an absolute path`},
		"relative driver root":     {func(c *deviceconfig.Block) { c.DriverRoot = "x" }, `driver_root is "x"; it must be an absolute path`},
		"channel":                  {func(c *deviceconfig.Block) { c.IMEXChannels = []int{5000} }, "imex_channels has 5000; channels are numbered 0 to 2047"},
		"address":                  {func(c *deviceconfig.Block) { c.PrometheusAddress = "9400" }, `prometheus_address is "9400"; write an IP address and a port, such as "127.0.0.1:9400"`},
		"name of a host":           {func(c *deviceconfig.Block) { c.PrometheusAddress = "gpu-01:9400" }, `prometheus_address is "gpu-01:9400"; write an IP address and a port, such as "127.0.0.1:9400"`},
		"name of a port":           {func(c *deviceconfig.Block) { c.PrometheusAddress = "localhost:http" }, `prometheus_address is "localhost:http"; write an IP address and a port, such as "127.0.0.1:9400"`},
		"pattern of ignored GPUs":  {func(c *deviceconfig.Block) { c.IgnoredGPUs = []string{""} }, `ignored_gpus has "", which no GPU can match`},
		"one replica":              {share("time-slicing", 1, "*"), "sharing block 1: replicas is 1; it must be between 2 and 48"},
		"no GPUs":                  {share("mps", 2), `sharing block 1: gpus is empty; list UUIDs, PCI addresses, indices or model names, or "*" for every GPU`},
		"sharing strategy":         {share("magic", 2, "*"), `sharing block 1: strategy is "magic"; it must be one of "time-slicing", "mps"`},
		"open bracket":             {share("mps", 2, "NVIDIA ["), `sharing block 1: gpus has "NVIDIA [", which no GPU can match`},
		"no readings":              {health(deviceconfig.Health{CleanReadings: -1}), "health: clean_readings is -1; it must be between 1 and 1000, or 0 for the default"},
		"XID without a number":     {health(deviceconfig.Health{CleanReadings: 1, Ignore: []string{"xid_x"}}), `health: ignore has "xid_x"; an XID is written xid_79`},
		"unknown condition":        {health(deviceconfig.Health{CleanReadings: 1, Degraded: []string{"smoke"}}), `health: degraded has "smoke", which is not a condition; they are xid_<number>, ecc_uncorrected, `},
		"condition in two lists":   {health(deviceconfig.Health{CleanReadings: 1, Degraded: []string{"nvlink_down"}, Ignore: []string{"nvlink_down"}}), `health: "nvlink_down" is listed twice`},
		"XID in one list twice":    {health(deviceconfig.Health{CleanReadings: 1, Unhealthy: []string{"xid_94", "xid_94"}}), `health: "xid_94" is listed twice`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := deviceconfig.Default()
			tc.change(&b)
			_, err := b.Check()
			must.ErrorContains(t, err, tc.text)
		})
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	s, err := deviceconfig.Default().Check()
	must.NoError(t, err)
	must.True(t, s.Enabled)
	must.True(t, s.Stats)
	must.Eq(t, 15*time.Second, s.FingerprintPeriod)
	must.Eq(t, time.Second, s.HealthPeriod)
	must.Eq(t, deviceconfig.DefaultStateDir, s.StateDir)
	must.Eq(t, inventory.MIGMixed, s.Layout.MIG)
	must.Eq(t, inventory.GroupOff, s.Grouping)
	must.Eq(t, "auto", s.Injection)
	for _, src := range []string{"", "client {\n  enabled = true\n}\n", "plugin \"raw_exec\" {\n  config {\n    enabled = true\n  }\n}\n"} {
		parsed, err := deviceconfig.Parse([]byte(src), "client.hcl", plugin)
		must.NoError(t, err)
		must.Eq(t, s, parsed)
	}
}

const inside = `
ignored_gpu_ids = ["GPU-01234567-89ab-cdef-0123-456789abcdef"]
mig_strategy    = "single"
topology_groups = "auto"
injection       = "devices"
imex_channels   = [0, 7]
sharing {
  gpus     = ["NVIDIA L40S"]
  replicas = 4
}
sharing {
  gpus     = ["3"]
  strategy = "mps"
  replicas = 2
}
health {
  withhold_degraded = true
  unhealthy         = ["xid_94", "nvlink_down"]
  ignore            = ["xid_79"]
}
`

func TestClientsConfigurationAndTheBlocksInsideMeanTheSame(t *testing.T) {
	t.Parallel()
	client := "name = \"n\"\nclient {\n  enabled = true\n}\nplugin \"nomad-device-gpu\" {\n  config {\n" + inside + "  }\n}\n"
	s, err := deviceconfig.Parse([]byte(inside), "inside.hcl", plugin)
	must.NoError(t, err)
	whole, err := deviceconfig.Parse([]byte(client), "client.hcl", plugin)
	must.NoError(t, err)
	must.Eq(t, s, whole)
	must.Eq(t, []inventory.ShareRule{
		{GPUs: []string{"NVIDIA L40S"}, Strategy: inventory.TimeSlicing, Replicas: 4},
		{GPUs: []string{"3"}, Strategy: inventory.MPS, Replicas: 2}}, s.Layout.Sharing)
	must.Eq(t, inventory.Policy{Withhold: true,
		XIDs:       map[int64]inventory.Severity{94: inventory.Unhealthy, 79: inventory.Harmless},
		Conditions: map[inventory.Code]inventory.Severity{inventory.CodeNVLink: inventory.Unhealthy}}, s.Policy)
	must.Eq(t, []int{0, 7}, s.IMEXChannels)
}

func TestTextThatIsWrongNamesFileAndLine(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		"mig_strategy = ":           "c.hcl:1,16",
		"mig_stratgy = \"none\"":    "c.hcl:1,1-12: Unsupported argument",
		"sharing {\n  gpu = [1]\n}": "c.hcl:2,3-6: Unsupported argument",
		"mig_strategy = \"some\"":   `c.hcl: mig_strategy is "some"`,
		"plugin {\n}":               "c.hcl:1,8",
	} {
		_, err := deviceconfig.Parse([]byte(src), "c.hcl", plugin)
		must.ErrorContains(t, err, want)
	}
}

func TestFileThatIsTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	large := []byte(strings.Repeat("# comment\n", 200_000))
	_, err := deviceconfig.Parse(large, "c.hcl", plugin)
	must.EqError(t, err, "c.hcl has 2000000 bytes; a configuration has at most 1048576")
	s, err := deviceconfig.Default().Check()
	must.NoError(t, err)
	_, err = s.Over(large, "d.hcl")
	must.EqError(t, err, "d.hcl has 2000000 bytes; a configuration has at most 1048576")
}

func TestFileIsLaidOverTheBlock(t *testing.T) {
	t.Parallel()
	block := deviceconfig.Default()
	block.ConfigFile, block.MIGStrategy = "/etc/gpu.hcl", "single"
	block.Sharing = []deviceconfig.Sharing{{GPUs: []string{"*"}, Replicas: 2}}
	s, err := block.Check()
	must.NoError(t, err)
	over, err := s.Over([]byte("fingerprint_period = \"30s\"\nhealth {\n  clean_readings = 3\n}\n"), "gpu.hcl")
	must.NoError(t, err)
	must.Eq(t, 30*time.Second, over.FingerprintPeriod)
	must.Eq(t, 3, over.Policy.CleanReads)
	must.Eq(t, inventory.MIGSingle, over.Layout.MIG, must.Sprint("what the file does not say stays"))
	must.Len(t, 1, over.Layout.Sharing)
	again, err := over.Over([]byte("sharing {\n  gpus = [\"0\"]\n  replicas = 3\n}\n"), "gpu.hcl")
	must.NoError(t, err)
	must.Eq(t, 3, again.Layout.Sharing[0].Replicas)
	_, err = s.Over([]byte("fingerprint_perod = \"30s\"\n"), "gpu.hcl")
	must.ErrorContains(t, err, "gpu.hcl:1,1-18: Unsupported argument")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(inside))
	f.Add([]byte("plugin \"nomad-device-gpu\" {\n  config {\n    enabled = false\n  }\n}\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		s, err := deviceconfig.Parse(src, "c.hcl", plugin)
		if err != nil {
			return
		}
		if s.FingerprintPeriod < time.Second || s.HealthPeriod < 100*time.Millisecond || s.StateDir == "" {
			t.Fatalf("settings out of bounds: %+v", s)
		}
		for _, rule := range s.Layout.Sharing {
			if rule.Replicas < 2 || rule.Replicas > inventory.ReplicasMost {
				t.Fatalf("a rule out of bounds: %+v", rule)
			}
		}
	})
}
