package plugin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
)

// recorder is an injector and a watcher of occupants that remembers.
type recorder struct {
	mu       sync.Mutex
	observed []int // the number of devices, at each call
	err      error
}

func (r *recorder) Observe(_ inventory.Inventory, units []inventory.Unit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.observed = append(r.observed, len(units))
}

func (r *recorder) Reserve(units []inventory.Unit) (Reservation, error) {
	return Reservation{Envs: map[string]string{"FIRST": units[0].ID},
		Mounts:  []Mount{{TaskPath: "/in/task", HostPath: "/on/host"}, {TaskPath: "/pipe", HostPath: "/pipe", Writable: true}},
		Devices: []DeviceNode{{TaskPath: "/dev/nvidia0", HostPath: "/host/dev/nvidia0", Permissions: "rw"}}}, r.err
}

func (r *recorder) Grant(ids []string) (map[string]string, error) {
	return map[string]string{"GRANT": strconv.Itoa(len(ids))}, nil
}

func (r *recorder) Metrics(_ inventory.Inventory, units []inventory.Unit, samples []inventory.Sample) map[string][]inventory.Metric {
	return map[string][]inventory.Metric{units[0].ID: {{Key: "processes", Value: inventory.Known(int64(len(samples))), Desc: "d"}}}
}

// startParts is start with everything that a plugin can have.
func startParts(t *testing.T, n *node, r *recorder, change func(*deviceconfig.Block)) *Plugin {
	t.Helper()
	p := start(t, n, change)
	p.parts.Injector = func(Settings) (Injector, error) { return r, nil }
	p.parts.Occupants = func(Settings) (Occupants, error) { return r, nil }
	return p
}

func TestReservationHasWhatInjectorAndOccupantsGive(t *testing.T) {
	n, r := newNode(2), &recorder{}
	p := startParts(t, n, r, nil)
	f := fingerprint(t, p)
	eventually(t, f, map[string]string{id(0): "", id(1): ""})
	must.Eq(t, []int{2}, r.observed, must.Sprint("the injector knows the devices before Nomad does"))

	got, err := p.Reserve([]string{id(1), id(0)})
	must.NoError(t, err)
	must.Eq(t, &device.ContainerReservation{
		Envs: map[string]string{"FIRST": id(0), "GRANT": "2"},
		Mounts: []*device.Mount{{TaskPath: "/in/task", HostPath: "/on/host", ReadOnly: true},
			{TaskPath: "/pipe", HostPath: "/pipe"}},
		Devices: []*device.DeviceSpec{{TaskPath: "/dev/nvidia0", HostPath: "/host/dev/nvidia0", CgroupPerms: "rw"}},
	}, got)

	r.err = errors.New("/dev/nvidia1 is missing")
	_, err = p.Reserve([]string{id(1)})
	must.EqError(t, err, "reserve GPU "+id(1)+": /dev/nvidia1 is missing")

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := p.Stats(ctx, time.Millisecond)
	must.NoError(t, err)
	stats := (<-stream).Groups[0].InstanceStats
	must.Eq(t, 2, *stats[id(0)].Stats.Attributes["processes"].IntNumeratorVal)
	must.MapNotContainsKey(t, stats[id(1)].Stats.Attributes, "processes")
	cancel()
	for range stream { // ends
	}
}

// An error of Fingerprint would leave the client without GPUs until it restarts.
func TestBlockThatTheInjectorRefusesKeepsTheClientFromStarting(t *testing.T) {
	t.Parallel()
	block := deviceconfig.Default()
	block.StateDir, block.LibraryDir = t.TempDir(), "/"
	s, err := block.Check()
	must.NoError(t, err)
	p := New(hclog.NewNullLogger(), Parts{Injector: func(s Settings) (Injector, error) {
		return nil, errors.New("the library directory is " + s.LibraryDir)
	}}, time.Now)
	must.EqError(t, p.Configure(s), "the library directory is /")
}

