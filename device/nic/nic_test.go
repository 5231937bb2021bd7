package nic_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/fixture"
	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/device/nic"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// host is a host with these GPUs and NICs; a folder of a GPU is below /sys/devices.
func host(t *testing.T, gpus map[string]int64, nics ...fixture.NIC) string {
	t.Helper()
	f := fixture.Fixture{NICs: nics}
	for folder, node := range gpus {
		g := fixture.GPU{PCIBusID: filepath.Base(folder), Sysfs: folder, Numbers: map[string]int64{}}
		if node >= 0 {
			g.Numbers["numa_node"] = node
		}
		f.GPUs = append(f.GPUs, g)
	}
	root := filepath.Join(t.TempDir(), "sys")
	must.NoError(t, f.WriteSysfs(root))
	return root
}

func read(root string, gpus ...string) []inventory.NIC {
	return nic.Host{Root: root, Names: []string{"*"}}.Read(gpus)
}

func TestPathsAreThoseThatTheKernelsTreeShows(t *testing.T) {
	t.Parallel()
	const gpu = "pci0000:50/0000:50:01.0/0000:51:00.0/0000:52:00.0/0000:53:00.0"
	for name, c := range map[string]struct {
		gpu  string
		nic  string
		numa [2]int
		want topology.Path
	}{
		"one board":                   {gpu, "pci0000:50/0000:50:01.0/0000:51:00.0/0000:52:00.0/0000:53:00.1", [2]int{0, 0}, topology.PathSingle},
		"one switch":                  {gpu, "pci0000:50/0000:50:01.0/0000:51:00.0/0000:52:01.0/0000:54:00.0", [2]int{0, 0}, topology.PathSingle},
		"a switch behind the switch":  {gpu, "pci0000:50/0000:50:01.0/0000:51:00.0/0000:52:01.0/0000:54:00.0/0000:55:00.0/0000:56:00.0", [2]int{0, 0}, topology.PathMultiple},
		"another root port":           {gpu, "pci0000:50/0000:50:03.0/0000:5a:00.0", [2]int{0, 0}, topology.PathHostBridge},
		"another host bridge":         {gpu, "pci0000:60/0000:60:01.0/0000:61:00.0", [2]int{0, 0}, topology.PathNode},
		"another NUMA node":           {gpu, "pci0000:d0/0000:d0:01.0/0000:d1:00.0", [2]int{0, 1}, topology.PathSystem},
		"NUMA not known, one node":    {gpu, "pci0000:d0/0000:d0:01.0/0000:d1:00.0", [2]int{-1, -1}, topology.PathNode},
		"behind a volume controller":  {"pci0000:50/0000:50:05.5/pci10000:e0/10000:e0:00.0/10000:e1:00.0", "pci0000:50/0000:50:01.0/0000:54:00.0", [2]int{0, 0}, topology.PathNode},
		"a virtual machine's one bus": {"pci0000:00/0000:00:05.0", "pci0000:00/0000:00:06.0", [2]int{-1, -1}, topology.PathHostBridge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := host(t, map[string]int64{c.gpu: int64(c.numa[0])}, fixture.NIC{Name: "mlx5_0", Sysfs: c.nic, NUMANode: c.numa[1], Gbps: 400})
			found := read(root, filepath.Base(c.gpu))
			must.Len(t, 1, found)
			must.Eq(t, inventory.NIC{Name: "mlx5_0", PCIBusID: filepath.Base(c.nic), MBps: 50_000,
				Paths: map[string]topology.Path{filepath.Base(c.gpu): c.want}}, found[0])
		})
	}
}

func TestANUMANodeThatIsNotKnownAmongSeveralIsNoPath(t *testing.T) {
	t.Parallel()
	root := host(t, map[string]int64{"pci0000:50/0000:50:01.0": 0, "pci0000:60/0000:60:01.0": 1},
		fixture.NIC{Name: "mlx5_0", Sysfs: "pci0000:70/0000:70:01.0", NUMANode: -1, Gbps: 100})
	found := read(root, "0000:50:01.0", "0000:60:01.0", "0000:99:00.0")
	must.Eq(t, map[string]topology.Path{"0000:50:01.0": topology.PathUnknown, "0000:60:01.0": topology.PathUnknown}, found[0].Paths)
}

