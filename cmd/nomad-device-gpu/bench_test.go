package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-governor/governor/device/plugin"
)

// BenchmarkWorker measures calls of an idle DGX H100 (8 GPUs) and DGX-2 (16)
// through the worker: wall time, and the CPU time of this process, which is what
// the plugin adds to NVML's own, as cpu-ns/op. BenchmarkReader in device/nvml has
// the same calls without a worker between.
func BenchmarkWorker(b *testing.B) {
	for _, node := range []struct {
		gpus    int
		fixture string
	}{{8, "dgxh100"}, {16, "dgx2"}} {
		for name, call := range map[string]func(plugin.Source) error{
			"Watch":  func(s plugin.Source) error { _, err := s.Watch(0); return err },
			"Read":   func(s plugin.Source) error { _, err := s.Read(); return err },
			"Sample": func(s plugin.Source) error { _, err := s.Sample(); return err },
		} {
			b.Run(fmt.Sprintf("%s/%dGPUs", name, node.gpus), func(b *testing.B) {
				b.Setenv("FAKENVML_FIXTURE", flat(node.fixture))
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
}

// cpu is the CPU time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	must.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// idleTime is how long a process that does nothing in particular is watched.
const idleTime = 30 * time.Second

// BenchmarkIdle measures what the shipped program costs on an idle DGX (8 GPUs)
// while Nomad follows its devices, without and with the statistics that Nomad
// asks for each second: the share of one core, and the resident memory, of the
// plugin and of its worker. It takes idleTime for each. Of the worker's share a
// part is the fake library's, which looks for events where NVML sleeps in the kernel.
func BenchmarkIdle(b *testing.B) {
	for name, stats := range map[string]bool{"Fingerprint": false, "FingerprintAndStats": true} {
		b.Run(name, func(b *testing.B) {
			processes := serving(b, stats)
			for b.Loop() {
				before := map[string]time.Duration{}
				for process, pid := range processes {
					before[process] = cpuOf(b, pid)
				}
				began := time.Now()
				<-time.After(idleTime)
				for process, pid := range processes {
					used := cpuOf(b, pid) - before[process]
					b.ReportMetric(100*used.Seconds()/time.Since(began).Seconds(), process+"-%core")
					b.ReportMetric(float64(residentKiB(b, pid))/1024, process+"-MiB")
				}
			}
			b.ReportMetric(0, "ns/op") // says nothing here
		})
	}
}

// serving starts the program as Nomad does, follows its devices until the end
// of the benchmark, and returns the process ids of the plugin and its worker.
func serving(b *testing.B, stats bool) map[string]int {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = []string{
		// What makes a process a plugin of Nomad's (plugins/base/base.go).
		"NOMAD_PLUGIN_MAGIC_COOKIE=e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255",
		"LD_LIBRARY_PATH=" + fake, "FAKENVML_FIXTURE=" + flat("dgxh100"), "TMPDIR=" + b.TempDir(),
	}
	stdout, err := cmd.StdoutPipe()
	must.NoError(b, err)
	must.NoError(b, cmd.Start())
	b.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
	})
	// go-plugin's greeting: core version, protocol, network, address, kind.
	greeting, err := bufio.NewReader(stdout).ReadString('\n')
	must.NoError(b, err)
	parts := strings.Split(greeting, "|")
	must.Greater(b, 4, len(parts), must.Sprint(greeting))
	must.Eq(b, []string{"unix", "grpc"}, []string{parts[2], strings.TrimSpace(parts[4])})

	client := pluginClient{ctx, parts[3]}
	client.stream(b, "base.proto.BasePlugin/SetConfig", stateDir(b.TempDir()))
	must.Positive(b, client.stream(b, "device.DevicePlugin/Fingerprint", nil)) // the first message lists the devices
	if stats {
		everySecond := []byte{0x0a, 0x02, 0x08, 0x01} // collection_interval: Duration of 1 s
		must.Positive(b, client.stream(b, "device.DevicePlugin/Stats", everySecond))
	}
	return map[string]int{"plugin": cmd.Process.Pid, "worker": onlyChild(b, cmd.Process.Pid)}
}

// stateDir is a SetConfigRequest whose configuration names the directory alone:
// a map of one text to another, as MessagePack.
func stateDir(dir string) []byte {
	config := append([]byte{0x81, 0xa9}, "state_dir"...)
	config = append(append(config, 0xd9, byte(len(dir))), dir...)
	return append(binary.AppendUvarint([]byte{0x0a}, uint64(len(config))), config...)
}

// onlyChild is the process that one of a process's threads has started.
func onlyChild(b *testing.B, pid int) int {
	b.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	must.NoError(b, err)
	var all []string
	for _, thread := range threads {
		list, err := os.ReadFile(thread)
		must.NoError(b, err)
		all = append(all, strings.Fields(string(list))...)
	}
	must.Len(b, 1, all)
	child, err := strconv.Atoi(all[0])
	must.NoError(b, err)
	return child
}

// pluginClient calls the plugin's streams. Of gRPC it knows only how messages
// are framed, which is all that is needed to have them sent.
type pluginClient struct {
	ctx    context.Context
	socket string
}

// stream opens a stream, returns the size of its first message, and reads the
// others until the benchmark ends.
func (c pluginClient) stream(b *testing.B, method string, request []byte) int {
	b.Helper()
	transport := &http.Transport{
		Protocols: new(http.Protocols),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
		},
	}
	transport.Protocols.SetUnencryptedHTTP2(true)
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request))), request...)
	call, err := http.NewRequestWithContext(c.ctx, http.MethodPost,
		"http://plugin/hashicorp.nomad.plugins."+method, bytes.NewReader(body))
	must.NoError(b, err)
	call.Header.Set("Content-Type", "application/grpc")
	call.Header.Set("TE", "trailers")
	response, err := (&http.Client{Transport: transport}).Do(call)
	must.NoError(b, err)
	var reading sync.WaitGroup
	b.Cleanup(func() {
		_ = response.Body.Close()
		reading.Wait()
		transport.CloseIdleConnections()
	})
	must.Eq(b, http.StatusOK, response.StatusCode)
	var prefix [5]byte
	_, err = io.ReadFull(response.Body, prefix[:])
	must.NoError(b, err)
	reading.Go(func() { _, _ = io.Copy(io.Discard, response.Body) })
	return int(binary.BigEndian.Uint32(prefix[1:]))
}

// cpuOf is the CPU time that a process has used, exactly: /proc counts in
// ticks of 10 ms.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	var t unix.Timespec
	clock := int32(^pid<<3 | 2) // clock_getcpuclockid(3)
	must.NoError(b, unix.ClockGettime(clock, &t))
	return time.Duration(t.Nano())
}

// residentKiB is the resident memory of a process.
func residentKiB(b *testing.B, pid int) int {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must.NoError(b, err)
	_, rest, found := strings.Cut(string(status), "VmRSS:")
	must.True(b, found)
	size, err := strconv.Atoi(strings.Fields(rest)[0])
	must.NoError(b, err)
	return size
}
