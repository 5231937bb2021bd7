package agent

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/acl"
	"github.com/nomad-governor/governor/quotaagent/bypass"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// fakePosture is a cluster with the facts that a test gives it.
type fakePosture struct {
	mu    sync.Mutex
	facts bypass.Facts
	stamp string
	looks int
}

func (f *fakePosture) set(change func(*bypass.Facts)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.facts)
}

// Facts implements Posture.
func (f *fakePosture) Facts(context.Context) bypass.Facts {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	return f.facts
}

// Stamp implements Posture.
func (f *fakePosture) Stamp(context.Context) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stamp
}

// Accessor implements Posture.
func (f *fakePosture) Accessor(context.Context) string { return "aaaaaaaa-agent" }

func (f *fakePosture) looked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.looks
}

// watcher is a watch of a rig.
func (r *rig) watcher(p *fakePosture) *bypassWatch {
	return &bypassWatch{posture: p, chain: r.chain, now: r.clock.now, logger: hclog.NewNullLogger()}
}

// bypassLog are the kinds and subjects that the audit chain has about ways around.
func (r *rig) bypassLog() string {
	var lines []string
	for _, record := range r.auditLog() {
		if kind, ours := strings.CutPrefix(record.Kind, "bypass."); ours {
			lines = append(lines, kind+" "+record.Subject)
		}
	}
	return strings.Join(lines, "; ")
}

// anonymousPolicy lets everybody run jobs.
var anonymousPolicy = bypass.Policy{Name: "anonymous", Rules: acl.Rules{Namespaces: []acl.NamespaceRule{{Name: "*", Capabilities: []string{"submit-job"}}}}}

func TestWaysAroundAreRecordedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := &fakePosture{facts: bypass.Facts{Agent: bypass.Agent{HTTPS: true, VerifyClients: true}}}
	w := r.watcher(p)
	check := func() {
		t.Helper()
		must.NoError(t, w.check(r.ctx, ledger.Fence{}))
	}
	check()
	must.Eq(t, "opened registration_open", r.bypassLog())
	p.set(func(f *bypass.Facts) { f.Policies = []bypass.Policy{anonymousPolicy} })
	check()
	check()
	must.Eq(t, "opened registration_open; opened anonymous_can_submit policy anonymous", r.bypassLog())
	record := r.auditLog()[len(r.auditLog())-1]
	must.Eq(t, actorGovernor, record.Actor)
	must.Eq(t, "found: without any token: submit-job in namespace *", record.Text)

	s, err := w.status(r.ctx, true)
	must.NoError(t, err)
	checked := noon
	must.Eq(t, &BypassStatus{Open: 1, Codes: []string{bypass.AnonymousSubmits}, Checked: &checked, Accessors: []string{"aaaaaaaa-agent"}}, s)

	w = r.watcher(p) // another leader knows what was recorded
	check()
	p.set(func(f *bypass.Facts) { f.Policies = nil })
	check()
	must.Eq(t, "opened registration_open; opened anonymous_can_submit policy anonymous; closed anonymous_can_submit policy anonymous", r.bypassLog())
	s, err = w.status(r.ctx, false)
	must.NoError(t, err)
	must.Eq(t, &BypassStatus{Codes: []string{}, Accessors: []string{"aaaaaaaa-agent"}}, s)
}

// What cannot be read any more is not closed by that.
func TestAWayThatCannotBeSeenStaysOpen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := &fakePosture{facts: bypass.Facts{Policies: []bypass.Policy{anonymousPolicy}}}
	w := r.watcher(p)
	must.NoError(t, w.check(r.ctx, ledger.Fence{}))
	before := r.bypassLog()
	contains(t, before, "opened anonymous_can_submit", "opened registration_open", "opened plain_http")
	p.set(func(f *bypass.Facts) {
		*f = bypass.Facts{Missing: []bypass.Missing{{Check: bypass.CheckACL, Why: "Nomad does not answer"}, {Check: bypass.CheckScheduler}, {Check: bypass.CheckAgent}}}
	})
	must.NoError(t, w.check(r.ctx, ledger.Fence{}))
	must.Eq(t, before, r.bypassLog())
	s, err := w.status(r.ctx, true)
	must.NoError(t, err)
	must.Eq(t, 1, s.Open)
	must.Len(t, 3, s.NotChecked)
	p.set(func(f *bypass.Facts) { *f = bypass.Facts{Agent: bypass.Agent{HTTPS: true, VerifyClients: true}} })
	must.NoError(t, w.check(r.ctx, ledger.Fence{}))
	must.Eq(t, before+"; closed anonymous_can_submit policy anonymous; closed plain_http", r.bypassLog())
}

