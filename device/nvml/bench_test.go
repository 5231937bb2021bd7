package nvml_test

import (
	"fmt"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/nvml"
)

// BenchmarkReader measures what reading a node through NVML costs by itself, for
// BenchmarkWorker in cmd/nomad-device-gpu to be compared with. The library is the
// fake one, whose calls take under a microsecond; a driver's take ten or more.
func BenchmarkReader(b *testing.B) {
	for _, n := range []struct {
		gpus    int
		fixture string
	}{{8, "dgxh100"}, {16, "dgx2"}} {
		for name, call := range map[string]func(*nvml.Reader) error{
			"Probe":  func(r *nvml.Reader) error { _, err := r.Probe(); return err },
			"Read":   func(r *nvml.Reader) error { _, err := r.Read(); return err },
			"Sample": func(r *nvml.Reader) error { _, err := r.Sample(); return err },
		} {
			b.Run(fmt.Sprintf("%s/%dGPUs", name, n.gpus), func(b *testing.B) {
				r, _ := node(b, n.fixture)
				must.NoError(b, call(r))
				b.ReportAllocs()
				for b.Loop() {
					must.NoError(b, call(r))
				}
			})
		}
	}
}
