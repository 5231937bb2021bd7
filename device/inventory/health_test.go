package inventory_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
)

// descs are the health descriptions of the devices, one each.
func descs(inv inventory.Inventory) []string {
	list := []string{}
	for _, u := range inv.Units(whole) {
		list = append(list, u.HealthDesc())
	}
	return list
}

// watched observes the readings in turn.
func watched(inv inventory.Inventory, n int, gpus ...inventory.GPU) inventory.Inventory {
	for range n {
		inv = inventory.Observe(inv, inventory.Readings{DriverVersion: "550.54.15", GPUs: gpus})
	}
	return inv
}

func TestWhatAReadingShows(t *testing.T) {
	t.Parallel()
	cluster := "0a1b2c3d-0000-0000-0000-000000000001"
	completed := func(mask, summary int64) inventory.Fabric {
		return inventory.Fabric{State: inventory.FabricCompleted, ClusterUUID: cluster, HealthMask: inventory.Known(mask), Summary: summary}
	}
	// Each field of the fabric's mask is good as 2 (false) or, for the partition, 1.
	const wellMask = 0x2 | 0x2<<2 | 0x2<<4 | 0x2<<6 | 0x1<<8 | 0x1<<12
	for name, tc := range map[string]struct {
		change func(*inventory.GPU)
		reads  int
		want   string
	}{
		"nothing": {func(*inventory.GPU) {}, 1, ""},
		"the driver asks for a reset": {func(g *inventory.GPU) { g.RecoveryAction = inventory.Known[int64](1) }, 1,
			"recovery_action: the driver asks to reset the GPU"},
		"the driver asks for something new": {func(g *inventory.GPU) { g.RecoveryAction = inventory.Known[int64](12) }, 1,
			"recovery_action: the driver asks to perform recovery action 12"},
		"a row could not be remapped": {func(g *inventory.GPU) { g.RemapFailure = inventory.Known(true) }, 1,
			"row_remap_failure: row remapping failed: replace the GPU"},
		"a row waits to be remapped": {func(g *inventory.GPU) { g.RemapPending = inventory.Known(true) }, 1,
			"degraded: row_remap_pending: a failing memory row waits to be remapped: reset the GPU when it is idle"},
		"pages wait to be retired": {func(g *inventory.GPU) { g.RetiredPending = inventory.Known(true) }, 1,
			"degraded: page_retire_pending: failing memory pages wait to be retired: reset the GPU when it is idle"},
		"double-bit errors where rows are remapped are the driver's to judge": {
			func(g *inventory.GPU) { g.ECCUncorrected = inventory.Known[int64](3) }, 1, ""},
		"double-bit errors on an old GPU": {func(g *inventory.GPU) {
			g.ECCUncorrected = inventory.Known[int64](3)
			g.RemapFailure, g.RecoveryAction = inventory.Maybe[bool]{}, inventory.Maybe[int64]{}
		}, 1, "ecc_uncorrected: uncorrected memory errors since the driver was loaded: reset the GPU"},
		"MIG mode is about to change": {func(g *inventory.GPU) { g.MIGPending = inventory.Known(true) }, 1,
			"degraded: mig_mode_pending: MIG mode changes at the next reset of the GPU"},
		"four readings of heat are weather":     {func(g *inventory.GPU) { g.ThrottleReasons = inventory.Known[int64](0x48) }, 4, ""},
		"five are a condition":                  {func(g *inventory.GPU) { g.ThrottleReasons = inventory.Known[int64](0x48) }, 5, "degraded: thermal_slowdown: the hardware slows the GPU down because it is too hot"},
		"a power brake":                         {func(g *inventory.GPU) { g.ThrottleReasons = inventory.Known[int64](0x88) }, 5, "degraded: power_brake: the power supply makes the GPU slow down"},
		"a slowdown without a cause":            {func(g *inventory.GPU) { g.ThrottleReasons = inventory.Known[int64](0x8) }, 5, "degraded: hardware_slowdown: the hardware slows the GPU down: heat, or the power supply"},
		"idle and power cap are no fault":       {func(g *inventory.GPU) { g.ThrottleReasons = inventory.Known[int64](0x5) }, 9, ""},
		"a fabric that is not begun":            {func(g *inventory.GPU) { g.Fabric.State = inventory.FabricNotStarted }, 1, "fabric_not_ready: the fabric manager has not begun to set up the GPU: is nvidia-fabricmanager running?"},
		"a fabric in progress":                  {func(g *inventory.GPU) { g.Fabric.State = inventory.FabricInProgress }, 1, "fabric_not_ready: the fabric manager is setting up the GPU"},
		"a fabric that failed":                  {func(g *inventory.GPU) { g.Fabric = completed(0, 0); g.Fabric.Status = 999 }, 1, "fabric_not_ready: the fabric manager could not set up the GPU: see its log"},
		"a fabric of a driver without a report": {func(g *inventory.GPU) { g.Fabric = completed(0, 0) }, 3, ""},
		"a healthy fabric":                      {func(g *inventory.GPU) { g.Fabric = completed(wellMask, 1) }, 3, ""},
		"broken routes":                         {func(g *inventory.GPU) { g.Fabric = completed(wellMask&^0x30|0x10, 2) }, 2, "degraded: fabric_degraded: routes to other GPUs are broken"},
		"no partition":                          {func(g *inventory.GPU) { g.Fabric = completed(wellMask&^0x3000|0x2000, 1) }, 2, "degraded: fabric_degraded: the GPU is in no partition of the fabric"},
		"a wrong configuration":                 {func(g *inventory.GPU) { g.Fabric = completed(wellMask&^0xf00|0x500, 1) }, 2, "degraded: fabric_degraded: the fabric's configuration is wrong for this GPU"},
		"limited capacity without a mask":       {func(g *inventory.GPU) { g.Fabric = completed(wellMask, 3) }, 2, "degraded: fabric_degraded: the fabric manager calls the GPU limited"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := card(0)
			tc.change(&g)
			must.Eq(t, []string{tc.want}, descs(watched(inventory.Inventory{}, tc.reads, g)))
		})
	}
}

