package metrics_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/exporter/metrics"
	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/occupancy"
)

var update = flag.Bool("update", false, "write the golden files")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 250e6, time.UTC)

func n(v int64) inventory.Maybe[int64] { return inventory.Known(v) }

func uuid(i int) string { return fmt.Sprintf("GPU-%08d-0000-0000-0000-000000000000", i) }

// gpu is a device that is a whole GPU.
func gpu(i int) metrics.Device {
	return metrics.Device{ID: uuid(i), Group: "nvidia/gpu/NVIDIA H100 80GB HBM3", GPU: uuid(i), Model: "NVIDIA H100 80GB HBM3",
		PCIBusID: fmt.Sprintf("0000:%x9:00.0", i+1), Index: i, Minor: n(int64(7 - i)), LastXID: n(0)}
}

// busy is a sample with a value for everything.
func busy(uuid string) inventory.Sample {
	return inventory.Sample{UUID: uuid,
		MemoryUsedMiB: n(70000), MemoryTotalMiB: n(81559), MemoryFreeMiB: n(10979), MemoryReservedMiB: n(580),
		BAR1UsedMiB: n(4), BAR1TotalMiB: n(131072), PowerMilliW: n(512345), PowerLimitMilliW: n(700000), EnergyMilliJ: n(123456789012),
		GPUPercent: n(97), MemoryPercent: n(41), EncoderPercent: n(0), DecoderPercent: n(3), JPEGPercent: n(1), OFAPercent: n(2),
		TemperatureC: n(61), MemoryTemperatureC: n(70), SlowdownC: n(87), FanPercent: n(30), GraphicsMHz: n(1980), SMMHz: n(1980), MemoryMHz: n(2619),
		VideoMHz: n(1605), ThrottleReasons: n(4), PerformanceState: n(0), ECCCorrected: n(5), ECCUncorrected: n(0), ECCCorrectedAll: n(9), ECCUncorrectedAll: n(1),
		PCIeReplays: n(2), PCIeGeneration: n(5), PCIeLanes: n(16), PCIeSentKBps: n(1200), PCIeReceivedKBps: n(3400),
		NVLinkSentKiB: n(5_000_000), NVLinkReceivedKiB: n(6_000_000), NVLinkReplays: n(0), NVLinkRecoveries: n(1), NVLinkCRC: n(2),
		RemappedCorrectable: n(0), RemappedUncorrectable: n(3), RetiredPagesSingleBit: n(0), RetiredPagesDoubleBit: n(0),
		RemapPending: inventory.Known(true), RemapFailure: inventory.Known(false),
		GraphicsActivePermille: n(950), SMActivePermille: n(801), TensorActivePermille: n(0), DRAMActivePermille: n(1000),
		ProcessesKnown: true, Processes: []inventory.Process{{PID: 1}, {PID: 2}, {PID: 3}}}
}

func node(devices ...metrics.Device) metrics.Snapshot {
	return metrics.Snapshot{Hostname: "gpu-01", DriverVersion: "550.54.15", CUDAVersion: "12.4", PluginVersion: "0.2.0",
		Devices: devices, At: noon, LastSuccess: noon, WorkerStarts: n(1), Fingerprints: n(3)}
}

func use(device, gpu string, v occupancy.Verdict) occupancy.Use {
	return occupancy.Use{DeviceID: device, GPU: gpu, Verdict: v, PID: 1, Command: "python3", AllocID: "x", Task: "y"}
}

