package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/internal/consultest"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/webhook"
)

// receivers are what notifiers have got, by address.
type receivers struct {
	mu   sync.Mutex
	got  map[string][]string
	ids  map[string]int
	down map[string]bool
	// secret is that of the last message.
	secret string
}

func newReceivers() *receivers {
	return &receivers{got: map[string][]string{}, ids: map[string]int{}, down: map[string]bool{}}
}

// Send implements poster.
func (r *receivers) Send(_ context.Context, m webhook.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down[m.URL] {
		return errors.New("the receiver answered 503 Service Unavailable")
	}
	var e struct {
		Type, Subject string
		Data          struct{ Status, Text string }
	}
	if err := json.Unmarshal(m.Body, &e); err != nil {
		return err
	}
	r.got[m.URL] = append(r.got[m.URL], fmt.Sprintf("%s %s %s", e.Type, e.Subject, e.Data.Status))
	r.ids[m.URL+" "+m.ID]++
	r.secret = m.Secret
	return nil
}

// take is what a notifier has got since the last time.
func (r *receivers) take(url string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got[url]
	delete(r.got, url)
	return got
}

func (r *receivers) fail(url string, down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down[url] = down
}

const (
	opsURL    = "https://ops.example/hook"
	finopsURL = "https://finops.example/hook"
)

// notifying is the policy of the tests with a soft mark and two notifiers.
const notifying = pricedV100 + `
notify "webhook" "ops" {
  url    = "https://ops.example/hook"
  events = ["budget.soft", "budget.full", "budget.overdrawn", "override.*", "health.*"]
}
notify "webhook" "finops" {
  url        = "https://finops.example/hook"
  secret_env = "FINOPS_SECRET"
}
budget "acme" {
  soft = "50%"
  limit "month" { gpu_hours = 100 }
  alert "forecast" {
    when   = burn_rate("30m") > 20 && limit.gpu_hours.any == 100
    notify = [notify.webhook.finops]
  }
  override "glass" {
    who     = ["token:never"]
    max     = { gpu_hours = 10 }
    expires = "1h"
    notify  = [notify.webhook.finops]
  }
  budget "research" {
    match { namespaces = ["default"] }
    per_job { default_runtime = "12h" }
  }
}
`

// tells gives the agent of a rig notifiers that hear of events.
func (r *rig) tells(to *receivers) {
	secret := map[string]string{"FINOPS_SECRET": "s3cret"}
	r.teller = newTeller(r.Agent, Options{Now: r.clock.now, Notify: Notify{Poster: to, Source: "/governor/test", Secret: func(name string) string { return secret[name] }}})
	r.teller.random = func() float64 { return 0 }
}

// tell looks and delivers what is due.
func (r *rig) tell() {
	must.NoError(r.t, r.board.look(r.ctx))
	must.NoError(r.t, r.teller.step(r.ctx, ledger.Fence{}))
	for _, name := range []string{"webhook.ops", "webhook.finops"} {
		for r.teller.round(r.ctx, ledger.Fence{}, name) == 0 {
		}
	}
}

func TestASoftMarkThatIsCrossedIsToldOnce(t *testing.T) {
	t.Parallel()
	r, to := newRigOn(t, newMemStore(), notifying), newReceivers()
	r.tells(to)
	r.tell()
	must.SliceEmpty(t, to.take(opsURL))
	must.False(t, r.run(batch(r.nomad, "default", "train", 1, 6, 12*time.Hour)).Denied)
	r.tell()
	must.Eq(t, []string{"dev.governor.budget.soft acme firing"}, to.take(opsURL))
	for range 5 {
		r.clock.advance(15 * time.Second)
		r.tell()
	}
	must.SliceEmpty(t, to.take(opsURL))
	view, err := r.serveAlerts(r.ctx, api.Call{})
	must.NoError(t, err)
	firing := view.(AlertsView).Firing
	must.Len(t, 1, firing)
	must.StrContains(t, firing[0].Text, "budget acme is past its soft mark: 0 GPU-hours used and ")
	must.Eq(t, "month", firing[0].Window)
	must.Eq(t, 1, value(t, r.scraped(), "governor_alert_firing", "budget=acme", "alert=soft", "severity=info"))
	must.Eq(t, 1, value(t, r.scraped(), "governor_notifications_total", "notifier=webhook.ops", "result=ok"))

	r.nomad.finish(r.nomad.start("default", "train", 0, 6))
	must.NoError(t, r.settle())
	r.clock.advance(11 * time.Minute)
	must.NoError(t, r.settle())
	for range 50 {
		r.clock.advance(15 * time.Second)
		must.NoError(t, r.settle())
		r.tell()
	}
	must.Eq(t, []string{"dev.governor.budget.soft acme resolved"}, to.take(opsURL))
	must.SliceEmpty(t, to.take(finopsURL), must.Sprint("nothing names it, and it asks for nothing"))
}

