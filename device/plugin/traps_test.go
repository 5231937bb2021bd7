package plugin

// What Nomad does with a device plugin that must be known to write one, each as a
// test of that the plugin keeps clear of it. What is Nomad's own doing is shown on
// a real Nomad, by TestPluginOnRealNomad of e2e/device:
//
//	two device blocks of a task overwrite each other's variables, and one of
//	them alone is measured             of two device blocks only the last one's GPUs are visible and measured
//	a template replaces variables of a reservation
//	                                   a template may replace the variables of a reservation, an env block may not
//	a reservation's variables alone outlive a restart of the client
//	                                   the variables of a reservation outlive a restart of client and task
//	a reservation's mounts hide the task's volumes, and its mounts and device
//	nodes are lost with a restart      device nodes and libraries (mountsAndVolumes, nodesAfterRestarts)
//	the control group is made of the reservation
//	                                   the control group allows what the task was given and nothing else
//
// That a device may be lost between placement and reservation is in TestReserve;
// that each way of injection names the devices in variables, which are all that
// lasts, in TestGrantsAreTheTasksOwn of device/inject.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/structs"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
	"github.com/nomad-governor/governor/internal/gpu"
)

// measured checks that each device of a fingerprint has its statistics, under
// the name of its group: Nomad's CLI dereferences them unseen.
func measured(r *device.FingerprintResponse, stats *device.StatsResponse) error {
	if stats.Error != nil {
		return fmt.Errorf("the statistics carry the error %w", stats.Error)
	}
	if stats.Groups == nil {
		return fmt.Errorf("the statistics are nil: Nomad would keep the old ones")
	}
	byGroup := map[string]map[string]*device.DeviceStats{}
	for _, g := range stats.Groups {
		name := gpu.DeviceName(g.Vendor, g.Type, g.Name)
		if byGroup[name] != nil {
			return fmt.Errorf("two groups of statistics are called %s", name)
		}
		byGroup[name] = g.InstanceStats
	}
	for _, g := range r.Devices {
		name := gpu.DeviceName(g.Vendor, g.Type, g.Name)
		if len(byGroup[name]) != len(g.Devices) {
			return fmt.Errorf("group %s has %d devices and statistics of %d", name, len(g.Devices), len(byGroup[name]))
		}
		for _, d := range g.Devices {
			if s := byGroup[name][d.ID]; s == nil || s.Summary == nil || s.Stats == nil || s.Timestamp.IsZero() {
				return fmt.Errorf("the statistics of %s in group %s are not complete: %+v", d.ID, name, s)
			}
		}
	}
	if len(byGroup) != len(r.Devices) {
		return fmt.Errorf("there are statistics of %d groups, and %d groups", len(byGroup), len(r.Devices))
	}
	return nil
}

// groups are the names of a message's groups, each with the ids of its devices.
func groups(r *device.FingerprintResponse) map[string][]string {
	found := map[string][]string{}
	for _, g := range r.Devices {
		name := g.Type + "/" + g.Name
		for _, d := range g.Devices {
			found[name] = append(found[name], d.ID)
		}
	}
	return found
}

// attributes are those of a message's only group.
func attributes(t *testing.T, r *device.FingerprintResponse) map[string]*structs.Attribute {
	t.Helper()
	must.Len(t, 1, r.Devices)
	return r.Devices[0].Attributes
}

// client/devicemanager/instance.go: a stream that ends, or a message with an
// error, loses all devices of the plugin until the client is restarted.
func TestTrapAStreamThatEndsOrCarriesAnErrorLosesEveryDevice(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		h := newHost(2)
		h.err = errors.New("no driver")
		a := attend(t, h, 0, nil)
		must.Eq(t, map[string]string{}, health(a.wait(settled)))
		for _, s := range []step{{what: "back"}, {what: "lose"}, {what: "lose", gpu: 1}, {what: "find", gpu: 1}, {what: "hang"}, {what: "return"},
			{what: "xid", n: 2}, {what: "upgrade", n: 1}, {what: "away"}, {what: "find"}, {what: "back"}} {
			h.happen(s)
			must.NoError(t, matches(h.want(), health(a.wait(settled))), must.Sprint(s.what))
		}
		must.NoError(t, a.verdict())
	})
}

