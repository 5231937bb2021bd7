package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/internal/consultest"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/sqlite"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"
)

const brokenPolicy = "budget \"acme\" {\n  colour = \"red\"\n}\n"

func TestABrokenEditKeepsTheLastGoodPolicy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	good := r.Keeper.State()
	r.edit(brokenPolicy)
	state := r.Keeper.State()
	must.Eq(t, good.Policy.Revision, state.Policy.Revision)
	must.Eq(t, good.Since, state.Since)
	contains(t, state.Broken, "budgets.hcl", "line 2", "colour")
	must.Len(t, 1, state.Faults)
	must.EqOp(t, "budgets.hcl", state.Faults[0].File)
	must.EqOp(t, 2, state.Faults[0].Line)
	must.Len(t, 1, state.BrokenFiles)
	must.NotEq(t, good.Version, state.Version)
	records, err := r.store.Read(r.ctx, statusKey)
	must.NoError(t, err)
	contains(t, string(records[0].Value), `"broken": true`, "colour")
	must.False(t, r.run(r.job("train", 1, 8)).Denied)

	r.start(r.store) // restarted while it is broken
	state = r.Keeper.State()
	must.Eq(t, good.Policy.Revision, state.Policy.Revision)
	must.Eq(t, actorKVEdit, state.Revision.Author)
	must.False(t, state.Since.IsZero())
	contains(t, state.Broken, "colour")

	r.edit(testPolicy(8, "500"))
	must.Eq(t, "", r.Keeper.State().Broken)
	records, err = r.store.Read(r.ctx, statusKey)
	must.NoError(t, err)
	contains(t, string(records[0].Value), `"broken": false`)
}

func TestTheLastGoodPolicyIsNotForgottenWhenTheStoreFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.edit(brokenPolicy)
	store := &keyless{Store: r.store, key: goodKey}
	r.Agent = New(Options{Store: store, Nomad: r.nomad, Placer: r.placer, Logger: hclog.NewNullLogger(), Now: r.clock.now})
	must.ErrorIs(t, r.Keeper.Load(r.ctx), ledger.ErrUnavailable)
	must.False(t, r.Keeper.State().Loaded)
	store.key = ""
	must.NoError(t, r.Keeper.Load(r.ctx))
	must.Len(t, 1, r.Keeper.State().Policy.Roots)
}

// keyless cannot read one key.
type keyless struct {
	Store
	key string
}

func (k *keyless) Read(ctx context.Context, keys ...string) ([]ledger.Record, error) {
	if len(keys) == 1 && keys[0] == k.key {
		return nil, ledger.ErrUnavailable
	}
	return k.Store.Read(ctx, keys...)
}

func TestRemovedBudgetsDoNotComeBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	key := policyPrefix + "budgets.hcl"
	records, err := r.store.Read(r.ctx, key)
	must.NoError(t, err)
	must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: key, Version: records[0].Version}}))
	must.NoError(t, r.Keeper.Load(r.ctx))
	must.Eq(t, "unmatched", r.admit(r.job("train", 1, 1)).Reason)
	r.edit(brokenPolicy)
	r.start(r.store)
	must.SliceEmpty(t, r.Keeper.State().Policy.Roots)
}

func TestApplyReplacesExactlyWhatTheCallerSaw(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	seen := r.Keeper.State().Version
	must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: policyPrefix + "README", Value: []byte("ours")}}))
	must.NoError(t, r.Keeper.Load(r.ctx))
	must.ErrorIs(t, r.Keeper.Apply(r.ctx, files(testPolicy(4, "1")), seen, "me", ""), ErrPolicyChanged)
	seen = r.Keeper.State().Version
	must.NoError(t, r.Keeper.Apply(r.ctx, []budgetspec.File{{Name: "new.hcl", Content: []byte(testPolicy(4, "1"))}}, seen, "me", "abc"))
	state := r.Keeper.State()
	must.Eq(t, "me", state.Revision.Author)
	must.Eq(t, "abc", state.Revision.Commit)
	must.Eq(t, "new.hcl", state.Files[0].Name)
	records, _, err := r.store.List(r.ctx, policyPrefix)
	must.NoError(t, err)
	must.Len(t, 3, records, must.Sprint("the revision, the README, the new file; the old file is gone"))

	must.ErrorIs(t, r.Keeper.Apply(r.ctx, files(testPolicy(4, "1")), seen, "me", ""), ErrPolicyChanged)
	// A direct edit that this agent has not seen yet.
	seen = r.Keeper.State().Version
	current, err := r.store.Read(r.ctx, policyPrefix+"new.hcl")
	must.NoError(t, err)
	must.NoError(t, r.store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{{Key: policyPrefix + "new.hcl",
		Value: []byte(testPolicy(5, "1")), Version: current[0].Version}}))
	must.ErrorIs(t, r.Keeper.Apply(r.ctx, files(testPolicy(4, "1")), seen, "me", ""), ErrPolicyChanged)
	must.NoError(t, r.Keeper.Load(r.ctx))
	must.Eq(t, actorKVEdit, r.Keeper.State().Revision.Author)
}