func TestAnAlertOfThePolicyReachesWhomItNames(t *testing.T) {
	t.Parallel()
	r, to := newRigOn(t, newMemStore(), notifying), newReceivers()
	r.tells(to)
	must.False(t, r.run(r.job("train", 1, 8)).Denied)
	r.nomad.start("default", "train", 0, 8)
	for range 8 { // 8 GPUs are 60 times as fast as 100 GPU-hours last a month
		must.NoError(t, r.settle())
		r.tell()
		r.clock.advance(5 * time.Minute)
	}
	must.Eq(t, []string{"dev.governor.budget.alert acme firing"}, to.take(finopsURL))
	must.Eq(t, "s3cret", to.secret)
	must.Eq(t, 1, value(t, r.scraped(), "governor_alert_firing", "alert=forecast"))
	r.edit(notifying + "\n# the same with a comment\n")
	r.tell()
	must.SliceEmpty(t, to.take(finopsURL))
}

func TestWhatIsDoneWithOverridesIsTold(t *testing.T) {
	t.Parallel()
	r, to := newRigOn(t, newMemStore(), notifying), newReceivers()
	r.tells(to)
	r.tell()
	r.chain.Record(AuditEvent{At: r.clock.now(), Kind: "override.used", Actor: "ann", Budget: "acme", Subject: "o-1", Text: "ann used it", Notify: []string{"webhook.finops"}})
	r.chain.Record(AuditEvent{At: r.clock.now(), Kind: "bypass.opened", Actor: actorGovernor, Subject: "token x", Text: "found: token x"})
	must.NoError(t, r.chain.flush(r.ctx))
	r.tell()
	r.tell()
	must.Eq(t, []string{"dev.governor.override.used acme "}, to.take(finopsURL))
	must.Eq(t, []string{"dev.governor.override.used acme ", "dev.governor.health.bypass_opened token x "}, to.take(opsURL))
}

func TestABrokenPolicyIsTold(t *testing.T) {
	t.Parallel()
	r, to := newRigOn(t, newMemStore(), notifying), newReceivers()
	r.tells(to)
	r.tell()
	key := policyPrefix + "budgets.hcl"
	records, err := r.store.Read(r.ctx, key)
	must.NoError(t, err)
	must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: key, Value: []byte("budget {"), Version: records[0].Version}}))
	must.NoError(t, r.Keeper.Load(r.ctx))
	r.tell()
	must.Eq(t, []string{"dev.governor.health.policy_broken policy_broken firing"}, to.take(opsURL))
}

// What somebody has spoilt in the store is written anew, and holds up nothing.
func TestDamagedDocumentsBeginAnew(t *testing.T) {
	t.Parallel()
	r, to := newRigOn(t, newMemStore(), notifying), newReceivers()
	r.tells(to)
	r.tell()
	records, err := r.store.Read(r.ctx, noticeStateKey)
	must.NoError(t, err)
	must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{
		{Key: noticeStateKey, Value: []byte("{"), Version: records[0].Version}, {Key: outboxPrefix + "webhook.ops", Value: []byte("[")}}))
	r.start(r.store)
	r.tells(to)
	r.tell()
	r.chain.Record(AuditEvent{At: r.clock.now(), Kind: "override.used", Budget: "acme", Text: "used"})
	must.NoError(t, r.chain.flush(r.ctx))
	r.tell()
	must.Eq(t, []string{"dev.governor.override.used acme "}, to.take(opsURL))
}