// client/devicemanager/manager.go waits at most 50 s for the first message of
// all plugins; without one the client starts with no devices.
func TestTrapTheFirstMessageThatComesLateIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		h := newHost(2)
		h.hang = make(chan struct{})
		a := attend(t, h, 0, nil)
		first := a.wait(firstFingerprint)
		must.NotNil(t, first)
		must.SliceEmpty(t, first.Devices)
		h.happen(step{what: "return"})
		must.NoError(t, matches(h.want(), health(a.wait(settled))))
	})
}

// nomad/structs/devices.go: of two groups with one vendor, type and name the
// later one hides the other.
func TestTrapTwoGroupsOfOneNameHideEachOther(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		h := newHost(8)
		h.named = func(i int) string { return []string{"Card", "Card-nvlink0"}[i/6] }
		h.split[3] = []int{0, 1, 2}
		a := attend(t, h, 0, func(b *deviceconfig.Block) {
			b.TopologyGroups = "nvlink"
			b.Sharing = []deviceconfig.Sharing{{GPUs: []string{id(4)}, Replicas: 2}, {GPUs: []string{id(5)}, Strategy: "mps", Replicas: 2}}
		})
		must.Eq(t, map[string][]string{
			"gpu/Card-nvlink0":         {id(0), id(1)},
			"gpu/Card-nvlink1":         {id(2)},
			"gpu/Card-nvlink0-nvlink3": {id(6), id(7)},
			"gpu-share/Card-shared-2":  {id(4) + "::0", id(4) + "::1"},
			"gpu-share/Card-mps-2":     {id(5) + "::0", id(5) + "::1"},
			"mig/Card MIG 1g.10gb":     {migID(3, 0), migID(3, 2)},
			"mig/Card MIG 2g.20gb":     {migID(3, 1)},
		}, groups(a.wait(settled)))
		must.NoError(t, a.verdict())
	})
}

// A device that is in two groups, or twice in one, is handed out twice.
func TestTrapADeviceThatIsListedTwiceIsHandedOutTwice(t *testing.T) {
	t.Parallel()
	for name, confuse := range map[string]func(*inventory.Readings){
		"a GPU is at two indices": func(r *inventory.Readings) { r.GPUs = append(r.GPUs, r.GPUs[0]) },
		"two models have one UUID": func(r *inventory.Readings) {
			again := r.GPUs[0]
			again.Name, again.PCIBusID = "Other", bus(7)
			r.GPUs = append(r.GPUs, again)
		},
		"a MIG instance is of two GPUs": func(r *inventory.Readings) { r.GPUs[1].Instances = append(r.GPUs[1].Instances, r.GPUs[2].Instances...) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				h := newHost(3)
				h.split[1], h.split[2] = []int{1}, []int{0, 1}
				h.edit = confuse
				a := attend(t, h, 0, nil)
				must.Eq(t, map[string]string{id(0): "healthy", migID(1, 1): "healthy", migID(2, 0): "healthy", migID(2, 1): "healthy"}, health(a.wait(settled)))
				must.NoError(t, a.verdict())
			})
		})
	}
}