func snapshots() map[string]metrics.Snapshot {
	h100 := node(gpu(0), gpu(1))
	h100.Devices[0].LastXID, h100.Devices[0].XIDs = n(79), map[int64]int64{79: 1, 13: 12}
	h100.Devices[0].Degraded = []string{"nvlink_down", "thermal_slowdown", "nvlink_down", "a sentence: not a code"}
	h100.Samples = []inventory.Sample{busy(uuid(1)), busy(uuid(0)), busy("GPU-ignored")}
	before := busy(uuid(0))
	before.NVLinkSentKiB, before.NVLinkReceivedKiB = n(4_000_000), n(4_000_000)
	h100.Before = metrics.Before{At: noon.Add(-2 * time.Second), Samples: []inventory.Sample{before}}
	h100.UsesKnown = true
	h100.Uses = []occupancy.Use{use(uuid(0), uuid(0), occupancy.Held), use(uuid(0), uuid(0), occupancy.NotHeld), use(uuid(0), uuid(0), occupancy.Outside),
		use(uuid(1), uuid(1), occupancy.Exempt), use(uuid(1), uuid(1), occupancy.Unknown), use(uuid(1), uuid(1), occupancy.Unknown)}

	mig := func(i int, gi, ci int64, profile string) metrics.Device {
		d := gpu(0)
		d.ID = fmt.Sprintf("MIG-%08d-0000-0000-0000-000000000000", i)
		d.Instance, d.Profile, d.GPUInstance, d.ComputeInstance, d.Group = d.ID, profile, gi, ci, "nvidia/mig/"+profile
		return d
	}
	split := node(mig(1, 9, 0, "1g.10gb"), mig(2, 1, 0, "1c.3g.40gb"), mig(3, 1, 1, "1c.3g.40gb"))
	parent := busy(uuid(0))
	parent.GraphicsActivePermille, parent.SMActivePermille, parent.TensorActivePermille, parent.DRAMActivePermille = inventory.Maybe[int64]{}, inventory.Maybe[int64]{}, inventory.Maybe[int64]{}, inventory.Maybe[int64]{}
	split.Samples = []inventory.Sample{parent}
	for _, d := range split.Devices {
		split.Samples = append(split.Samples, inventory.Sample{UUID: d.ID, MemoryTotalMiB: n(9856), MemoryUsedMiB: n(1000), GraphicsActivePermille: n(500),
			ProcessesKnown: true, Processes: []inventory.Process{{PID: 1}}})
	}
	split.UsesKnown = true
	split.Uses = []occupancy.Use{use(split.Devices[0].ID, uuid(0), occupancy.NotHeld), use(uuid(0), uuid(0), occupancy.Outside)}

	shared := node()
	for i := range 3 {
		d := gpu(0)
		d.ID, d.Group = fmt.Sprintf("%s::%d", uuid(0), i), "nvidia/gpu/NVIDIA H100 80GB HBM3-shared-3"
		shared.Devices = append(shared.Devices, d)
	}
	shared.Samples = []inventory.Sample{busy(uuid(0))}
	shared.UsesKnown, shared.Uses = true, []occupancy.Use{use(uuid(0)+"::1", uuid(0), occupancy.Held), use(uuid(0), uuid(0), occupancy.NotHeld)}

	lost := node(gpu(0), gpu(1))
	lost.Devices[1].Unhealthy, lost.Devices[1].LastXID = "gpu_lost", inventory.Maybe[int64]{}
	lost.Samples = []inventory.Sample{{UUID: uuid(0), TemperatureC: n(30), MemoryTotalMiB: n(15360), MemoryUsedMiB: n(360)}, {UUID: uuid(1), Failure: "gpu_lost"}}
	lost.Devices[0].Minor, lost.Devices[0].Model = inventory.Maybe[int64]{}, "Tesla \"T4\"\\\n\xff"

	return map[string]metrics.Snapshot{"h100": h100, "mig": split, "shares": shared, "lost": lost,
		"nothing": {}, "no-gpu": {Hostname: "cpu-01", PluginVersion: "0.2.0", LastSuccess: noon}}
}

func page(t interface {
	Helper()
	Fatalf(string, ...any)
}, s metrics.Snapshot) string {
	t.Helper()
	var out bytes.Buffer
	if err := metrics.Write(&out, s); err != nil {
		t.Fatalf("%v", err)
	}
	return out.String()
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, s := range snapshots() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := page(t, s)
			golden := filepath.Join("testdata", name+".prom")
			if *update {
				must.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			must.NoError(t, err)
			must.Eq(t, string(want), got)
		})
	}
}

// parse reads a page as Prometheus does.
func parse(text string) (map[string]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(strings.NewReader(text))
}

func TestPrometheusReadsEveryPage(t *testing.T) {
	t.Parallel()
	for name, s := range snapshots() {
		families, err := parse(page(t, s))
		must.NoError(t, err, must.Sprint(name))
		must.Eq(t, name == "nothing", len(families) == 0)
		must.SliceEmpty(t, duplicates(families))
	}
}