func TestOnlyNICsThatAJobCanUseCount(t *testing.T) {
	t.Parallel()
	root := host(t, nil,
		fixture.NIC{Name: "mlx5_1", Sysfs: "pci0000:50/0000:50:01.0", Gbps: 200},
		fixture.NIC{Name: "mlx5_0", Sysfs: "pci0000:60/0000:60:01.0", Gbps: 200},
		fixture.NIC{Name: "mlx5_2", Sysfs: "pci0000:70/0000:70:01.0", Gbps: 200, Down: true},
		fixture.NIC{Name: "mlx5_3", Sysfs: "pci0000:80/0000:80:00.1", Gbps: 200},
		fixture.NIC{Name: "irdma0", Sysfs: "pci0000:90/0000:90:00.0", Gbps: 25})
	must.NoError(t, os.Symlink("../80:00.0", filepath.Join(root, "devices/pci0000:80/0000:80:00.1/physfn")))
	must.NoError(t, os.Mkdir(filepath.Join(root, "devices/pci0000:80/80:00.0"), 0o755))
	must.NoError(t, os.MkdirAll(filepath.Join(root, "devices/virtual/rxe0/ports/1"), 0o755)) // RDMA in software
	must.NoError(t, os.Symlink("../../devices/virtual/rxe0", filepath.Join(root, "class/infiniband/rxe0")))
	sf := "devices/pci0000:50/0000:50:01.0/mlx5_core.sf.2"
	for _, at := range []string{sf, "devices/pci0000:a0/0000:a0:00.0/mlx5_core.sf.3"} { // the second's NIC has no RDMA itself
		must.NoError(t, os.MkdirAll(filepath.Join(root, at, "infiniband", filepath.Base(at)), 0o755))
		ports := filepath.Join(root, at, "infiniband", filepath.Base(at), "ports", "1")
		must.NoError(t, os.MkdirAll(ports, 0o755))
		must.NoError(t, os.WriteFile(filepath.Join(ports, "state"), []byte("4: ACTIVE\n"), 0o644))
		must.NoError(t, os.WriteFile(filepath.Join(ports, "rate"), []byte("100 Gb/sec (4X EDR)\n"), 0o644))
		must.NoError(t, os.Symlink("../..", filepath.Join(root, at, "infiniband", filepath.Base(at), "device")))
		must.NoError(t, os.Symlink("../../"+at+"/infiniband/"+filepath.Base(at), filepath.Join(root, "class/infiniband", filepath.Base(at))))
	}
	names := func(patterns ...string) (names []string) {
		for _, n := range (nic.Host{Root: root, Names: patterns}).Read(nil) {
			names = append(names, n.Name)
		}
		return names
	}
	must.Eq(t, []string{"mlx5_1", "mlx5_0", "irdma0", "mlx5_core.sf.3"}, names("*"), must.Sprint("in the order of their addresses"))
	must.Eq(t, []string{"mlx5_1", "mlx5_0"}, names("mlx5_[0-9]"))
	must.NoError(t, os.WriteFile(filepath.Join(root, "devices/pci0000:a0/0000:a0:00.0/numa_node"), []byte("0\n"), 0o644))
	must.Eq(t, "0000:a0:00.0", (nic.Host{Root: root, Names: []string{"mlx5_core.sf.3"}}).Read(nil)[0].PCIBusID)
	must.Eq(t, []string{"irdma0"}, names("irdma0", "none"))
	must.SliceEmpty(t, names())
	must.SliceEmpty(t, nic.Host{Root: filepath.Join(root, "nothing"), Names: []string{"*"}}.Read([]string{"0000:50:01.0"}))
}

func TestRatesOfActivePortsAddUp(t *testing.T) {
	t.Parallel()
	root := host(t, nil, fixture.NIC{Name: "mlx5_0", Sysfs: "pci0000:50/0000:50:01.0", Gbps: 200})
	port := func(number, state, rate string) {
		folder := filepath.Join(root, "devices/pci0000:50/0000:50:01.0/infiniband/mlx5_0/ports", number)
		must.NoError(t, os.MkdirAll(folder, 0o755))
		must.NoError(t, os.WriteFile(filepath.Join(folder, "state"), []byte(state), 0o644))
		must.NoError(t, os.WriteFile(filepath.Join(folder, "rate"), []byte(rate), 0o644))
	}
	for rate, want := range map[string]int64{
		"2.5 Gb/sec (1X SDR)\n": 25_312, "56 Gb/sec (4X FDR)": 32_000, "fast": 25_000, "-4 Gb/sec": 25_000, "1e9 Gb/sec": 25_000, "NaN Gb/sec": 25_000,
	} {
		port("2", "4: ACTIVE\n", rate)
		must.Eq(t, want, read(root)[0].MBps, must.Sprint(rate))
	}
	port("2", "2: INIT\n", "400 Gb/sec (4X NDR)\n")
	must.Eq(t, 25_000, read(root)[0].MBps)
	port("1", "1: DOWN\n", "200 Gb/sec (4X HDR)\n")
	must.SliceEmpty(t, read(root))
}