// Nomad counts the devices in use by the name of their group: those of a group
// that is renamed, and one that moves to another group, are free again while
// tasks use them.
func TestTrapARenamedGroupIsHandedOutTwice(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		happens []step
		restart func(*deviceconfig.Block) // of the plugin, with another configuration
		sharing bool                      // of all GPUs of the model
	}{
		"a driver calls the model otherwise":       {happens: []step{{what: "upgrade", n: 1}}},
		"it still does after a restart":            {happens: []step{{what: "upgrade", n: 1}}, restart: func(*deviceconfig.Block) {}},
		"and its GPUs are shared by its name":      {happens: []step{{what: "upgrade", n: 1}}, restart: func(*deviceconfig.Block) {}, sharing: true},
		"a bridge fails":                           {happens: []step{{what: "unplug"}}, restart: func(*deviceconfig.Block) {}},
		"the driver numbers the GPUs otherwise":    {happens: []step{{what: "renumber", order: []int{3, 1, 0, 2}}}, restart: func(*deviceconfig.Block) {}},
		"a GPU is in MIG mode for a while":         {happens: []step{{what: "cut", gpu: 2}}, restart: func(*deviceconfig.Block) {}},
		"a GPU is lost when the plugin starts":     {happens: []step{{what: "lose", gpu: 1}, {what: "upgrade", n: 1}}, restart: func(*deviceconfig.Block) {}},
		"topology_groups says something else":      {restart: func(b *deviceconfig.Block) { b.TopologyGroups = "numa" }},
		"topology_groups is no longer there":       {restart: func(b *deviceconfig.Block) { b.TopologyGroups = "off" }},
		"all of a model but one GPU were replaced": {restart: func(*deviceconfig.Block) {}, happens: []step{{what: "lose"}, {what: "lose", gpu: 1}, {what: "lose", gpu: 3}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var before map[string][]string
			live := func(restart func(*deviceconfig.Block), happens []step) {
				inBubble(t, func(t *testing.T) {
					h := newHost(4)
					for _, s := range happens {
						h.happen(s)
					}
					a := attend(t, h, 0, func(b *deviceconfig.Block) {
						b.StateDir, b.TopologyGroups = dir, "nvlink"
						if c.sharing {
							b.Sharing = []deviceconfig.Sharing{{GPUs: []string{"Card"}, Replicas: 2}}
						}
						if restart != nil {
							restart(b)
						}
					})
					now := groups(a.wait(settled))
					if before == nil {
						before = now
						for _, s := range c.happens {
							h.happen(s)
						}
						now = groups(a.wait(settled))
					}
					for group, ids := range now {
						for _, id := range ids {
							must.SliceContains(t, before[group], id, must.Sprint(group))
						}
					}
					must.NoError(t, a.verdict())
				})
			}
			live(nil, nil)
			if !c.sharing {
				must.Eq(t, map[string][]string{"gpu/Card-nvlink0": {id(0), id(1)}, "gpu/Card-nvlink1": {id(2), id(3)}}, before)
			}
			if c.restart != nil {
				live(c.restart, c.happens)
			}
		})
	}
}

// scheduler/feasible/device.go: one ask is served from one group. By default no
// group is smaller than the node has GPUs of the model.
func TestTrapAnAskForMoreThanAGroupHasIsNeverPlaced(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		a := attend(t, newHost(5), 0, nil)
		must.Eq(t, map[string][]string{"gpu/Card": {id(0), id(1), id(2), id(3), id(4)}}, groups(a.wait(settled)))
	})
}

