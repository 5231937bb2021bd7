package device_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/device/fakenvml/fixture"
	"github.com/nomad-governor/governor/e2e/cluster"
	"github.com/nomad-governor/governor/internal/gpu"
)

// The groups of the MIG clients, without the profile of an instance.
const (
	wholeH100 = "nvidia/gpu/NVIDIA H100 80GB HBM3"
	slicedMIG = "nvidia/mig/NVIDIA H100 80GB HBM3 MIG "
	singleMIG = "nvidia/gpu/NVIDIA A100-SXM4-40GB MIG 1g.5gb"
)

// migConfig keeps an XID in force though the driver says that no recovery is
// needed.
const migConfig = `health {
  clean_readings = 1000
}
`

// fixtureOf is what a client's GPUs were made from.
func fixtureOf(t *testing.T, client *cluster.Client) *fixture.Fixture {
	t.Helper()
	name := client.Fixture + ".hcl"
	src, err := os.ReadFile(filepath.Join("..", "..", "device", "fakenvml", "fixtures", name))
	must.NoError(t, err)
	f, diags := fixture.Decode(src, name)
	must.False(t, diags.HasErrors(), must.Sprint(diags))
	return f
}

// members are the ids of each group's devices, in Nomad's order.
func (s state) members() map[string][]string {
	ids := map[string][]string{}
	for _, d := range s.devices {
		ids[d.group] = append(ids[d.group], d.id)
	}
	return ids
}

// exactly is satisfied when a node has that many devices in each group.
func exactly(counts map[string]int) func(state) error {
	return func(s state) error {
		now := map[string]int{}
		for _, d := range s.devices {
			now[d.group]++
		}
		if !maps.Equal(counts, now) {
			return fmt.Errorf("its groups are %v", now)
		}
		return nil
	}
}

// profile is a device block for MIG instances of a profile.
func profile(count int, name string) string {
	return fmt.Sprintf(`device "nvidia/mig" {
  count = %d
  constraint {
    attribute = "${device.attr.mig_profile}"
    value     = %q
  }
}
`, count, name)
}

// migInstances: with mig_strategy = "mixed", which is the default, each instance
// is a device of its own.
func migInstances(t *testing.T, n *nodes) {
	f := fixtureOf(t, n.Client(migClient))
	instance := func(gpu, i int) string { return f.MIGUUID(migClient, gpu, i) }
	n.wait(t, migClient, "offers its instances", exactly(map[string]int{wholeH100: 3,
		slicedMIG + "3g.40gb": 3, slicedMIG + "2g.20gb": 2, slicedMIG + "1g.10gb": 1, slicedMIG + "1g.10gb+me": 1,
		slicedMIG + "4g.40gb": 1, slicedMIG + "1g.20gb": 1, slicedMIG + "7g.80gb": 1,
		slicedMIG + "1c.3g.40gb": 1, slicedMIG + "2c.3g.40gb": 1}))
	wholeGPUsAlone(t, n, f)

	taken := map[string]string{} // by id: the driver
	for driver, a := range n.bothDrivers(t, job{id: "slice", client: migClient, devices: profile(1, "2g.20gb"), script: "env"}) {
		ids := cluster.Devices(a)
		must.Len(t, 1, ids)
		must.Eq(t, "", taken[ids[0]], must.Sprint("held by two tasks: ", ids[0]))
		taken[ids[0]] = driver
		must.StrHasPrefix(t, "MIG-", ids[0])
		must.Eq(t, ids[0], n.environment(t, a)[gpu.EnvCUDAVisible], must.Sprint(driver))
		n.shown(t, a, ids...)
	}
	must.Eq(t, []string{instance(0, 1), instance(1, 1)}, inOrder(f, taken))
	media := n.run(t, job{id: "media", client: migClient, devices: profile(1, "1g.10gb+me")})
	must.Eq(t, []string{instance(0, 3)}, cluster.Devices(media))
	n.shownOf(t, migClient)
	n.metricsOfInstances(t, f)
	instanceFails(t, n, f)
}

// inOrder sorts ids of instances as the fixture has them.
func inOrder(f *fixture.Fixture, ids map[string]string) []string {
	place := map[string]int{}
	for gpu, g := range f.GPUs {
		for i := range g.Instances {
			place[f.MIGUUID(migClient, gpu, i)] = 100*gpu + i
		}
	}
	return slices.SortedFunc(maps.Keys(ids), func(a, b string) int { return cmp.Compare(place[a], place[b]) })
}