func TestConditionsEndAfterTenCleanReadings(t *testing.T) {
	t.Parallel()
	hot := card(0)
	hot.ThrottleReasons = inventory.Known[int64](0x40)
	inv := watched(inventory.Inventory{}, 5, hot)
	must.True(t, inv.Settled(), must.Sprint("what stays as it is needs no closer look"))
	inv = watched(inv, 9, card(0))
	must.False(t, inv.Settled())
	must.NotEq(t, []string{""}, descs(inv))
	inv = watched(watched(inv, 1, hot), 9, card(0))
	must.NotEq(t, []string{""}, descs(inv), must.Sprint("one bad reading starts the count again"))
	inv = watched(inv, 1, card(0))
	must.Eq(t, []string{""}, descs(inv))
	must.True(t, inv.Settled())
}

func TestNVLinksThatWereThereAreMissed(t *testing.T) {
	t.Parallel()
	list := cards(2)
	connect(&list[0], &list[1], 4)
	inv := watched(inventory.Inventory{}, 1, list...)
	must.Eq(t, []string{"", ""}, descs(inv))
	down := cards(2)
	connect(&down[0], &down[1], 3)
	const missing = "degraded: nvlink_down: fewer NVLinks are active than before or than on the other GPUs"
	inv = watched(inv, 1, down...)
	must.Eq(t, []string{missing, missing}, descs(inv))
	must.Eq(t, []string{"", ""}, reasons(inv), must.Sprint("degraded GPUs are offered"))
	must.Eq(t, []string{"", ""}, descs(watched(inv, 10, list...)))

	never := cards(2)
	never[0].Links = []inventory.Link{{Active: false}, {Active: false}}
	must.Eq(t, []string{"", ""}, descs(watched(inventory.Inventory{}, 3, never...)), must.Sprint("a bridge that is not there is not missed"))
}

func TestGPUBehindNVSwitchShouldHaveTheLinksOfItsEquals(t *testing.T) {
	t.Parallel()
	list := cards(3)
	for i := range list {
		for range 18 {
			list[i].Links = append(list[i].Links, inventory.Link{Active: true, Remote: inventory.RemoteSwitch})
		}
	}
	list[1].Links[4].Active = false
	got := descs(watched(inventory.Inventory{}, 1, list...))
	must.Eq(t, "", got[0])
	must.StrContains(t, got[1], "nvlink_down")
	must.Eq(t, "", got[2])
}

func TestLinkThatOneEndDeniesIsReportedAtBoth(t *testing.T) {
	t.Parallel()
	list := cards(3)
	connect(&list[0], &list[1], 2)
	list[1].Links = list[1].Links[:1]
	got := descs(watched(inventory.Inventory{}, 2, list...))
	must.StrContains(t, got[0], "nvlink_one_sided")
	must.StrContains(t, got[1], "nvlink_one_sided")
	must.Eq(t, "", got[2])
	must.Eq(t, []inventory.OneSided{{A: 0, B: 1, FromA: 2, FromB: 1}}, observe(list...).OneSided())
}