// plugins/shared/structs/attribute.go: a constraint whose value is of another
// type, or of a unit where the attribute has none, is never met.
func TestTrapAttributesOfAnotherTypeThanConstraintsAreNeverMet(t *testing.T) {
	t.Parallel()
	constraints := map[string]string{ // that the node meets, by equality or from below
		gpu.AttrMemory: "9 GiB", gpu.AttrBAR1: "131072 MiB", gpu.AttrPower: "0.5 kW", gpu.AttrCoresClock: "1.9 GHz", gpu.AttrMemoryClock: "2619 MHz",
		gpu.AttrPCIBandwidth: "60 GB/s", gpu.AttrC2CBandwidth: "1 GB/s", gpu.AttrNVLinkBandwidth: "100000 MB/s",
		gpu.AttrGPUCount: "1", gpu.AttrHealthyCount: "2", gpu.AttrCores: "10000", gpu.AttrPCIeGeneration: "5", gpu.AttrPCIeWidth: "16",
		gpu.AttrNUMANodes: "2", gpu.AttrNVLinkLinks: "4", gpu.AttrNVLinkIslandSize: "2", gpu.AttrDeviceCount: "2",
		gpu.AttrDriverVersion: "550.54.15", gpu.AttrDisplayState: "Disabled", gpu.AttrPersistenceMode: "Enabled", gpu.AttrArchitecture: "hopper",
		gpu.AttrECCMode: "Enabled", gpu.AttrBrand: "nvidia", gpu.AttrAddressing: "hmm", gpu.AttrVirtualization: "none",
		gpu.AttrNVLinkTopology: gpu.NVLinkPairs, gpu.AttrTopology: "1;4;25000;63000;d;0,0,1,1;4h0s0s0s0s4h",
		gpu.AttrMIGProfile: "1g.10gb", gpu.AttrMIGComputeSlices: "1", gpu.AttrMIGGPUSlices: "1", gpu.AttrMultiprocessors: "16", gpu.AttrMIGCopyEngines: "1",
		gpu.AttrMIGDecoders: "1", gpu.AttrMIGEncoders: "0", gpu.AttrMIGJPEGEngines: "1", gpu.AttrMIGOFAEngines: "0",
	}
	// These look like numbers, so that Nomad compares them with no text. They are
	// for the operator "version", which takes texts.
	versions := map[string]string{gpu.AttrComputeCapability: "9.0", gpu.AttrCUDAVersion: "12.4", gpu.AttrNVLinkVersion: "3.0"}
	seen := map[string]bool{}
	check := func(t *testing.T, mig string, attributes map[string]*structs.Attribute) {
		constraints[gpu.AttrMIGMode] = mig
		for name, value := range attributes {
			seen[name] = true
			if version, is := versions[name]; is {
				must.NotNil(t, value.String, must.Sprint(name))
				must.Eq(t, version, *value.String)
				continue
			}
			order, ok := value.Compare(structs.ParseAttribute(constraints[name]))
			must.True(t, ok, must.Sprintf("%s is %#v; a constraint with %q", name, value, constraints[name]))
			must.True(t, order == 0 || order > 0 && value.String == nil, must.Sprintf("%s is %#v; it must meet %q", name, value, constraints[name]))
		}
	}
	inBubble(t, func(t *testing.T) {
		a := attend(t, newHost(4), 0, nil)
		check(t, "Disabled", attributes(t, a.wait(settled)))
	})
	inBubble(t, func(t *testing.T) {
		h := newHost(1)
		h.split[0] = []int{0, 2}
		a := attend(t, h, 0, nil)
		check(t, "Enabled", attributes(t, a.wait(settled)))
	})
	for _, name := range slices.Sorted(maps.Keys(constraints)) {
		must.True(t, seen[name], must.Sprint("no device has the attribute ", name))
	}
}

// nomad/node_endpoint.go: a changed attribute is a write in Raft and an
// evaluation of every job that the node could run.
func TestTrapNumbersThatMoveMustNotBeAttributes(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		h := newHost(4)
		h.split[3] = []int{0, 1}
		a := attend(t, h, 0, nil)
		a.wait(settled)
		_, err := a.plugin.Reserve([]string{id(0), id(1)})
		must.NoError(t, err)
		a.wait(time.Hour)
		h.set(func() { must.Greater(t, 200, h.reads) })
		must.Eq(t, 1, a.count(), must.Sprint("energy, errors and load changed with each reading, and a task came"))
	})
}

// nomad/structs/node_class.go: nodes whose attributes are equal are one class, of
// which the scheduler looks at one node and takes its answer for all. Attributes
// that begin with "unique." do not count, nor do the devices themselves.
func TestTrapNodesOfOneClassHideEachOther(t *testing.T) {
	t.Parallel()
	class := func(gpus int, happens ...step) map[string]string {
		class := map[string]string{}
		inBubble(t, func(t *testing.T) {
			h := newHost(gpus)
			a := attend(t, h, 0, nil)
			a.wait(settled)
			for _, s := range happens {
				h.happen(s)
			}
			for name, value := range attributes(t, a.wait(settled)) {
				if !strings.HasPrefix(name, "unique.") {
					class[name] = value.GoString()
				}
				for _, own := range []string{id(0), bus(0), "unique"} {
					must.StrNotContains(t, value.GoString(), own, must.Sprint("would make each node a class of its own"))
				}
			}
		})
		return class
	}
	must.Eq(t, class(4), class(4))
	must.NotEq(t, class(2), class(4), must.Sprint("a job for four would not find its node"))
	must.NotEq(t, class(4), class(4, step{what: "lose"}), must.Sprint("nor where one of four is lost"))
	must.Eq(t, class(4, step{what: "lose", gpu: 1}), class(4, step{what: "lose", gpu: 2}))
}

