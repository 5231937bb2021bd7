package main

import (
	"context"
	"slices"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/sqlite"
)

// grow writes the policy of the script, ten days of usage, each with a GPU more, a job
// that has its budget and does not run, and one that waits for budget.
func grow(ts stage, store *sqlite.Store, past *history.Store) {
	posted := map[string]ledger.Vector{"acme": ledger.NewVector(), "acme/research": ledger.NewVector(), "acme/serving": ledger.NewVector()}
	var entries []ledger.Entry
	for day := range 10 {
		begin := time.Date(2026, 2, 28+day, 0, 0, 0, 0, time.UTC)
		for _, of := range []struct {
			path, class string
			gpus        int64
			price       quantity.Amount
		}{{"acme/research", "v100", int64(3 + day), 900_000}, {"acme/serving", "l40s", 2, 1_100_000}} {
			ms := quantity.Amount(24 * time.Hour.Milliseconds()).Mul(of.gpus)
			e := ledger.Entry{Key: of.class + begin.Format(time.DateOnly), Kind: ledger.UsageEntry, Budget: of.path, Namespace: "ml", JobID: of.class, HoldID: "h-" + of.class + begin.Format("-02"), Alloc: of.class + begin.Format("-02"),
				Class: of.class, FromMS: begin.UnixMilli(), ToMS: begin.AddDate(0, 0, 1).UnixMilli(), GPUTime: ms, Cost: quantity.Cost(ms, of.price), RateCard: "2026"}
			entries = append(entries, e)
			for _, path := range ledger.Ancestors(of.path) {
				posted[path].AddAll(e.PostedVector(time.UTC, []budget.Window{budget.Day, budget.Month, budget.Total}), 1)
			}
		}
	}
	ts.Check(past.Record(context.Background(), entries))
	line := func(class string, gpus int64) []ledger.Line {
		return []ledger.Line{{Group: "g", Count: 1, RuntimeMS: 7_200_000, Needs: []ledger.Need{{Classes: []string{class}, GPUs: gpus, PerGPUHour: 900_000}}}}
	}
	held, err := ledger.EncodeHold(ledger.Hold{ID: "h-1", Namespace: "default", JobID: "large", Budget: "acme/research", State: ledger.Active, Lines: line("v100", 8)})
	ts.Check(err)
	queued, err := ledger.Encode(ledger.Queued{Namespace: "default", JobID: "later", Budget: "acme/serving", JobModifyIndex: 12, SinceMS: now.UnixMilli(), Lines: line("l40s", 2)})
	ts.Check(err)
	writes := []ledger.Write{{Key: "hold/h-1", Value: held}, {Key: "queue/later", Value: queued}, {Key: "policy/acme.hcl", Value: []byte(ts.ReadFile("acme.hcl"))}}
	for path, vector := range posted {
		value, err := ledger.Balance{SinceMS: now.UnixMilli(), Posted: vector, Held: ledger.Vector{}}.Encode()
		ts.Check(err)
		writes = append(writes, ledger.Write{Key: "balance/" + path, Value: value})
	}
	ts.Check(store.Commit(context.Background(), ledger.Fence{}, marked(writes...)))
}

// awaitSupply waits until the agent has seen which GPUs there are, by the classes of its
// policy.
func awaitSupply(ts stage, a *agent.Agent) {
	for {
		status, err := a.Engine.Status(context.Background(), a.Meter)
		ts.Check(err)
		if slices.ContainsFunc(status.Capacity, func(c agent.CapacityStatus) bool { return c.Class == "v100" }) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