func TestXIDOfAMIGInstanceConcernsItAlone(t *testing.T) {
	t.Parallel()
	g := split(card(0), 3)
	inv := inventory.Note(observe(g), []inventory.Event{{UUID: uuid(0), XID: 95,
		GPUInstance: inventory.Known[int64](1), ComputeInstance: inventory.Known[int64](0)}})
	must.Eq(t, map[string]string{"MIG-0-0": "", "MIG-0-1": "xid_95: uncontained memory error", "MIG-0-2": ""}, byID(inv, whole))
	must.Eq(t, map[string]string{"MIG-0-0": "", "MIG-0-1": "", "MIG-0-2": ""}, byID(watched(inv, 10, g), whole))

	must.Eq(t, map[int64]int64{95: 1}, inv.Devices[0].XIDs(), must.Sprint("the GPU's count has its instances'"))
	must.Eq(t, int64(95), watched(inv, 1, g).Devices[0].LastXID)
	must.MapEmpty(t, observe(g).Devices[0].XIDs())

	all := inventory.Note(observe(g), []inventory.Event{{UUID: uuid(0), XID: 79}})
	const off = "xid_79: the GPU has fallen off the bus"
	must.Eq(t, map[string]string{"MIG-0-0": off, "MIG-0-1": off, "MIG-0-2": off}, byID(all, whole), must.Sprint("every sibling"))
	stranger := inventory.Note(observe(g), []inventory.Event{{UUID: uuid(0), XID: 79, GPUInstance: inventory.Known[int64](12)}})
	must.Eq(t, off, byID(stranger, whole)["MIG-0-2"], must.Sprint("an instance that is not known: better all than none"))
}

func TestPolicyChangesWhatThingsMean(t *testing.T) {
	t.Parallel()
	p := inventory.Policy{CleanReads: 2, XIDs: map[int64]inventory.Severity{79: inventory.Harmless, 13: inventory.Unhealthy, 31: inventory.Degraded},
		Conditions: map[inventory.Code]inventory.Severity{inventory.CodeRemapPending: inventory.Unhealthy, inventory.CodeMIGPending: inventory.Harmless}}
	start := inventory.Observe(inventory.Inventory{Policy: p}, inventory.Readings{GPUs: []inventory.GPU{card(0)}})
	for xid, want := range map[int64]string{79: "", 13: "xid_13: reported by the driver", 31: "degraded: xid_31: reported by the driver"} {
		inv := inventory.Note(start, []inventory.Event{{UUID: uuid(0), XID: xid}})
		must.Eq(t, []string{want}, descs(inv))
		must.Eq(t, []string{""}, descs(watched(inv, 2, card(0))))
	}
	sick := card(0)
	sick.RemapPending, sick.MIGPending = inventory.Known(true), inventory.Known(true)
	must.Eq(t, []string{"row_remap_pending: a failing memory row waits to be remapped: reset the GPU when it is idle"}, descs(watched(start, 1, sick)))

	strict := inventory.Inventory{Policy: inventory.Policy{Withhold: true}}
	sick.MIGPending = inventory.Known(false)
	got := watched(strict, 1, sick).Units(whole)[0]
	must.StrHasPrefix(t, "row_remap_pending", got.Reason())
	must.Eq(t, got.Reason(), got.HealthDesc())
}

func TestResetEndsAnXIDAtOnce(t *testing.T) {
	t.Parallel()
	old := card(0)
	old.RecoveryAction, old.EnergyMilliJ = inventory.Maybe[int64]{}, inventory.Known[int64](9000)
	inv := inventory.Note(observe(old), []inventory.Event{{UUID: uuid(0), XID: 48}})
	must.NotEq(t, []string{""}, descs(watched(inv, 20, old)), must.Sprint("no word from the driver, no reset: not trusted"))
	cleared := old
	old.ECCUncorrected, cleared.ECCUncorrected = inventory.Known[int64](4), inventory.Known[int64](0)
	must.StrContains(t, descs(watched(watched(inv, 1, old), 1, cleared))[0], "xid_48", must.Sprint("nvidia-smi -p clears counts and resets no GPU"))
	old.ECCUncorrected = inventory.Maybe[int64]{}
	reset := old
	reset.EnergyMilliJ = inventory.Known[int64](10)
	must.Eq(t, []string{""}, descs(watched(inv, 1, reset)), must.Sprint("the energy counter began anew"))
	other := inventory.Observe(inv, inventory.Readings{DriverVersion: "560", GPUs: []inventory.GPU{old}})
	must.Eq(t, []string{""}, descs(other), must.Sprint("another driver was loaded"))
}

func TestXIDsAreCountedByNumber(t *testing.T) {
	t.Parallel()
	inv := observe(card(0))
	for _, xid := range []int64{13, 13, 43, 0} {
		inv = inventory.Note(inv, []inventory.Event{{UUID: uuid(0), XID: xid}})
	}
	h := inv.Devices[0].Health
	must.Eq(t, map[int64]int64{13: 2, 43: 1}, h.ByXID)
	must.Eq(t, 3, h.XIDs)
	must.Eq(t, 43, h.LastXID)
}

func TestSeverityWords(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"ignore", "degraded", "unhealthy"} {
		s, err := inventory.ParseSeverity(word)
		must.NoError(t, err)
		must.Eq(t, word, s.String())
	}
	_, err := inventory.ParseSeverity("dead")
	must.EqError(t, err, `"dead" is not a severity; it is "ignore", "degraded" or "unhealthy"`)
	must.SliceContains(t, inventory.Codes(), inventory.CodeNVLink)
}

func byID(inv inventory.Inventory, l inventory.Layout) map[string]string {
	m := map[string]string{}
	for _, u := range inv.Units(l) {
		m[u.ID] = u.Reason()
	}
	return m
}