func TestUploadsThatCannotBeStoredAreRefused(t *testing.T) {
	t.Parallel()
	many := func(n int) []budgetspec.File {
		var out []budgetspec.File
		for i := range n {
			out = append(out, budgetspec.File{Name: fmt.Sprintf("f%03d.hcl", i), Content: nil})
		}
		return out
	}
	named := func(name string) []budgetspec.File { return []budgetspec.File{{Name: name}} }
	cases := map[string]struct {
		files []budgetspec.File
		says  string
	}{
		"too many files":      {many(ledger.MaxWrites), "at most 60 fit"},
		"not .hcl":            {named("budgets.txt"), "must end in .hcl"},
		"the revision":        {named(".rev"), "must end in .hcl"},
		"only an ending":      {named(".hcl"), "must end in .hcl"},
		"a directory":         {named("a/b.hcl"), "no slashes"},
		"a Windows directory": {named(`a\b.hcl`), "no slashes"},
		"a line break":        {named("a\nb.hcl"), "printable"},
		"broken UTF-8":        {named("a\xff.hcl"), "printable"},
		"an outer space":      {named(" a.hcl"), "outer spaces"},
		"a very long name":    {named(strings.Repeat("a", 250) + ".hcl"), "at most 200"},
		"the same name twice": {append(named("a.hcl"), named("a.hcl")...), "two files are named"},
		"a very long policy": {[]budgetspec.File{{Name: "a.hcl", Content: []byte(strings.Repeat("# comment\n", 40_000))}},
			"at most 327680 fit"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			before, _, err := r.store.List(r.ctx, policyPrefix)
			must.NoError(t, err)
			err = r.Keeper.Apply(r.ctx, c.files, r.Keeper.State().Version, "me", "")
			var upload *UploadError
			must.True(t, errors.As(err, &upload), must.Sprintf("%v", err))
			contains(t, err.Error(), c.says)
			after, _, err := r.store.List(r.ctx, policyPrefix)
			must.NoError(t, err)
			must.Eq(t, before, after)
		})
	}
	t.Run("an empty file beside others is stored as it is", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		must.NoError(t, r.Keeper.Apply(r.ctx, append(files(testPolicy(8, "1")), budgetspec.File{Name: "empty.hcl"}), r.Keeper.State().Version, "me", ""))
		must.Len(t, 2, r.Keeper.State().Files)
		must.Eq(t, "me", r.Keeper.State().Revision.Author)
	})
}

func TestPlanTellsTheEffectOnRunningWork(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 6))
	next := strings.Replace(testPolicy(4, "1000"), `budget "research"`, `budget "science"`, 1)
	effect, err := r.Engine.Plan(r.ctx, files(next), nil)
	must.NoError(t, err)
	var lines []string
	for _, c := range effect.Changes {
		lines = append(lines, c.String())
	}
	must.Eq(t, []string{
		"~ budget acme concurrent gpus: 8 GPUs -> 4 GPUs",
		"+ budget acme/science",
		"+ budget acme/science match namespaces: default",
		"+ budget acme/science per_job default_runtime: 1h",
		"+ budget acme/science lease: 2h",
		"- budget acme/research",
		"- budget acme/research match namespaces: default",
		"- budget acme/research per_job default_runtime: 1h",
		"- budget acme/research lease: 2h"}, lines)
	must.Len(t, 2, effect.Effects)
	must.Eq(t, Effect{Kind: "over", Budget: "acme", Text: "acme: concurrent GPUs would be over by 2 GPUs (0 used, 6 held, limit 4); " +
		"new work is refused, and running work goes on to its end"}, effect.Effects[0])
	must.Eq(t, "orphaned", effect.Effects[1].Kind)
	contains(t, effect.Effects[1].Text, "default/train", "acme/research")

	// The edit is made all the same: the hold stays until the job ends.
	id := r.nomad.start("default", "train", 0, 6)
	r.edit(next)
	must.NoError(t, r.settle())
	r.clock.advance(time.Minute)
	r.nomad.finish(id)
	must.NoError(t, r.settle())
	must.SliceEmpty(t, r.open())
	must.Eq(t, r.facts(), r.posted("acme"))
}

func TestANewWindowIsChargedAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.job("train", 1, 6))
	r.edit(strings.Replace(testPolicy(8, "1000"), `  limit "month" {`, "  limit \"day\" { gpu_hours = 7 }\n  limit \"month\" {", 1))
	r.nomad.fail(errDown) // Nomad is not needed for it
	must.Error(t, r.settle())
	v := r.admit(r.job("more", 1, 1))
	must.True(t, v.Denied)
	contains(t, v.Message, "day")
	r.checkBooks()
}

func TestStatusWithMoreBudgetsThanOneReadTakes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	text := testPolicy(8, "1000")
	for i := range 100 {
		text += fmt.Sprintf("budget \"b%03d\" {\n  match { namespaces = [\"n%03d\"] }\n}\n", i, i)
	}
	r.edit(text)
	must.Eq(t, "", r.Keeper.State().Broken)
	status, err := r.Engine.Status(r.ctx, r.Meter)
	must.NoError(t, err)
	must.Len(t, 103, status.Budgets)
	_, err = r.Engine.Plan(r.ctx, files(text), nil)
	must.NoError(t, err)
}

// live is an agent with all its goroutines over a store.
func live(t *testing.T, store Store, n *fakeNomad) (*Agent, func()) {
	a := New(Options{Name: t.Name(), Store: store, Nomad: n, Placer: &fakePlacer{}, Logger: hclog.NewNullLogger(), Now: time.Now})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, listener, http.NotFoundHandler()) }()
	stop := func() {
		cancel()
		must.NoError(t, <-done)
	}
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool { return a.Meter.Leading() && a.Keeper.State().Loaded }),
		wait.Timeout(10*time.Second), wait.Gap(10*time.Millisecond)))
	return a, stop
}

// within polls until the condition holds, at most for a second and a margin for
// a busy machine.
func within(t *testing.T, what string, f func() bool) {
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(f), wait.Timeout(5*time.Second), wait.Gap(10*time.Millisecond)), must.Sprint(what))
}

func TestALiveAgentFollowsTheStoreAndNomad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	open := func() *sqlite.Store {
		store, err := sqlite.Open(path)
		must.NoError(t, err)
		return store
	}
	n := newNomad(time.Now)
	store := open()
	a, stop := live(t, store, n)
	r := &rig{t: t, ctx: t.Context(), nomad: n, store: store, Agent: a}

	must.Eq(t, "unmatched", r.admit(r.job("train", 1, 2)).Reason)
	must.NoError(t, store.Commit(t.Context(), ledger.Fence{}, []ledger.Write{
		{Key: policyPrefix + "budgets.hcl", Value: []byte(testPolicy(8, "1000"))}}))
	within(t, "the edit is in force", func() bool { return len(a.Keeper.State().Policy.Roots) == 1 })
	must.False(t, r.run(r.job("train", 1, 2)).Denied)
	id := n.start("default", "train", 0, 2)
	within(t, "the allocation is seen", func() bool { return len(r.holdOf("default", "train").Tracks) == 1 })
	stop()

	a, stop = live(t, open(), n)
	r.Agent, r.store = a, a.store
	n.finish(id)
	within(t, "the job is settled", func() bool { return r.holdOf("default", "train") == nil })
	must.Eq(t, r.facts(), r.posted("acme"))
	r.checkBooks()
	stop()
}

func TestAStampedeOnConsul(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	store, err := consulkv.New(consulkv.Config{Address: "http://" + server.Addr, Prefix: "governor/"}, hclog.NewNullLogger())
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, store.Close()) })
	c := newClock()
	r := &rig{t: t, ctx: t.Context(), clock: c, nomad: newNomad(c.now), placer: &fakePlacer{}, store: store}
	must.NoError(t, store.Commit(r.ctx, ledger.Fence{}, []ledger.Write{
		{Key: policyPrefix + "budgets.hcl", Value: []byte(testPolicy(8, "1000"))}}))
	r.start(store)
	stampede(t, r, 64)
}
