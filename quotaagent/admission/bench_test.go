package admission_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/admission"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// organisation is a chain of budgets as deep as depth, each with the limits that
// a budget usually has: GPUs at once, and GPU time and cost of two periods.
func organisation(depth int) (*budget.Policy, *budget.Budget) {
	p := &budget.Policy{Location: time.UTC, Currency: "USD", Classes: []budget.Class{{Name: "h100", Watts: 700}}}
	var parent *budget.Budget
	for i := range depth {
		b := &budget.Budget{Name: fmt.Sprintf("b%d", i), Parent: parent}
		if b.Path = b.Name; parent != nil {
			b.Path = parent.Path + "/" + b.Name
			parent.Children = []*budget.Budget{b}
		} else {
			p.Roots = []*budget.Budget{b}
		}
		limit := func(w budget.Window, d budget.Dimension, most quantity.Amount) {
			b.Limits = append(b.Limits, budget.Limit{Window: w, Dimension: d, Ceiling: quantity.LimitOf(most)})
		}
		limit(budget.Concurrent, "gpus/any", 512*quantity.GPU)
		limit(budget.Week, budget.GPUTime("any"), 1<<50)
		limit(budget.Week, budget.Cost, 1<<50)
		limit(budget.Month, budget.GPUTime("any"), 1<<50)
		limit(budget.Month, budget.Cost, 1<<50)
		parent = b
	}
	return p, parent
}

const rusageThread = 1 // RUSAGE_THREAD of Linux

// threadTime is the processor time that this thread has used: what counts where
// others want the processor too.
func threadTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(rusageThread, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDecideDepth4 is a decision about a job of one group in a tree of four
// levels with 20 limits, where every budget is in use: what one admission costs
// beside the commit.
func BenchmarkDecideDepth4(b *testing.B) {
	p, leaf := organisation(4)
	lines := []ledger.Line{{Group: "train", Count: 4, Starts: 1, RuntimeMS: 36_000_000, OnceMS: 36_000_000,
		Needs: []ledger.Need{{Classes: []string{"h100"}, GPUs: 8, PerGPUHour: 2_900_000, Watts: 700}}}}
	inUse := ledger.NewVector()
	inUse.Add(ledger.ConcurrentKey, "gpus/any", 64*quantity.GPU)
	for _, w := range []budget.Window{budget.Week, budget.Month} {
		for _, key := range []string{budget.PeriodAt(w, noon, time.UTC).Key(), ledger.AnyPeriod(w)} {
			inUse.Add(key, budget.GPUTime("any"), 1<<40)
			inUse.Add(key, budget.Cost, 1<<40)
		}
	}
	stored, err := json.Marshal(inUse)
	must.NoError(b, err)
	must.NoError(b, json.Unmarshal(stored, &inUse)) // as agents have it
	books := admission.Books{}
	for _, path := range ledger.Ancestors(leaf.Path) {
		books[path] = ledger.Balance{Held: inUse, Posted: inUse}
	}
	state := admission.State{Balances: books, Rules: admission.RulesOf(p)}
	live := make([]byte, 64<<20) // as an agent has: a heap without anything is collected every few hundred decisions
	h := ledger.Submit(ledger.Hold{JobID: "train", Budget: leaf.Path, State: ledger.Held}, lines, 0)
	b.ReportAllocs()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n, began := 0, threadTime()
	for b.Loop() {
		if d := admission.Decide(p, leaf, state, h, lines, noon); d.Outcome != admission.Admit {
			b.Fatal(d.Reason)
		}
		n++
	}
	runtime.KeepAlive(live)
	b.ReportMetric(float64((threadTime()-began).Nanoseconds())/float64(n), "cpu-ns/op")
}
