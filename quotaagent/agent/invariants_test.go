package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/internal/consultest"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/sqlite"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// The invariants of the ledger, each by a property that is named after it: I1 and I9
// are in the package admission, I4, I6 and I8 in metering, I5 in history, I7 in
// audit, I3 and I4 again beside this. TestModelOfTheAgents... checks I1 to I6, I8
// and I10 together, with several agents on both stores.

// I2: a parent has, posted and held, in every period and dimension, what its
// children have. That a budget's own work counts too is in the property of I1.
func TestInvariantI2_AParentHasWhatItsChildrenHave(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		r := newRigOn(t, newMemStore(), testPolicy(12, "60"))
		r.t = rt
		var running []string
		for n := range rapid.IntRange(3, 12).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"run", "run", "resubmit", "end", "tick"}).Draw(rt, "step") {
			case "run":
				namespace, gpus := rapid.SampledFrom([]string{"default", "side"}).Draw(rt, "namespace"), rapid.IntRange(1, 4).Draw(rt, "gpus")
				hours := rapid.IntRange(1, 20).Draw(rt, "hours")
				id := fmt.Sprintf("job-%d", n)
				if !r.run(batch(r.nomad, namespace, id, 1, gpus, time.Duration(hours)*time.Hour)).Denied {
					running = append(running, r.nomad.start(namespace, id, 0, gpus))
				}
			case "resubmit": // nothing of it starts
				r.run(batch(r.nomad, "side", "again", 1, rapid.IntRange(1, 4).Draw(rt, "gpus"), time.Hour))
			case "end":
				if len(running) > 0 {
					r.nomad.finish(running[0])
					running = running[1:]
				}
				must.NoError(rt, r.settle())
			case "tick":
				r.clock.advance(time.Duration(rapid.IntRange(1, 5*3600).Draw(rt, "seconds")) * time.Second)
				must.NoError(rt, r.settle())
			}
			posted, held := ledger.NewVector(), ledger.NewVector()
			for _, child := range []string{"acme/research", "acme/side"} {
				posted.AddAll(r.balance(child).Posted, 1)
				held.AddAll(r.balance(child).Held, 1)
			}
			parent := r.balance("acme")
			must.Eq(rt, ledger.NewVector(), parent.Posted.Minus(posted), must.Sprint("posted"))
			must.Eq(rt, ledger.NewVector(), parent.Held.Minus(held), must.Sprint("held"))
		}
	})
}

// unsure is a store whose commits fail by the number: 1 never arrives, 2 is carried
// out and the answer is lost.
type unsure struct {
	modelBacking
	next  func() int
	lost  int
	inRow int
	// sure: nothing fails.
	sure bool
}

// Commit implements Store.
func (u *unsure) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	_, err := u.CommitVersion(ctx, fence, writes)
	return err
}

// CommitVersion is Commit that tells the version. It never fails more often in a row
// than the agent sends again.
func (u *unsure) CommitVersion(ctx context.Context, fence ledger.Fence, writes []ledger.Write) (uint64, error) {
	how := 0
	if !u.sure && u.inRow < resends {
		how = u.next()
	}
	if how == 0 {
		u.inRow = 0
		return u.modelBacking.CommitVersion(ctx, fence, writes)
	}
	u.inRow++
	if how == 2 {
		u.lost++
		if version, err := u.modelBacking.CommitVersion(ctx, fence, writes); err != nil {
			return version, err
		}
	}
	return 0, fmt.Errorf("%w: i/o timeout", ledger.ErrUnavailable)
}

// I10: whether a commit did not arrive or only its answer was lost, sent again it
// counts once: every admission, refusal, posting and end.
func TestInvariantI10_ARetriedCommitCountsOnce(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		dir, n := fastDir(t), 0
		retried(t, func() modelBacking {
			n++
			store, err := sqlite.Open(filepath.Join(dir, fmt.Sprintf("%d.db", n)))
			must.NoError(t, err)
			return store
		})
	})
	t.Run("Consul", func(t *testing.T) {
		t.Parallel()
		server, n := consultest.Start(t), 0
		retried(t, func() modelBacking {
			n++
			store, err := consulkv.New(consulkv.Config{Address: server.Addr, Prefix: fmt.Sprintf("retried-%d", n)}, hclog.NewNullLogger())
			must.NoError(t, err)
			return store
		})
	})
}

func retried(t *testing.T, open func() modelBacking) {
	lost := 0
	rapid.Check(t, func(rt *rapid.T) {
		backing := open()
		defer func() { must.NoError(rt, backing.Close()) }()
		r := newRigOn(t, backing, testPolicy(1000, "1000"))
		r.t = rt
		store := &unsure{modelBacking: backing, next: func() int { return rapid.IntRange(0, 2).Draw(rt, "answer") }}
		r.start(store)
		r.Engine.books.wait = func(context.Context, time.Duration) {}
		held := int64(0)
		for n := range rapid.IntRange(1, 2).Draw(rt, "jobs") {
			id, gpus := fmt.Sprintf("job-%d", n), rapid.IntRange(1, 3).Draw(rt, "gpus")
			s := r.job(id, 1, gpus)
			v := r.admit(s)
			must.False(rt, v.Denied)
			must.Eq(rt, held+int64(gpus), r.heldGPUs("acme"), must.Sprint("admitted"))
			life := rapid.SampledFrom([]string{"refused", "runs", "ends"}).Draw(rt, "life")
			if life == "refused" {
				v.Settle(r.ctx, gate.Outcome{Known: true})
				must.Eq(rt, held, r.heldGPUs("acme"), must.Sprint("refused"))
				continue
			}
			r.accept(s, v, false)
			alloc := r.nomad.start("default", id, 0, gpus)
			_ = r.settle() // an error is what this is about: the next settle finds what is left
			r.clock.advance(time.Duration(rapid.IntRange(1, 100_000).Draw(rt, "ms")) * time.Millisecond)
			_ = r.settle()
			if held += int64(gpus); life == "ends" {
				r.nomad.finish(alloc)
				_ = r.settle()
				held -= int64(gpus)
			}
			store.sure = true
			must.NoError(rt, r.settle())
			must.Eq(rt, held, r.heldGPUs("acme"), must.Sprint(life))
			r.checkBooks()
			store.sure = false
		}
		store.sure = true
		endAll(r)
		r.checkBooks()
		must.Eq(rt, r.facts(), r.posted("acme"))
		must.SliceEmpty(rt, r.open())
		lost += store.lost
	})
	must.Positive(t, lost, must.Sprint("no answer was lost"))
}