func TestTwoSharesOfOneGPUAreRefusedAndOfTwoAreNot(t *testing.T) {
	n := newNode(2)
	p := start(t, n, func(b *deviceconfig.Block) {
		b.Sharing = []deviceconfig.Sharing{{GPUs: []string{"*"}, Replicas: 2}}
	})
	f := fingerprint(t, p)
	eventually(t, f, map[string]string{id(0) + "::0": "", id(0) + "::1": "", id(1) + "::0": "", id(1) + "::1": ""})
	_, err := p.Reserve([]string{id(0) + "::1", id(0) + "::0"})
	must.ErrorContains(t, err, "both are shares of one GPU, and two shares give a task no more than one; ask for a count of 1, or for whole GPUs")
	r, err := p.Reserve([]string{id(1) + "::0", id(0) + "::1"})
	must.NoError(t, err)
	must.Eq(t, id(0)+","+id(1), r.Envs["CUDA_VISIBLE_DEVICES"])
}

func TestMPSSharesNeedTheControlDaemon(t *testing.T) {
	n, dir := newNode(1), t.TempDir()
	p := start(t, n, func(b *deviceconfig.Block) {
		b.Sharing = []deviceconfig.Sharing{{GPUs: []string{"0"}, Strategy: "mps", Replicas: 2}}
		b.MPSPipeDirectory = dir
	})
	f := fingerprint(t, p)
	missing := "mps_daemon: no MPS control daemon serves " + dir + ": start nvidia-cuda-mps-control -d with CUDA_MPS_PIPE_DIRECTORY=" + dir
	eventually(t, f, map[string]string{id(0) + "::0": missing, id(0) + "::1": missing})
	pid := filepath.Join(dir, mpsPIDFile)
	must.NoError(t, os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644))
	eventually(t, f, map[string]string{id(0) + "::0": "", id(0) + "::1": ""})
	must.NoError(t, os.WriteFile(pid, []byte("4194305\n"), 0o644)) // above the kernel's largest pid
	eventually(t, f, map[string]string{id(0) + "::0": missing, id(0) + "::1": missing})
}

func TestGroupIdentityOutlivesThePluginAndItsConfiguration(t *testing.T) {
	dir := t.TempDir()
	run := func(grouping string) []string {
		n := newNode(2)
		p := start(t, n, func(b *deviceconfig.Block) { b.StateDir, b.TopologyGroups = dir, grouping })
		f := fingerprint(t, p)
		eventually(t, f, map[string]string{id(0): "", id(1): ""})
		must.NoError(t, p.Close())
		var names []string
		for _, g := range f.latest.Devices {
			names = append(names, g.Name)
		}
		return names
	}
	must.Eq(t, []string{"Card-nvlink0", "Card-nvlink1"}, run("nvlink"))
	must.Eq(t, []string{"Card-nvlink0", "Card-nvlink1"}, run("off"), must.Sprint("GPUs change no group while tasks may hold them"))
	must.NoError(t, os.Remove(IdentityPath(dir)))
	must.Eq(t, []string{"Card"}, run("off"))
}

func TestDamagedIdentityKeepsTheClientFromStarting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must.NoError(t, os.WriteFile(IdentityPath(dir), []byte("{"), 0o600))
	p := New(hclog.NewNullLogger(), Parts{}, time.Now)
	block := deviceconfig.Default()
	block.StateDir = dir
	s, err := block.Check()
	must.NoError(t, err)
	must.ErrorContains(t, p.Configure(s), "groups.json is damaged")

	file := filepath.Join(t.TempDir(), "file")
	must.NoError(t, os.WriteFile(file, nil, 0o600))
	s.StateDir, s.Grouping = filepath.Join(file, "below"), inventory.GroupNUMA
	must.ErrorContains(t, p.Configure(s), "group identities")
}

func TestMetricsAreServedWhileThePluginRuns(t *testing.T) {
	n := newNode(2)
	views := make(chan View, 100)
	var ended sync.WaitGroup
	ended.Add(1)
	p := start(t, n, func(b *deviceconfig.Block) { b.PrometheusAddress = "127.0.0.1:0" })
	p.parts.Listen = func(ctx context.Context, _ Settings, view func(context.Context) View, _ hclog.Logger) error {
		defer ended.Done()
		for ctx.Err() == nil {
			select {
			case views <- view(ctx):
			default:
			}
			sleep(ctx, 10*time.Millisecond)
		}
		return nil
	}
	fingerprint(t, p)
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool {
		v := <-views
		return len(v.Units) == 2 && len(v.Samples) == 2 && v.Failure == ""
	}), wait.Timeout(10*time.Second), wait.Gap(time.Millisecond)))
	must.NoError(t, p.Close())
	ended.Wait()
}