// client/devicemanager/instance.go and command/helper_devices.go: an error stops
// the statistics for up to half an hour, no groups keeps the old ones, and a
// device without an entry ends the command line with a panic. They belong to a
// device by the name of its group.
func TestTrapADeviceWithoutStatisticsEndsNomadsCommandLine(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		h := newHost(6)
		h.named = func(i int) string { return []string{"Card", "Other"}[i/4] }
		h.split[3] = []int{0, 1, 2}
		h.split[4] = []int{}
		a := attend(t, h, 0, func(b *deviceconfig.Block) {
			b.TopologyGroups, b.IgnoredGPUIDs = "nvlink", []string{id(5), migID(3, 2)}
			b.Sharing = []deviceconfig.Sharing{{GPUs: []string{id(1)}, Replicas: 3}}
		})
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		stats, err := a.plugin.Stats(ctx, time.Second)
		must.NoError(t, err)
		latest := func() *device.StatsResponse {
			for range 30 { // one is sent for each second; those before are older than the fingerprint
				<-stats
			}
			return <-stats
		}
		must.Eq(t, []string{"gpu-share/Card-shared-3", "gpu/Card-nvlink0", "gpu/Card-nvlink1", "gpu/Other-nvlink2", "mig/Card MIG 1g.10gb", "mig/Card MIG 2g.20gb"},
			slices.Sorted(maps.Keys(groups(a.wait(settled)))))
		must.NoError(t, measured(a.wait(0), latest()))
		for _, s := range []step{{what: "lose"}, {what: "lose", gpu: 3}, {what: "away"}, {what: "hang"}} {
			h.happen(s)
			now := a.wait(settled)
			must.NoError(t, measured(now, latest()), must.Sprint(s.what))
		}
		h.happen(step{what: "return"})
	})
}

// A plugin is told when a device is reserved and never when it is free again, and
// a plugin that was started anew is told nothing of those in use.
func TestTrapReservationsAreNeverReleased(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		var first *device.ContainerReservation
		for range 2 {
			a := attend(t, newHost(4), 0, nil)
			fingerprint := a.wait(settled)
			for range 3 {
				r, err := a.plugin.Reserve([]string{id(2), id(1)})
				must.NoError(t, err)
				if first == nil {
					first = r
				}
				must.Eq(t, first, r)
			}
			must.Eq(t, text(fingerprint), text(a.wait(settled)))
		}
	})
}

// drivers/docker/driver.go: a task gets NVIDIA's runtime if its reservation has
// this variable, and only then.
func TestTrapDockerTakesItsRuntimeFromAVariable(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		h := newHost(2)
		h.split[1] = []int{0}
		a := attend(t, h, 0, func(b *deviceconfig.Block) { b.Sharing = []deviceconfig.Sharing{{GPUs: []string{id(0)}, Replicas: 2}} })
		a.wait(settled)
		for reserved, visible := range map[string]string{id(0) + "::1": id(0), migID(1, 0): migID(1, 0)} {
			r, err := a.plugin.Reserve([]string{reserved})
			must.NoError(t, err)
			must.Eq(t, visible, r.Envs["NVIDIA_VISIBLE_DEVICES"])
			must.Eq(t, visible, r.Envs["CUDA_VISIBLE_DEVICES"])
		}
	})
}

// nomad-device-nvidia adds the ids of each block that Nomad sends to those before:
// see TestDefect14 of cmd/nomad-device-gpu.
func TestDefect14IgnoredGPUsAreThoseOfTheLatestBlock(t *testing.T) {
	block := deviceconfig.Default()
	p := start(t, newNode(4), func(b *deviceconfig.Block) {
		b.IgnoredGPUIDs = []string{id(0), id(1), id(2)}
		block.StateDir = b.StateDir
	})
	block.IgnoredGPUIDs = []string{id(1)}
	must.NoError(t, p.SetConfig(&base.Config{PluginConfig: encode(t, block)}))
	eventually(t, fingerprint(t, p), map[string]string{id(0): "", id(2): "", id(3): ""})
}
