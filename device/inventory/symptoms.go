package inventory

// NVML's clocks event reasons that mean that hardware slows the GPU down
// (nvmlClocksEventReason*): the others are choices of people or of the load.
const (
	reasonHWSlowdown   = 0x08
	reasonHWThermal    = 0x40
	reasonHWPowerBrake = 0x80
)

// symptoms lists what a reading of the device says is wrong, by code.
// peers are the other devices of the node.
func symptoms(p Policy, d Device, peers []Device) []Condition {
	g := d.GPU
	var shown []Condition
	add := func(present bool, code Code, text string) {
		if severity := p.severity(code); present && severity != Harmless {
			shown = append(shown, Condition{code, severity, text})
		}
	}
	add(g.RecoveryAction.Known && g.RecoveryAction.Value != 0, CodeRecoveryAction,
		"the driver asks to "+recoveryWords(g.RecoveryAction.Value))
	add(is(g.RemapFailure), CodeRemapFailure, "row remapping failed: replace the GPU")
	add(is(g.RemapPending), CodeRemapPending, "a failing memory row waits to be remapped: reset the GPU when it is idle")
	add(is(g.RetiredPending), CodeRetirePending, "failing memory pages wait to be retired: reset the GPU when it is idle")
	// With row remapping the driver says itself what an error needs.
	add(g.ECCUncorrected.Known && g.ECCUncorrected.Value > 0 && !g.RemapFailure.Known && !g.RecoveryAction.Known, CodeECC,
		"uncorrected memory errors since the driver was loaded: reset the GPU")
	add(activeLinks(g).Value < d.linksExpected(peers), CodeNVLink, "fewer NVLinks are active than before or than on the other GPUs")
	add(oneSided(d, peers), CodeNVLinkOneSided, "an NVLink is active at one end only: traffic uses the links that both ends report")
	add(g.MIGPending.Known && g.MIG.Known && g.MIGPending.Value != g.MIG.Value, CodeMIGPending, "MIG mode changes at the next reset of the GPU")
	shown = append(shown, fabricSymptoms(p, g)...)
	throttle := g.ThrottleReasons.Value
	add(throttle&reasonHWThermal != 0, CodeThermal, "the hardware slows the GPU down because it is too hot")
	add(throttle&reasonHWPowerBrake != 0, CodePowerBrake, "the power supply makes the GPU slow down")
	add(throttle&reasonHWSlowdown != 0 && throttle&(reasonHWThermal|reasonHWPowerBrake) == 0, CodeSlowdown,
		"the hardware slows the GPU down: heat, or the power supply")
	return shown
}

func is(v Maybe[bool]) bool { return v.Known && v.Value }

// linksExpected is how many NVLinks the GPU should have: as many as it ever had
// while the plugin ran, and on NVSwitch as many as its equals. A bridge that is
// not there from the start is not missed.
func (d Device) linksExpected(peers []Device) int64 {
	expected := d.LinksSeen
	if switchLinks(d.GPU) == 0 && !d.Switched {
		return expected
	}
	for _, peer := range peers {
		if peer.GPU.Name == d.GPU.Name && switchLinks(peer.GPU) > 0 {
			expected = max(expected, activeLinks(peer.GPU).Value)
		}
	}
	return expected
}

// oneSided reports whether the device and a peer disagree about their links.
// Only peers that answer can be asked.
func oneSided(d Device, peers []Device) bool {
	for _, peer := range peers {
		if peer.GPU.UUID == d.GPU.UUID || peer.Health.Failure != "" {
			continue
		}
		if directLinks(d.GPU, peer.GPU) != directLinks(peer.GPU, d.GPU) {
			return true
		}
	}
	return false
}

// OneSided is a pair of GPUs whose ends of their NVLinks disagree. A and B are
// positions in Inventory.Devices, A < B, with the links that each end reports;
// a topology counts the lesser.
type OneSided struct {
	A, B         int
	FromA, FromB int
}

// OneSided lists the pairs whose ends disagree, in order.
func (inv Inventory) OneSided() []OneSided {
	var pairs []OneSided
	for i, a := range inv.Devices {
		for j := i + 1; j < len(inv.Devices); j++ {
			b := inv.Devices[j]
			if there, back := directLinks(a.GPU, b.GPU), directLinks(b.GPU, a.GPU); there != back {
				pairs = append(pairs, OneSided{A: i, B: j, FromA: there, FromB: back})
			}
		}
	}
	return pairs
}

// NVML's fabric health mask (nvmlGpuFabricInfo_v3_t): fields of two bits, 1
// true and 2 false, 0 where the driver has no such report; the configuration's
// field has four bits and is good as 0 or 1. Never test a field against zero.
const (
	fabricTrue  = 1
	fabricFalse = 2

	shiftDegradedBandwidth = 0
	shiftRouteRecovery     = 2
	shiftRouteUnhealthy    = 4
	shiftAccessTimeout     = 6
	shiftConfiguration     = 8
	shiftPartition         = 12

	summaryUnhealthy = 2
	summaryLimited   = 3
)

// fabricSymptoms reads the fabric manager's report. A GPU whose fabric is not
// set up cannot start CUDA at all; trouble in the routes hurts those that talk
// to other GPUs.
func fabricSymptoms(p Policy, g GPU) []Condition {
	f := g.Fabric
	text, code := "", CodeFabric
	switch f.State {
	case FabricNotSupported:
		return nil
	case FabricNotStarted:
		text = "the fabric manager has not begun to set up the GPU: is nvidia-fabricmanager running?"
	case FabricInProgress:
		text = "the fabric manager is setting up the GPU"
	case FabricCompleted:
		if f.Status != 0 {
			text = "the fabric manager could not set up the GPU: see its log"
		} else if text = fabricTrouble(f); text != "" {
			code = CodeFabricHealth
		}
	}
	if severity := p.severity(code); text != "" && severity != Harmless {
		return []Condition{{code, severity, text}}
	}
	return nil
}

func fabricTrouble(f Fabric) string {
	field := func(shift, bits int) int64 { return f.HealthMask.Value >> shift & (1<<bits - 1) }
	switch {
	case field(shiftConfiguration, 4) > 1:
		return "the fabric's configuration is wrong for this GPU"
	case field(shiftPartition, 2) == fabricFalse:
		return "the GPU is in no partition of the fabric"
	case field(shiftRouteUnhealthy, 2) == fabricTrue:
		return "routes to other GPUs are broken"
	case field(shiftAccessTimeout, 2) == fabricTrue:
		return "access to other GPUs timed out and must be recovered"
	case field(shiftRouteRecovery, 2) == fabricTrue:
		return "routes to other GPUs are being recovered"
	case field(shiftDegradedBandwidth, 2) == fabricTrue:
		return "the bandwidth to other GPUs is degraded"
	case f.Summary == summaryUnhealthy:
		return "the fabric manager calls the GPU unhealthy"
	case f.Summary == summaryLimited:
		return "the fabric manager calls the GPU limited"
	}
	return ""
}
