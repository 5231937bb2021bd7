package agent

import (
	"context"
	"errors"
	"testing"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/shoenig/test/must"
)

func TestADutyThatFailsDoesNotKeepTheOthersFromTheirTurn(t *testing.T) {
	t.Parallel()
	var d duties
	var ran []string
	var failures []string
	d.onTick("first", func(context.Context, ledger.Fence) error { ran = append(ran, "first"); return errors.New("no") })
	d.onTick("second", func(context.Context, ledger.Fence) error { ran = append(ran, "second"); return nil })
	d.onSnapshot("third", func(_ context.Context, _ ledger.Fence, a []nomadevents.Allocation) error {
		ran = append(ran, a[0].ID)
		return errors.New("neither")
	})
	failed := func(err error) { failures = append(failures, err.Error()) }
	d.tick(t.Context(), ledger.Fence{}, failed)
	d.snapshot(t.Context(), ledger.Fence{}, []nomadevents.Allocation{{ID: "a"}}, failed)
	must.Eq(t, []string{"first", "second", "a"}, ran)
	must.Eq(t, []string{"first: no", "third: neither"}, failures)

	ended, end := context.WithCancel(t.Context())
	end()
	d.tick(ended, ledger.Fence{}, failed)
	d.snapshot(ended, ledger.Fence{}, nil, failed)
	must.Len(t, 3, ran)
}
