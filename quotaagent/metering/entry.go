package metering

import (
	"strconv"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Why amounts are estimated, corrected or more than was held.
const (
	// CauseEndUnseen: the end was not seen as it happened; it is the last that is
	// known.
	CauseEndUnseen = "end_unseen"
	// CauseDisconnected: Nomad had lost touch with the node, the work may have run.
	CauseDisconnected = "disconnected"
	// CauseEndedEarlier: it ended before what was posted already.
	CauseEndedEarlier = "ended_earlier"
	// CauseEnergyGuessed: the energy was not read from a counter, but bounded by the
	// power of the GPUs or shared out by time or size.
	CauseEnergyGuessed = "energy_guessed"
	// CauseEnergyCounted: a counter showed less than was guessed before.
	CauseEnergyCounted = "energy_counted"
	// CauseKillGrace: it was being stopped and had not ended yet.
	CauseKillGrace = "kill_grace"
	// CauseReschedule: Nomad started it more often than was held for.
	CauseReschedule = "reschedule"
	// CauseUnboundedRun: it ran longer than its bound, which nobody enforced.
	CauseUnboundedRun = "unbounded_run"
	// CauseLeaseLapsed: the lease of a service was not renewed in time.
	CauseLeaseLapsed = "lease_lapsed"
	// CauseNotInJob: the job does not have its task group any more.
	CauseNotInJob = "not_in_job"
)

// entryKey is unique among all entries of an allocation's GPUs: no two of a kind
// begin at the same time.
func entryKey(t ledger.Track, g ledger.TrackGPUs, fromMS int64) string {
	key := t.Alloc + "/" + g.Class + "/"
	if g.EndMS != 0 {
		key += g.IDs[0] + "/"
	}
	return key + strconv.FormatInt(fromMS, 10)
}

// The suffixes of keys tell entries apart that begin at the same time as the usage
// that they are about.
const (
	suffixBack   = "/back"
	suffixOver   = "/over"
	suffixEnergy = "/energy"
)

// overdraftCause is why an allocation uses more than was held for it, at an
// instant.
func (b *bill) overdraftCause(t ledger.Track, atMS int64) string {
	for _, line := range b.hold.Lines {
		if line.Group != t.Group {
			continue
		}
		slot := b.hold.Slots[t.Name]
		switch {
		case b.hold.Ending != nil:
			return CauseKillGrace
		case line.Lease:
			return CauseLeaseLapsed
		case slot.UsedMS > 0 && atMS-t.StartMS < line.RuntimeMS/int64(max(1, line.Starts)):
			return CauseReschedule
		}
		return CauseUnboundedRun
	}
	return CauseNotInJob
}
