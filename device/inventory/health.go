package inventory

import (
	"fmt"
	"slices"
)

// cleanReads is how many readings in a row must say that no recovery is needed
// before a GPU that reported a fatal XID is trusted again.
const cleanReads = 10

// fatalXIDs need a GPU reset, a node restart or a repair, by NVIDIA's XID
// catalogue (October 2025). XIDs that only the application suffers from are
// not here. 109 is left to the recovery action: the catalogue says reset, but
// it follows ordinary application hangs too.
var fatalXIDs = []int64{46, 48, 54, 62, 64, 79, 95, 110, 119, 120, 136, 140, 143, 155, 156, 158}

// recoveryActions are the words for NVML's field 230
// (nvmlDeviceGpuRecoveryAction_t).
var recoveryActions = []string{"", "reset the GPU", "reboot the node", "drain peer-to-peer traffic",
	"drain and reset the GPU", "recover the IMEX domain", "reset the bus", "reboot the system"}

// Health is what is known about the state of one device. The zero value is
// healthy.
type Health struct {
	// Failure is why the device does not answer; empty when it does.
	Failure string
	// Lost says that this device alone was away, and not NVML as a whole:
	// it comes back only by a reset.
	Lost bool
	// LatchedXID is the fatal XID that is still open; 0 for none.
	LatchedXID int64
	// Clean counts readings without trouble since the fatal XID.
	Clean int
	// LastXID and XIDs count every XID seen, also harmless ones.
	LastXID, XIDs int64
}

// Reason says why the device must not be used; empty when it may.
func (d Device) Reason() string {
	switch {
	case d.Health.Failure != "":
		return d.Health.Failure
	case d.GPU.RemapFailure.Known && d.GPU.RemapFailure.Value:
		return "row remapping failed: replace the GPU"
	case d.GPU.RecoveryAction.Known && d.GPU.RecoveryAction.Value != 0:
		return "the driver asks to " + recoveryWords(d.GPU.RecoveryAction.Value) + d.Health.after()
	case d.Health.LatchedXID != 0:
		return fmt.Sprintf("XID %d: the GPU must be reset", d.Health.LatchedXID)
	}
	return ""
}

func (h Health) after() string {
	if h.LatchedXID == 0 {
		return ""
	}
	return fmt.Sprintf(" after XID %d", h.LatchedXID)
}

func recoveryWords(action int64) string {
	if action < 0 || action >= int64(len(recoveryActions)) {
		return fmt.Sprintf("perform recovery action %d", action)
	}
	return recoveryActions[action]
}

// lose records that this device does not answer while NVML does.
func (h Health) lose(reason string) Health {
	h.Lost = true
	return h.fail(reason)
}

// fail records that the device does not answer.
func (h Health) fail(reason string) Health {
	h.Failure = reason
	h.Clean = 0
	return h
}

// answered records a good reading. A device that was lost and is back was
// reset, so an open XID is closed; otherwise it closes after cleanReads
// readings in which the driver says that no recovery is needed.
func (h Health) answered(recovery Maybe[int64]) Health {
	if h.Lost {
		h.LatchedXID = 0
	}
	h.Failure, h.Lost = "", false
	if h.LatchedXID == 0 {
		h.Clean = 0
		return h
	}
	if !recovery.Known || recovery.Value != 0 {
		h.Clean = 0
		return h
	}
	if h.Clean++; h.Clean >= cleanReads {
		h.LatchedXID, h.Clean = 0, 0
	}
	return h
}

// xid records an XID.
func (h Health) xid(number int64) Health {
	h.LastXID = number
	h.XIDs++
	if slices.Contains(fatalXIDs, number) {
		h.LatchedXID = number
		h.Clean = 0
	}
	return h
}