// duplicates lists series that are there twice.
func duplicates(families map[string]*dto.MetricFamily) []string {
	var found []string
	seen := map[string]bool{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			key := name + labelsOf(m)
			if seen[key] {
				found = append(found, key)
			}
			seen[key] = true
		}
	}
	return found
}

func labelsOf(m *dto.Metric) string {
	var parts []string
	for _, l := range m.GetLabel() {
		parts = append(parts, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
	}
	slices.Sort(parts)
	return "{" + strings.Join(parts, ",") + "}"
}

func valueOf(m *dto.Metric) float64 {
	if m.GetCounter() != nil {
		return m.GetCounter().GetValue()
	}
	return m.GetGauge().GetValue()
}

// The names and types that dashboards made for dcgm-exporter rely on: those of
// its default list and of the one with profiling, as of version 4.
func TestNamesAndTypesAreDCGMs(t *testing.T) {
	t.Parallel()
	want := map[string]dto.MetricType{}
	for _, name := range strings.Fields(`DCGM_FI_DEV_SM_CLOCK DCGM_FI_DEV_MEM_CLOCK DCGM_FI_DEV_MEMORY_TEMP DCGM_FI_DEV_GPU_TEMP DCGM_FI_DEV_POWER_USAGE
		DCGM_FI_DEV_GPU_UTIL DCGM_FI_DEV_MEM_COPY_UTIL DCGM_FI_DEV_ENC_UTIL DCGM_FI_DEV_DEC_UTIL DCGM_FI_DEV_XID_ERRORS
		DCGM_FI_DEV_FB_FREE DCGM_FI_DEV_FB_USED DCGM_FI_DEV_FB_RESERVED DCGM_FI_DEV_ROW_REMAP_FAILURE
		DCGM_FI_DEV_CLOCKS_EVENT_REASONS DCGM_FI_DEV_CLOCK_THROTTLE_REASONS
		DCGM_FI_PROF_GR_ENGINE_ACTIVE DCGM_FI_PROF_SM_ACTIVE DCGM_FI_PROF_PIPE_TENSOR_ACTIVE DCGM_FI_PROF_DRAM_ACTIVE`) {
		want[name] = dto.MetricType_GAUGE
	}
	for _, name := range strings.Fields(`DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION DCGM_FI_DEV_PCIE_REPLAY_COUNTER DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL
		DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS
		DCGM_FI_DEV_ECC_SBE_VOL_TOTAL DCGM_FI_DEV_ECC_DBE_VOL_TOTAL DCGM_FI_DEV_ECC_SBE_AGG_TOTAL DCGM_FI_DEV_ECC_DBE_AGG_TOTAL`) {
		want[name] = dto.MetricType_COUNTER
	}
	families, err := parse(page(t, snapshots()["h100"]))
	must.NoError(t, err)
	for name, kind := range want {
		must.MapContainsKey(t, families, name)
		must.Eq(t, kind, families[name].GetType(), must.Sprint(name))
	}
	must.MapNotContainsKey(t, families, "DCGM_FI_DEV_VGPU_LICENSE_STATUS")
}

// The labels by which Grafana's dashboard 12239 selects and groups.
func TestLabelsAreDCGMs(t *testing.T) {
	t.Parallel()
	families, err := parse(page(t, snapshots()["h100"]))
	must.NoError(t, err)
	must.Eq(t, `{DCGM_FI_DRIVER_VERSION="550.54.15",Hostname="gpu-01",UUID="`+uuid(0)+`",device="nvidia7",gpu="0",modelName="NVIDIA H100 80GB HBM3",pci_bus_id="00000000:19:00.0"}`,
		labelsOf(families["DCGM_FI_DEV_FB_FREE"].GetMetric()[0]))
	families, err = parse(page(t, snapshots()["mig"]))
	must.NoError(t, err)
	must.StrContains(t, labelsOf(families["DCGM_FI_DEV_FB_USED"].GetMetric()[0]), `GPU_I_ID="1",GPU_I_PROFILE="1c.3g.40gb"`)
	must.StrNotContains(t, labelsOf(families["DCGM_FI_DEV_GPU_TEMP"].GetMetric()[0]), "GPU_I_ID")
}

// What instances say is not said of their GPU again, so that a sum is right.
func TestASumOverAGPUInMIGModeIsRight(t *testing.T) {
	t.Parallel()
	families, err := parse(page(t, snapshots()["mig"]))
	must.NoError(t, err)
	sum := func(name string) (total float64) {
		for _, m := range families[name].GetMetric() {
			total += valueOf(m)
		}
		return total
	}
	must.Eq(t, 3000, sum("DCGM_FI_DEV_FB_USED"))
	must.Eq(t, 512.345, sum("DCGM_FI_DEV_POWER_USAGE"))
	must.Eq(t, 3, sum("governor_gpu_processes"))
	must.Eq(t, 2, sum("governor_gpu_rogue_processes"))
}

func TestRatesOfNVLinks(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(s *metrics.Snapshot)
		want   string
	}{
		// (5-4 + 6-4) million KiB in 2 s are 1.5 million KiB/s; DCGM divides by 1000.
		"between two samples":          {func(*metrics.Snapshot) {}, "} 1500\n"},
		"no time before":               {func(s *metrics.Snapshot) { s.Before.At = time.Time{} }, ""},
		"no time now":                  {func(s *metrics.Snapshot) { s.At = time.Time{} }, ""},
		"no time between":              {func(s *metrics.Snapshot) { s.Before.At = s.At }, ""},
		"a clock set back":             {func(s *metrics.Snapshot) { s.Before.At = s.At.Add(time.Second) }, ""},
		"counters that began anew":     {func(s *metrics.Snapshot) { s.Before.Samples[0].NVLinkSentKiB = n(1 << 40) }, ""},
		"a counter that was not known": {func(s *metrics.Snapshot) { s.Before.Samples[0].NVLinkSentKiB = inventory.Maybe[int64]{} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := snapshots()["h100"]
			c.change(&s)
			_, after, found := strings.Cut(page(t, s), "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL{")
			must.Eq(t, c.want != "", found)
			if found {
				line, _, _ := strings.Cut(after, "\n")
				must.StrHasSuffix(t, c.want, line+"\n")
			}
		})
	}
}

