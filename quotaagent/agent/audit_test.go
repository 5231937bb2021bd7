package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/audit"
	"github.com/nomad-governor/governor/quotaagent/auditfile"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// auditLog are all records that the agent can show, verified to the end.
func (r *rig) auditLog() []audit.Record {
	must.NoError(r.t, r.chain.flush(r.ctx))
	var all []audit.Record
	for from := uint64(1); ; from = all[len(all)-1].Seq + 1 {
		page, err := r.chain.log(r.ctx, from)
		must.NoError(r.t, err)
		all = append(all, page.Records...)
		if page.More {
			continue
		}
		if len(all) > 0 {
			end, err := audit.Before(all[0]).Verify(all)
			must.NoError(r.t, err)
			must.Eq(r.t, page.Head, end)
		}
		return all
	}
}

func (r *rig) auditKinds() string {
	var kinds []string
	for _, record := range r.auditLog() {
		kinds = append(kinds, record.Kind)
	}
	return strings.Join(kinds, " ")
}

func TestEveryChangeIsInTheAuditChain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	must.Eq(t, "policy.edited", r.auditKinds())
	must.Eq(t, actorKVEdit, r.auditLog()[0].Actor)
	must.NoError(t, r.Keeper.Apply(r.ctx, files(testPolicy(8, "500")), r.Keeper.State().Version, "me", "abc"))
	r.edit(testPolicy(8, "1000"))
	r.edit(brokenPolicy)
	r.amend(withGlass(func(o *budget.Override) { o.Approvals, o.Notify = 1, []string{"webhook.finops"} }))
	r.run(r.job("first", 1, 8))
	r.run(overriding(r.job("urgent", 1, 2), "the demo is today"))
	all, err := r.Engine.Overrides(r.ctx)
	must.NoError(t, err)
	_, err = r.Engine.ApproveOverride(r.ctx, oncall, all[0].ID)
	must.NoError(t, err)
	r.run(r.job("urgent", 1, 2))
	_, err = r.Engine.RevokeOverride(r.ctx, oncall, all[0].ID)
	must.NoError(t, err)
	must.Eq(t, "policy.edited policy.applied policy.edited override.requested override.approved override.activated override.used override.revoked", r.auditKinds())
	asked := r.auditLog()[3]
	must.Eq(t, "accessor-default", asked.Actor)
	must.Eq(t, []string{"webhook.finops"}, asked.Notify)
	must.Eq(t, all[0].ID, asked.Subject)
	contains(t, asked.Text, "4 GPUs more for budget acme", "the demo is today")
	must.Eq(t, noon.UnixMilli(), asked.AtMS)
}

// A change and its record are one commit: whichever commit fails, there is never
// one without the other.
func TestNoChangeWithoutItsRecord(t *testing.T) {
	t.Parallel()
	for name, written := range map[string]bool{"before the write": false, "after the write": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				r := newRig(t)
				store := &mortal{Store: r.store, left: n, written: written}
				r.start(store)
				r.amend(withGlass(func(o *budget.Override) { o.Approvals = 1 }))
				applied := r.Keeper.Apply(r.ctx, files(testPolicy(8, "500")), r.Keeper.State().Version, "me", "")
				r.amend(withGlass(func(o *budget.Override) { o.Approvals = 1 }))
				g, _ := r.Engine.RequestOverride(r.ctx, oncall, OverrideRequest{Budget: "acme", Rule: "glass"})
				_, _ = r.Engine.ApproveOverride(r.ctx, oncall2, g.ID)
				died := store.dead
				r.start(r.store)
				text := r.auditKinds()
				must.Eq(t, r.Keeper.State().Revision.Author == "me", strings.Contains(text, "policy.applied"), must.Sprintf("commit %d: %v", n, applied))
				grants, err := r.Engine.grants(r.ctx)
				must.NoError(t, err)
				must.Eq(t, len(grants), strings.Count(text, "override.requested"), must.Sprintf("commit %d", n))
				approvals := 0
				for _, g := range grants {
					approvals += len(g.Approvals)
				}
				must.Eq(t, approvals, strings.Count(text, "override.approved"), must.Sprintf("commit %d", n))
				if !died {
					must.Greater(t, 3, n)
					return
				}
			}
		})
	}
}

