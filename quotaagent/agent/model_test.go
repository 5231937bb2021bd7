package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/internal/consultest"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/sqlite"
	"github.com/shoenig/test/must"
)

// The model test drives several agents over one store and one Nomad through random
// steps and compares what the ledger says with what really happened, which the
// test keeps itself. It is divided into episodes, each with its own budgets. How
// many steps, and the seed: GOVERNOR_MODEL_STEPS and GOVERNOR_MODEL_SEED.
const (
	modelStepsEnv  = "GOVERNOR_MODEL_STEPS"
	modelSeedEnv   = "GOVERNOR_MODEL_SEED"
	modelSteps     = 600
	modelPerDay    = 150 // steps of one episode
	modelLogLength = 200
	// modelTold is after how many episodes a long run says how far it is.
	modelTold = 50
)

// model is one episode: the agents, their store, their Nomad, and the reference.
type model struct {
	t      testing.TB
	ctx    context.Context
	seed   uint64
	rng    *rand.Rand
	world  *modelWorld
	raw    modelBacking
	policy *modelPolicy
	loc    *time.Location
	agents []*modelAgent
	leader int
	term   int
	fence  ledger.Fence
	nextID int

	storeDown bool
	tickets   []*modelTicket
	// asked are the requests for tokens that were authorized and not ended yet, nextKey
	// the last of their keys.
	asked   []TokenStatus
	nextKey int
	account modelAccount
	// strict: nothing happens that lets usage exceed a limit, such as a lowered
	// limit or a higher price; so it never may.
	strict     bool
	log        []string
	admissions int
	denials    int
	steps      int
}

// modelAgent is one agent process after the other under one name.
type modelAgent struct {
	*Agent
	model  *model
	name   string
	skew   time.Duration
	store  *modelStore
	limits *modelPolicy // as it read them last
	fence  ledger.Fence // of its last term
	told   int          // how much of the news it knows, from its stream and from snapshots
}

func (a *modelAgent) now() time.Time { return a.model.world.at.Add(a.skew) }

// modelTicket is a submission between its admission and Nomad's answer.
type modelTicket struct {
	agent      *modelAgent
	store      *modelStore // of the process that admitted it
	submission gate.Submission
	spec       modelSpec
	settle     func(context.Context, gate.Outcome)
	asStored   bool // see gate.Verdict
	registered bool
	index      uint64
}

func TestModelOfTheAgentsOnSQLite(t *testing.T) {
	t.Parallel()
	runModel(t, func(t testing.TB, episode int) modelBacking {
		store, err := sqlite.Open(filepath.Join(fastDir(t), fmt.Sprintf("ledger-%d.db", episode)))
		must.NoError(t, err)
		return store
	})
}

func TestModelOfTheAgentsOnConsul(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	runModel(t, func(t testing.TB, episode int) modelBacking {
		store, err := consulkv.New(consulkv.Config{Address: server.Addr, Prefix: fmt.Sprintf("model-%d", episode)}, hclog.NewNullLogger())
		must.NoError(t, err)
		return store
	})
}

// fastDir is a directory in memory where there is one: the model kills processes,
// not machines, so that nothing depends on the disk.
func fastDir(t testing.TB) string {
	if dir, err := os.MkdirTemp("/dev/shm", "governor-model-"); err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		return dir
	}
	return t.TempDir()
}

func runModel(t *testing.T, open func(t testing.TB, episode int) modelBacking) {
	steps, seed := modelSteps, uint64(1)
	if text := os.Getenv(modelStepsEnv); text != "" {
		n, err := strconv.Atoi(text)
		must.NoError(t, err)
		steps = n
	}
	if text := os.Getenv(modelSeedEnv); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		must.NoError(t, err)
		seed = n
	}
	begin, done, admissions, denials := time.Now(), 0, 0, 0
	for episode := 0; done < steps; episode++ {
		store := open(t, episode)
		// The seed of an episode runs it alone, as the first one.
		m := newModel(t, seed+uint64(episode), store)
		m.run(min(modelPerDay, steps-done))
		must.NoError(t, store.Close())
		done, admissions, denials = done+m.steps, admissions+m.admissions, denials+m.denials
		if (episode+1)%modelTold == 0 && done < steps {
			t.Logf("%d of %d steps in %v", done, steps, time.Since(begin).Round(time.Second))
		}
	}
	t.Logf("seed %d: %d steps in %v, %d balances grew by admissions, %d denials", seed, done, time.Since(begin).Round(time.Millisecond), admissions, denials)
	must.Positive(t, admissions)
}

// The days on which episodes begin: an ordinary one, the eve of a month, and the
// eves of the changes to and from summer time in the zones of the policies.
var modelDays = []string{"2026-03-10T12:00:00Z", "2026-03-31T20:00:00Z", "2026-03-28T20:00:00Z", "2026-10-24T20:00:00Z",
	"2026-04-04T10:00:00Z", "2026-12-31T18:00:00Z"}

