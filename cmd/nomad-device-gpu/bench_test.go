package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-governor/governor/device/plugin"
)

// BenchmarkWorker measures calls of an idle DGX (8 GPUs) through the worker:
// wall time, and the CPU time of this process as cpu-ns/op.
func BenchmarkWorker(b *testing.B) {
	for name, call := range map[string]func(plugin.Source) error{
		"Probe":  func(s plugin.Source) error { _, err := s.Probe(); return err },
		"Read":   func(s plugin.Source) error { _, err := s.Read(); return err },
		"Sample": func(s plugin.Source) error { _, err := s.Sample(); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.Setenv("FAKENVML_FIXTURE", filepath.Join(fake, "fixtures", "dgxh100.flat"))
			s := supervise(program, hclog.NewNullLogger())(plugin.Settings{LibraryPath: library()})
			defer s.Close()
			_, err := s.Read()
			must.NoError(b, err)
			b.ReportAllocs()
			before := cpu(b)
			for b.Loop() {
				must.NoError(b, call(s))
			}
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpu is the CPU time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	must.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
