package ledger_test

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// TestAReceiptSaysWhatWasInVain: what was tried before and what failed in the end, by
// the GPUs of each place; of services and system jobs nothing.
func TestAReceiptSaysWhatWasInVain(t *testing.T) {
	t.Parallel()
	const hour = int64(3_600_000)
	line := func(group string, gpus int64) ledger.Line {
		return ledger.Line{Group: group, Count: 2, Needs: []ledger.Need{{Classes: []string{"h100"}, GPUs: gpus}, {Classes: []string{"l40s"}, GPUs: 1}}}
	}
	everywhere, lease := line("sys", 1), line("web", 1)
	everywhere.EveryNode, lease.Lease = true, true
	h := ledger.Hold{ID: "h-1", JobID: "train", State: ledger.Active, Lines: []ledger.Line{line("g", 2), line("g2", 4), everywhere, lease}, Finished: []string{"a", "b", "c", "d"},
		Slots: map[string]ledger.Slot{
			"train.g[0]":   {UsedMS: 3 * hour, LastMS: hour, Done: true},
			"train.g[1]":   {UsedMS: hour, LastMS: hour},
			"train.g2[0]":  {UsedMS: 2 * hour, LastMS: hour},
			"train.sys[0]": {UsedMS: 9 * hour, LastMS: hour},
			"train.web[0]": {UsedMS: 9 * hour, LastMS: hour},
		}}
	r := ledger.ReceiptOf(h, 10*hour).Receipt
	must.Eq(t, 4, r.Starts)
	must.Eq(t, 2, r.FailedSlots)
	must.Eq(t, quantity.Amount(2*3+1*5)*quantity.GPUHour, r.Retried)
	must.Eq(t, quantity.Amount(1*3+1*5)*quantity.GPUHour, r.Failed)
}