// A further management token is news; a further token of the same role is none.
func TestWhatIsNews(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	root := bypass.Token{Accessor: "11111111-root", Name: "root", Management: true}
	user := bypass.Token{Accessor: "22222222-user", Name: "user", Roles: []string{"ml"}}
	p := &fakePosture{facts: bypass.Facts{Agent: bypass.Agent{HTTPS: true, VerifyClients: true}, RejectRegistration: true, Tokens: []bypass.Token{root, user},
		Roles:    []bypass.Role{{ID: "r", Name: "ml", Policies: []string{"user"}}},
		Policies: []bypass.Policy{{Name: "user", Rules: anonymousPolicy.Rules}}}}
	w := r.watcher(p)
	must.NoError(t, w.check(r.ctx, ledger.Fence{}))
	must.Eq(t, "opened management_tokens token root (11111111); opened registration_rejected; opened token_can_submit role ml", r.bypassLog())
	p.set(func(f *bypass.Facts) {
		f.Tokens = append(f.Tokens, bypass.Token{Accessor: "33333333-eve", Name: "eve", Management: true}, bypass.Token{Accessor: "44444444-new", Name: "new", Roles: []string{"ml"}})
	})
	must.NoError(t, w.check(r.ctx, ledger.Fence{}))
	must.StrHasSuffix(t, "opened token_can_submit role ml; opened management_tokens token eve (33333333)", r.bypassLog())
}

// More ways than one commit takes are all recorded.
func TestManyWays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f := bypass.Facts{RejectRegistration: true}
	for i := range 3 * bypassTogether {
		p := anonymousPolicy
		p.Name, p.Job = fmt.Sprintf("wi-%02d", i), &bypass.JobACL{Namespace: "default", JobID: "x"}
		f.Policies = append(f.Policies, p)
	}
	w := r.watcher(&fakePosture{facts: f})
	must.NoError(t, w.check(r.ctx, ledger.Fence{}))
	must.Eq(t, 3*bypassTogether, strings.Count(r.bypassLog(), "opened workload_can_submit"))
}

// A store that fails loses nothing: the next look records it.
func TestARecordThatFailsComesLater(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.watcher(&fakePosture{facts: bypass.Facts{RejectRegistration: true, Policies: []bypass.Policy{anonymousPolicy}}})
	must.Error(t, w.check(r.ctx, ledger.Fence{Session: "deposed"}))
	must.Eq(t, "", r.bypassLog())
	must.NoError(t, w.check(r.ctx, ledger.Fence{}))
	contains(t, r.bypassLog(), "opened anonymous_can_submit policy anonymous")
}

// The leader looks at once, every five minutes, and as soon as the stamp changes.
func TestWhenTheLeaderLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		p := &fakePosture{stamp: "1"}
		chain := newAuditChain(store, time.Now, hclog.NewNullLogger(), auditors{})
		w := &bypassWatch{posture: p, chain: chain, now: time.Now, logger: hclog.NewNullLogger()}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { w.lead(ctx, ledger.Fence{}) })
		synctest.Wait()
		must.Eq(t, 1, p.looked())
		time.Sleep(bypassEvery - time.Second)
		synctest.Wait()
		must.Eq(t, 1, p.looked())
		time.Sleep(2 * time.Second)
		synctest.Wait()
		must.Eq(t, 2, p.looked())
		p.mu.Lock()
		p.stamp = "2"
		p.mu.Unlock()
		time.Sleep(bypassLook)
		synctest.Wait()
		must.Eq(t, 3, p.looked())
		cancel()
		running.Wait()
	})
}