// Two agents append at once, some with documents of their own: every event is in
// the one chain, once.
func TestTwoAgentsNeverForkTheChain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	logger := hclog.NewNullLogger()
	a, b := newAuditChain(r.store, r.clock.now, logger, logAuditor{logger}), newAuditChain(r.store, r.clock.now, logger, logAuditor{logger})
	var all sync.WaitGroup
	errs := make(chan error, 200)
	for i := range 40 {
		all.Go(func() {
			e := AuditEvent{At: r.clock.now(), Kind: "run.opened", Actor: "x", Subject: fmt.Sprint(i)}
			c := []*auditChain{a, b}[i%2]
			if i%4 < 2 {
				errs <- c.append(r.ctx, []AuditEvent{e})
				return
			}
			errs <- c.commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: fmt.Sprint("override/", i), Value: []byte("{}")}}, e)
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		must.NoError(t, err)
	}
	seen := map[string]bool{}
	for _, record := range r.auditLog()[1:] {
		must.False(t, seen[record.Subject])
		seen[record.Subject] = true
	}
	must.MapLen(t, 40, seen)
}

// An event whose commit is not confirmed is not written twice, and one whose own
// document is in conflict is not written at all.
func TestALostAnswerDoesNotDoubleARecord(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	store := &forgetfulAnswers{Store: r.store}
	c := newAuditChain(store, r.clock.now, hclog.NewNullLogger(), logAuditor{hclog.NewNullLogger()})
	store.lose = 1
	must.NoError(t, c.append(r.ctx, []AuditEvent{{Kind: "run.opened", At: noon}}))
	must.Eq(t, "policy.edited run.opened", r.auditKinds())
	err := c.commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: policyPrefix + "budgets.hcl", Value: []byte("x"), Version: 999}}, AuditEvent{Kind: "run.closed", At: noon})
	must.ErrorIs(t, err, ledger.ErrConflict)
	must.Eq(t, "policy.edited run.opened", r.auditKinds())
}

// forgetfulAnswers writes, and then says that it does not know.
type forgetfulAnswers struct {
	Store
	lose int
}

func (s *forgetfulAnswers) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	err := s.Store.Commit(ctx, fence, writes)
	if s.lose > 0 {
		s.lose--
		return errors.Join(ledger.ErrUnavailable, err)
	}
	return err
}

// The store keeps a bounded window, the archive everything, and an agent whose
// archive misses a part shows the rest.
func TestTheArchiveKeepsWhatTheStoreForgets(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	file, err := auditfile.Open(filepath.Join(t.TempDir(), "audit.jsonl"))
	must.NoError(t, err)
	t.Cleanup(func() { _ = file.Close() })
	r.chain.archive = file
	const total = 3 * auditKept
	for i := range total {
		r.chain.Record(AuditEvent{At: noon, Kind: "run.opened", Subject: fmt.Sprint(i)})
		if i%50 == 0 {
			must.NoError(t, r.chain.flush(r.ctx))
			must.NoError(t, r.chain.keep(r.ctx))
			must.NoError(t, r.chain.prune(r.ctx, ledger.Fence{}))
		}
	}
	must.NoError(t, r.chain.flush(r.ctx))
	must.NoError(t, r.chain.prune(r.ctx, ledger.Fence{}))
	must.Len(t, total+1, r.auditLog())
	records, _, err := r.chain.window(r.ctx)
	must.NoError(t, err)
	must.LessEq(t, auditKept+auditSlack, len(records))
	must.GreaterEq(t, auditKept, len(records))

	r.chain.archive = nil
	must.Eq(t, len(records), len(r.auditLog()), must.Sprint("without an archive it shows the window, which verifies by itself"))
}

func TestTheChainRunsAndFollows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	file, err := auditfile.Open(filepath.Join(t.TempDir(), "audit.jsonl"))
	must.NoError(t, err)
	t.Cleanup(func() { _ = file.Close() })
	r.chain.archive = file
	ctx, cancel := context.WithCancel(r.ctx)
	var running sync.WaitGroup
	running.Go(func() { r.chain.Run(ctx) })
	r.chain.Record(AuditEvent{At: noon, Kind: "run.opened"})
	other := newAuditChain(r.store, r.clock.now, hclog.NewNullLogger(), logAuditor{hclog.NewNullLogger()})
	must.NoError(t, other.append(ctx, []AuditEvent{{At: noon, Kind: "run.closed"}}))
	deadline := time.Now().Add(10 * time.Second)
	for file.Last() < 3 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	must.Eq(t, uint64(3), file.Last())
	cancel()
	r.chain.Record(AuditEvent{At: noon, Kind: "run.expired"}) // while it stops
	running.Wait()
	must.NoError(t, r.chain.flush(r.ctx))
	must.Len(t, 4, r.auditLog())
}