// A receiver that is down gets its events when it is back, from whoever leads then, and
// holds up nobody else.
func testEventsSurvive(t *testing.T, store Store) {
	r, to := newRigOn(t, store, notifying), newReceivers()
	r.tells(to)
	r.tell()
	to.fail(finopsURL, true)
	for i := range 3 {
		r.chain.Record(AuditEvent{At: r.clock.now(), Kind: "override.used", Budget: fmt.Sprintf("acme/%d", i%2), Text: "used", Notify: []string{"webhook.finops"}})
	}
	must.NoError(t, r.chain.flush(r.ctx))
	r.tell()
	must.Len(t, 3, to.take(opsURL))
	view, err := r.serveAlerts(r.ctx, api.Call{})
	must.NoError(t, err)
	for _, n := range view.(AlertsView).Notifiers {
		if n.Name == "webhook.finops" {
			must.Eq(t, 3, n.Waiting)
			must.Eq(t, "the receiver answered 503 Service Unavailable", n.Error)
		}
	}
	deposed := r.teller
	r.start(r.store)
	r.tells(to)
	to.fail(finopsURL, false)
	r.clock.advance(time.Minute)
	r.tell()
	must.Eq(t, []string{"dev.governor.override.used acme/0 ", "dev.governor.override.used acme/1 ", "dev.governor.override.used acme/0 "}, to.take(finopsURL))
	must.SliceEmpty(t, to.take(opsURL), must.Sprint("what was delivered is not delivered again"))
	// The one before does not know that, and sends again; its note is refused, and then
	// it knows.
	for deposed.round(r.ctx, ledger.Fence{}, "webhook.finops") != courierRests {
	}
	must.SliceEmpty(t, deposed.told.boxes["webhook.finops"].Waiting)
	for id, n := range to.ids {
		must.LessEq(t, 2, n, must.Sprint(id))
	}
}

func TestEventsSurviveAChangeOfLeader(t *testing.T) {
	t.Parallel()
	t.Run("in memory", func(t *testing.T) {
		t.Parallel()
		testEventsSurvive(t, newMemStore())
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		testEventsSurvive(t, openStore(t))
	})
	t.Run("consul", func(t *testing.T) {
		t.Parallel()
		server := consultest.Start(t)
		store, err := consulkv.New(consulkv.Config{Address: server.Addr, Prefix: "notices/"}, hclog.NewNullLogger())
		must.NoError(t, err)
		t.Cleanup(func() { must.NoError(t, store.Close()) })
		testEventsSurvive(t, store)
	})
}

// On real leadership: two agents on one Consul, of which one leads and then stops.
func TestTheNextLeaderTellsTheRest(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	to := newReceivers()
	to.fail(opsURL, true)
	lead := func(name string) (stop func()) {
		store, err := consulkv.New(consulkv.Config{Address: server.Addr, Prefix: "leaders/"}, hclog.NewNullLogger())
		must.NoError(t, err)
		a := New(Options{Name: name, Store: store, Nomad: newNomad(time.Now), Placer: &fakePlacer{}, Logger: hclog.NewNullLogger(), Now: time.Now,
			Notify: Notify{Poster: to, Source: "/governor/test", Secret: func(string) string { return "" }}})
		must.NoError(t, a.Keeper.Load(t.Context()))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { a.board.run(ctx) })
		running.Go(func() { a.chain.Run(ctx) })
		running.Go(func() { store.Lead(ctx, name, a.teller.lead) })
		waitFor(t, func() bool {
			a.teller.mu.Lock()
			defer a.teller.mu.Unlock()
			return a.teller.told.known
		})
		a.chain.Record(AuditEvent{At: time.Now(), Kind: "override.used", Budget: "acme", Text: "used while " + name + " led"})
		return func() {
			cancel()
			running.Wait()
			must.NoError(t, store.Close())
		}
	}
	first, err := consulkv.New(consulkv.Config{Address: server.Addr, Prefix: "leaders/"}, hclog.NewNullLogger())
	must.NoError(t, err)
	must.NoError(t, first.Commit(t.Context(), ledger.Fence{}, []ledger.Write{{Key: policyPrefix + "budgets.hcl", Value: []byte(notifying)}}))
	stop := lead("one")
	waitFor(t, func() bool {
		now, err := readTold(t.Context(), first)
		return err == nil && len(now.boxes["webhook.ops"].Waiting) == 1 && now.boxes["webhook.ops"].Error != ""
	})
	stop()
	to.fail(opsURL, false)
	stop = lead("two")
	waitFor(t, func() bool {
		to.mu.Lock()
		defer to.mu.Unlock()
		return len(to.got[opsURL]) >= 2
	})
	stop()
	must.NoError(t, first.Close())
	for _, event := range to.take(opsURL) {
		must.Eq(t, "dev.governor.override.used acme ", event)
	}
}

// waitFor waits until something holds.
func waitFor(t *testing.T, holds func() bool) {
	t.Helper()
	for begin := time.Now(); !holds(); time.Sleep(20 * time.Millisecond) {
		must.Less(t, time.Minute, time.Since(begin))
	}
}