func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	s := node(gpu(0))
	s.Devices[0].Model = strings.Repeat("x", 1000)
	s.Devices[0].XIDs = map[int64]int64{}
	for xid := range int64(500) {
		s.Devices[0].XIDs[xid] = 1
		s.Devices[0].Degraded = append(s.Devices[0].Degraded, fmt.Sprintf("code_%03d", xid))
	}
	s.Devices[0].Unhealthy = "It does not answer"
	for i := range 2000 {
		d := gpu(0)
		d.ID = fmt.Sprintf("%s::%d", uuid(0), i)
		s.Devices = append(s.Devices, d)
	}
	text := page(t, s)
	families, err := parse(text)
	must.NoError(t, err)
	must.Len(t, 65, families["governor_gpu_xid_errors_total"].GetMetric())
	must.StrContains(t, text, `xid="other"} 436`)
	must.Len(t, 16, families["governor_gpu_degraded"].GetMetric())
	must.StrContains(t, text, `reason="other"`)
	must.Len(t, 1024, families["governor_gpu_info"].GetMetric())
	must.StrNotContains(t, text, strings.Repeat("x", 257))
}

// Our own metrics keep to Prometheus' rules; of DCGM's names and of its labels,
// which ours carry so that they can be joined, the linter complains.
func TestLint(t *testing.T) {
	t.Parallel()
	for name, s := range snapshots() {
		problems, err := promlint.New(strings.NewReader(page(t, s))).Lint()
		must.NoError(t, err)
		for _, p := range problems {
			must.StrHasPrefix(t, "DCGM_FI_", p.Metric, must.Sprint(name, p.Text))
		}
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestWriteSaysThatTheReaderIsGone(t *testing.T) {
	t.Parallel()
	must.EqError(t, metrics.Write(broken{}, metrics.Snapshot{}), "write the metrics: gone")
}

func BenchmarkWrite(b *testing.B) {
	var s metrics.Snapshot
	for i := range 8 {
		s.Devices = append(s.Devices, gpu(i))
		s.Samples = append(s.Samples, busy(uuid(i)))
	}
	b.ReportAllocs()
	for b.Loop() {
		var out bytes.Buffer
		if err := metrics.Write(&out, s); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(out.Len()))
	}
}