// wholeGPUsAlone: who asks for a GPU gets none in MIG mode, nor a part of one.
func wholeGPUsAlone(t *testing.T, n *nodes, f *fixture.Fixture) {
	whole := []string{f.UUID(migClient, 4), f.UUID(migClient, 6)}
	n.wait(t, migClient, "says why a GPU without instances is not offered", unhealthy("mig_no_instances", f.UUID(migClient, 3)))
	a := n.run(t, job{id: "wholes", client: migClient, devices: gpus(2), script: "env"})
	slices.Sort(whole)
	must.Eq(t, whole, cluster.Devices(a))
	n.register(t, job{id: "no-slice", client: migClient, devices: gpus(1)})
	why := n.blocked(t, "no-slice")
	must.SliceContains(t, reasons(why), noneFree, must.Sprintf("%+v", why))
	must.NoError(t, n.StopJob(t.Context(), "no-slice"))
}

// instanceFails: an XID of one instance is no other's; once the instance is
// destroyed and made again under another UUID, the node offers the new one.
func instanceFails(t *testing.T, n *nodes, f *fixture.Fixture) {
	client := n.Client(migClient)
	sick, sibling := f.MIGUUID(migClient, 0, 2), f.MIGUUID(migClient, 0, 0)
	holder := n.run(t, job{id: "sibling", client: migClient, devices: pinned("nvidia/mig", 1, sibling)})
	place := control.Instance{GPUInstance: 9}
	must.NoError(t, client.Control.XIDInstance(0, 95, place))
	n.wait(t, migClient, "shows the instance's fault", unhealthy("xid_95", sick))
	n.register(t, job{id: "waits-mig", client: migClient, devices: profile(1, "1g.10gb"), script: "env"})
	why := n.blocked(t, "waits-mig")
	must.SliceContains(t, reasons(why), noneThere, must.Sprintf("%+v", why))
	for _, s := range n.history(migClient, 0) {
		for _, d := range s.devices {
			must.True(t, d.id == sick || !strings.Contains(d.why, "xid_95"), must.Sprintf("another instance's fault: %+v", d))
		}
	}

	n.leave(sick)
	must.NoError(t, client.Control.DestroyMIG(0, place))
	n.wait(t, migClient, "no longer has the instance", func(s state) error {
		if len(s.members()[slicedMIG+"1g.10gb"]) > 0 {
			return errors.New("it has")
		}
		return nil
	})
	const fresh = "MIG-0a0a0a0a-0000-4000-8000-000000000001"
	must.NoError(t, client.Control.CreateMIG(0, control.MIG{Instance: place, UUID: fresh, Profile: "1g.10gb"}))
	a := n.running(t, "waits-mig")
	must.Eq(t, []string{fresh}, cluster.Devices(a))
	must.Eq(t, fresh, n.environment(t, a)[gpu.EnvCUDAVisible])
	n.wait(t, migClient, "offers the new instance", healthy(fresh))
	n.untouched(t, holder)
}

// migAsGPUs: with mig_strategy = "single" jobs need not know of MIG.
func migAsGPUs(t *testing.T, n *nodes) {
	n.wait(t, singleClient, "offers its instances as GPUs", exactly(map[string]int{singleMIG: 56}))
	for driver, a := range n.bothDrivers(t, job{id: "single", client: singleClient, devices: gpus(1), script: "env"}) {
		ids := cluster.Devices(a)
		must.Len(t, 1, ids)
		must.StrHasPrefix(t, "MIG-", ids[0])
		must.Eq(t, ids[0], n.environment(t, a)[gpu.EnvCUDAVisible], must.Sprint(driver))
		n.shown(t, a, ids...)
	}
	n.register(t, job{id: "single-mig", client: singleClient, devices: profile(1, "1g.5gb")})
	why := n.blocked(t, "single-mig")
	must.SliceContains(t, reasons(why), noneThere, must.Sprintf("%+v", why))
	must.NoError(t, n.StopJob(t.Context(), "single-mig"))
	n.shownOf(t, singleClient)
}
