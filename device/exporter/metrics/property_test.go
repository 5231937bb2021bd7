package metrics_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/device/exporter/metrics"
	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/occupancy"
)

func maybe(t *rapid.T, label string) inventory.Maybe[int64] {
	return inventory.Maybe[int64]{Value: rapid.Int64Range(0, 1<<50).Draw(t, label), Known: rapid.Bool().Draw(t, label+" known")}
}

// genSnapshot draws a node with GPUs, shares and instances, of which anything
// may be unknown, and any texts.
func genSnapshot(t *rapid.T) metrics.Snapshot {
	s := metrics.Snapshot{Hostname: rapid.String().Draw(t, "host"), DriverVersion: rapid.String().Draw(t, "driver"), PluginVersion: "1",
		UsesKnown: rapid.Bool().Draw(t, "uses known"), WorkerStarts: maybe(t, "starts"), At: noon}
	if rapid.Bool().Draw(t, "before") {
		s.Before.At = noon.Add(-time.Duration(rapid.Int64Range(-5, 5).Draw(t, "ago")) * time.Second)
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "GPUs") {
		whole := gpu(i)
		whole.Model = rapid.String().Draw(t, "model")
		whole.LastXID = maybe(t, "xid")
		whole.Unhealthy = rapid.SampledFrom([]string{"", "gpu_lost", "a b"}).Draw(t, "unhealthy")
		uuids := []string{whole.GPU}
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			s.Devices = append(s.Devices, whole)
		case 1:
			for k := range 3 {
				d := whole
				d.ID = fmt.Sprintf("%s::%d", d.GPU, k)
				s.Devices = append(s.Devices, d)
			}
		case 2:
			for k := range rapid.IntRange(1, 4).Draw(t, "instances") {
				d := whole
				d.ID = fmt.Sprintf("MIG-%d-%d", i, k)
				d.Instance, d.GPUInstance, d.ComputeInstance, d.Profile = d.ID, int64(k/2), int64(k%2), "1g"
				uuids = append(uuids, d.ID)
				s.Devices = append(s.Devices, d)
			}
		}
		for _, id := range uuids {
			sample := inventory.Sample{UUID: id, TemperatureC: maybe(t, "temperature"), MemoryUsedMiB: maybe(t, "used"), MemoryTotalMiB: maybe(t, "total"),
				MemoryFreeMiB: maybe(t, "free"), PowerMilliW: maybe(t, "power"), NVLinkSentKiB: maybe(t, "sent"), NVLinkReceivedKiB: maybe(t, "received"),
				SMActivePermille: maybe(t, "active"), ProcessesKnown: rapid.Bool().Draw(t, "processes")}
			if rapid.Bool().Draw(t, "sampled") {
				s.Samples = append(s.Samples, sample)
			}
			s.Before.Samples = append(s.Before.Samples, inventory.Sample{UUID: id, NVLinkSentKiB: maybe(t, "sent"), NVLinkReceivedKiB: maybe(t, "received")})
			s.Uses = append(s.Uses, occupancy.Use{DeviceID: id, GPU: whole.GPU, Verdict: rapid.SampledFrom([]occupancy.Verdict{occupancy.Unknown, occupancy.NotHeld}).Draw(t, "verdict")})
		}
	}
	return s
}

func TestEveryPageIsReadableAndOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := genSnapshot(t)
		text := page(t, s)
		families, err := parse(text)
		must.NoError(t, err, must.Sprint(text))
		must.SliceEmpty(t, duplicates(families))

		shuffled := s
		shuffled.Devices = permuted(t, s.Devices)
		shuffled.Samples = permuted(t, s.Samples)
		shuffled.Uses = permuted(t, s.Uses)
		must.Eq(t, text, page(t, shuffled))
	})
}

func permuted[T any](t *rapid.T, list []T) []T {
	if len(list) == 0 {
		return list
	}
	return rapid.Permutation(list).Draw(t, "order")
}

func TestWhatIsNotKnownIsNotOnThePage(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := genSnapshot(t)
		families, err := parse(page(t, s))
		must.NoError(t, err)
		instances := map[string]string{} // MIG instance -> GPU
		for _, d := range s.Devices {
			if d.Instance != "" {
				instances[d.Instance] = d.GPU
			}
		}
		for name, get := range map[string]func(inventory.Sample) inventory.Maybe[int64]{
			"DCGM_FI_DEV_GPU_TEMP":   func(s inventory.Sample) inventory.Maybe[int64] { return s.TemperatureC },
			"DCGM_FI_DEV_FB_USED":    func(s inventory.Sample) inventory.Maybe[int64] { return s.MemoryUsedMiB },
			"DCGM_FI_PROF_SM_ACTIVE": func(s inventory.Sample) inventory.Maybe[int64] { return s.SMActivePermille },
		} {
			// The oracle: a value a sample that has it, less those of GPUs of
			// which an instance has it too.
			covered := map[string]bool{}
			for _, sample := range s.Samples {
				if gpu, ok := instances[sample.UUID]; ok && get(sample).Known {
					covered[gpu] = true
				}
			}
			want := 0
			for _, sample := range s.Samples {
				if get(sample).Known && !covered[sample.UUID] {
					want++
				}
			}
			must.Eq(t, want, len(families[name].GetMetric()), must.Sprint(name))
		}
		must.Eq(t, len(s.Devices), len(families["governor_gpu_healthy"].GetMetric()))
		rogue := 0.0
		for _, m := range families["governor_gpu_rogue_processes"].GetMetric() {
			rogue += valueOf(m)
		}
		notHeld := 0
		for _, u := range s.Uses {
			if u.Verdict == occupancy.NotHeld {
				notHeld++
			}
		}
		must.True(t, rogue <= float64(notHeld), must.Sprint("each use is counted once at most"))
	})
}

func FuzzTexts(f *testing.F) {
	f.Add("a\\b\"c\nd", "gpu_lost")
	f.Add("\xff", "{}")
	f.Fuzz(func(t *testing.T, text, code string) {
		s := node(gpu(0))
		s.Hostname, s.Devices[0].Model, s.Devices[0].Group, s.Devices[0].Unhealthy, s.Devices[0].Degraded = text, text, text, code, []string{code, text}
		s.Samples = []inventory.Sample{busy(uuid(0))}
		families, err := parse(page(t, s))
		must.NoError(t, err)
		// What is read is what was written, where it is text and not too long.
		if strings.ToValidUTF8(text, "") == text && len(text) <= 256 {
			labels := labelsOf(families["DCGM_FI_DEV_GPU_TEMP"].GetMetric()[0])
			must.Eq(t, text != "", strings.Contains(labels, fmt.Sprintf("modelName=%q", text)), must.Sprint(labels))
		}
	})
}