func newModel(t testing.TB, seed uint64, store modelBacking) *model {
	rng := rand.New(rand.NewPCG(seed, 0x676f7665726e6f72)) //nolint:gosec // it must be replayable
	at, err := time.Parse(time.RFC3339, modelDays[rng.IntN(len(modelDays))])
	must.NoError(t, err)
	at = at.Add(time.Duration(rng.Int64N(6*3_600_000)) * time.Millisecond)
	m := &model{t: t, ctx: t.Context(), seed: seed, rng: rng, raw: store, world: newModelWorld(rng, at, 4+rng.IntN(16)),
		strict: rng.IntN(2) == 0, account: newModelAccount()}
	m.policy = newModelPolicy(rng, at)
	m.loc, err = time.LoadLocation(m.policy.zone)
	must.NoError(t, err)
	m.write(m.policy)
	for i := range 3 {
		a := &modelAgent{model: m, name: fmt.Sprintf("agent-%d", i), skew: m.smallSkew()}
		m.agents = append(m.agents, a)
		m.start(a)
	}
	m.elect(0)
	return m
}

func (m *model) smallSkew() time.Duration {
	return time.Duration(m.rng.Int64N(8001)-4000) * time.Millisecond
}

// write puts the budgets into the store, as an edit by hand does.
func (m *model) write(p *modelPolicy) {
	key := policyPrefix + "budgets.hcl"
	records, err := m.raw.Read(m.ctx, key)
	m.require(err == nil, "read the budgets: %v", err)
	_, err = m.raw.CommitVersion(m.ctx, ledger.Fence{}, []ledger.Write{{Key: key, Value: []byte(p.text()), Version: records[0].Version}})
	m.require(err == nil, "write the budgets: %v", err)
	m.policy = p
}

// start begins a new process of an agent; what the last one had in memory is gone.
func (m *model) start(a *modelAgent) {
	a.limits = nil
	a.store, a.fence = &modelStore{modelBacking: m.raw, model: m, agent: a}, ledger.Fence{}
	a.Agent = New(Options{Name: a.name, Store: a.store, Nomad: modelClient{m.world, a}, Placer: &fakePlacer{}, Logger: hclog.NewNullLogger(), Now: a.now,
		Recorder: &modelRecorder{account: &m.account, store: a.store, rng: m.rng}, NewID: func() string {
			m.nextID++
			return fmt.Sprintf("%016x", m.nextID)
		}})
	a.Engine.books.wait = func(context.Context, time.Duration) {}
	m.load(a)
}

// load has an agent read the budgets.
func (m *model) load(a *modelAgent) {
	if a.store.dead || a.limits == m.policy {
		return // read already, by this process
	}
	if err := a.Keeper.Load(m.ctx); err == nil {
		m.require(a.Keeper.State().Broken == "", "the budgets are broken for %s: %s\n%s", a.name, a.Keeper.State().Broken, m.policy.text())
		a.limits = m.policy
	}
}

// elect makes an agent the leader of a new term.
func (m *model) elect(i int) {
	m.term++
	m.leader, m.fence = i, ledger.Fence{Session: fmt.Sprintf("term-%d", m.term)}
	a := m.agents[i]
	a.fence = m.fence
	a.Meter.begin()
}

// require fails the test with all that is needed to see it again.
func (m *model) require(ok bool, format string, args ...any) {
	if ok {
		return
	}
	m.t.Helper()
	m.t.Fatalf("%s\n\nseed %d, step %d; see it again with %s=%d %s=%d\nlast steps:\n  %s", fmt.Sprintf(format, args...), m.seed, m.steps,
		modelSeedEnv, m.seed, modelStepsEnv, max(m.steps, modelPerDay), strings.Join(m.log, "\n  "))
}

func (m *model) note(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf("%d %s ", m.steps, m.world.at.Format("01-02T15:04:05.000"))+fmt.Sprintf(format, args...))
	if len(m.log) > modelLogLength {
		m.log = m.log[1:]
	}
}

// modelRecorder is the history of an agent: it loses nothing that it was told,
// but it may refuse to be told.
type modelRecorder struct {
	account *modelAccount
	store   *modelStore
	rng     *rand.Rand
}

var errNoHistory = errors.New("the disk is full")

// Record implements Recorder.
func (r *modelRecorder) Record(_ context.Context, entries []ledger.Entry) error {
	if r.store.dead {
		return errDied
	}
	if !r.store.model.account.closing && r.rng.IntN(20) == 0 {
		return errNoHistory
	}
	for _, e := range entries {
		r.store.model.enter(e, true)
	}
	return nil
}
