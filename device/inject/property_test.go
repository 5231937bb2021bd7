package inject

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/device/inject/injecttest"
	"github.com/nomad-governor/governor/device/inventory"
)

// machine is a drawn node: what it has, and all its devices.
type machine struct {
	host    Host
	devices []Device
	own     map[string][]string // by UUID: the nodes that are the device's alone
}

// genMachine draws a node of up to eight GPUs, some cut into MIG instances, on
// which any device node may be missing and any minor unknown.
func genMachine(t *rapid.T) machine {
	m := machine{own: map[string][]string{}}
	m.host = Host{
		Mode:          rapid.SampledFrom([]Mode{Runtime, Devices, CDI, Env}).Draw(t, "mode"),
		DriverVersion: injecttest.Version,
		Libraries: []Library{
			{Names: []string{"libcuda.so", "libcuda.so.1", "libcuda.so." + injecttest.Version}, HostPath: "/usr/lib64/libcuda"},
			{Names: []string{"libnvidia-ml.so." + injecttest.Version}, HostPath: "/usr/lib64/libml"},
		},
		options: Options{IMEXChannels: rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 0, 2, rapid.ID).Draw(t, "channels"), GDS: rapid.Bool().Draw(t, "GDS")}.withDefaults(),
		minors:  map[capability]int64{},
	}
	nodes := []string{controlNode, uvmNode, uvmToolNode, "/dev/nvidia-fs0"}
	for _, channel := range m.host.options.IMEXChannels {
		nodes = append(nodes, imexNode(channel))
	}
	capMinor := int64(3)
	for gpu, minor := range rapid.SliceOfNDistinct(rapid.Int64Range(0, 255), 1, 8, rapid.ID).Draw(t, "minors") {
		own := gpuNode(minor)
		nodes = append(nodes, own)
		known := inventory.Maybe[int64]{Value: minor, Known: rapid.IntRange(0, 9).Draw(t, "minor known") > 0}
		instances := rapid.IntRange(0, 3).Draw(t, "instances")
		if instances == 0 {
			d := Device{UUID: fmt.Sprintf("GPU-%d", gpu), Minor: known}
			m.devices, m.own[d.UUID] = append(m.devices, d), []string{own}
		}
		for i := range int64(instances) {
			d := Device{UUID: fmt.Sprintf("MIG-%d-%d", gpu, i), Minor: known, MIG: &MIG{GPUInstance: i + 1, ComputeInstance: i}}
			caps := []string{}
			for _, ci := range []int64{wholeInstance, i} {
				m.host.minors[capability{minor, i + 1, ci}] = capMinor
				caps = append(caps, fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", capMinor))
				capMinor++
			}
			nodes = append(nodes, caps...)
			m.devices, m.own[d.UUID] = append(m.devices, d), append(caps, own)
		}
	}
	complete := rapid.Bool().Draw(t, "complete")
	for _, n := range nodes {
		if complete || rapid.IntRange(0, 9).Draw(t, "there") > 0 {
			m.host.Nodes = append(m.host.Nodes, n)
		}
	}
	slices.Sort(m.host.Nodes)
	return m
}

// genAsk draws some of the devices, in any order.
func (m machine) genAsk(t *rapid.T) []Device {
	all := rapid.Permutation(m.devices).Draw(t, "order")
	return all[:rapid.IntRange(1, len(all)).Draw(t, "count")]
}

func paths(nodes []Node) []string {
	out := []string{}
	for _, n := range nodes {
		out = append(out, n.TaskPath)
	}
	return out
}

// TestGrantsAreTheTasksOwn is the promise to the other tasks of the node: what
// is granted exists, and nothing that belongs to a device not asked for.
func TestGrantsAreTheTasksOwn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := genMachine(t)
		ask := m.genAsk(t)
		g, err := m.host.Reserve(ask)
		if err != nil {
			must.Eq(t, Grant{}, g)
			must.True(t, m.host.Mode == Devices || m.host.Mode == CDI, must.Sprint("only these need nodes: ", err))
			return
		}
		uuids := []string{}
		allowed := paths(m.host.granted(mustExist(m.host)))
		for _, d := range ask {
			uuids = append(uuids, d.UUID)
			allowed = append(allowed, m.own[d.UUID]...)
		}
		must.Eq(t, strings.Join(uuids, ","), g.Envs["CUDA_VISIBLE_DEVICES"])
		for _, p := range paths(g.Nodes) {
			must.SliceContains(t, m.host.Nodes, p, must.Sprint("a granted node exists"))
			must.SliceContains(t, allowed, p, must.Sprint("a granted node is the task's"))
		}
		must.True(t, slices.IsSorted(paths(g.Nodes)))
		if m.host.Mode == Devices || m.host.Mode == CDI {
			for _, d := range ask {
				for _, p := range m.own[d.UUID] {
					must.SliceContains(t, paths(g.Nodes), p, must.Sprint("nothing is left out"))
				}
			}
		}
		for _, other := range m.devices {
			if !slices.Contains(uuids, other.UUID) {
				for name, value := range g.Envs {
					must.False(t, slices.Contains(strings.Split(value, ","), other.UUID), must.Sprint(name))
				}
			}
		}
	})
}

// mustExist are the shared nodes that exist.
func mustExist(h Host) []node {
	there, _ := h.existing(h.sharedNodes())
	return there
}

func TestTheOrderOfDevicesChangesVariablesAlone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := genMachine(t)
		ask := m.genAsk(t)
		a, errA := m.host.Reserve(ask)
		b, errB := m.host.Reserve(rapid.Permutation(ask).Draw(t, "another order"))
		must.Eq(t, errA == nil, errB == nil)
		must.Eq(t, a.Nodes, b.Nodes)
		must.Eq(t, a.Mounts, b.Mounts)
		must.Eq(t, len(a.Envs), len(b.Envs))
		for name, value := range a.Envs {
			other := strings.Split(b.Envs[name], ",")
			mine := strings.Split(value, ",")
			if strings.HasPrefix(name, EnvCDIDevicePrefix) {
				continue // numbered by the order
			}
			slices.Sort(mine)
			slices.Sort(other)
			must.Eq(t, mine, other)
		}
	})
}

// TestSpecListsWhatReserveNames holds because a name in a variable that no
// specification has keeps a container from starting.
func TestSpecListsWhatReserveNames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := genMachine(t)
		m.host.Mode = CDI
		spec, err := m.host.Spec(m.devices)
		must.NoError(t, err)
		again, err := m.host.Spec(rapid.Permutation(m.devices).Draw(t, "order"))
		must.NoError(t, err)
		must.Eq(t, string(spec), string(again))
		for _, d := range m.devices {
			_, err := m.host.Reserve([]Device{d})
			listed := strings.Contains(string(spec), fmt.Sprintf(`"name": %q`, d.UUID))
			must.Eq(t, err == nil, listed, must.Sprint(d.UUID, err))
		}
	})
}
