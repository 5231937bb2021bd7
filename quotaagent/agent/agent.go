package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/metrics"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
)

// drainWithin bounds how long a stopping agent waits for reads. Streams and blocking
// queries do not end by themselves and are cut then.
const drainWithin = 5 * time.Second

// finishWithin bounds how long a stopping agent waits for what changes something: no
// submission is on its way to Nomad for longer.
const finishWithin = ledger.RegisterWithin

// readPolicyWithin bounds the wait for the budgets before an agent serves.
const readPolicyWithin = 2 * time.Second

// settleWithin bounds the further wait for requests whose connection is cut: they
// still settle their holds.
const settleWithin = 15 * time.Second

// Agent is one running replica. New builds it, Run owns every goroutine.
type Agent struct {
	Engine *Engine
	Keeper *PolicyKeeper
	Meter  *Meter
	// Audit takes what is done to budgets and has no commit of its own.
	Audit  Auditor
	chain  *auditChain
	store  Store
	name   string
	logger hclog.Logger
	now    func() time.Time
	// version is that of the build, started when this process began.
	version string
	started time.Time
	// configuration is Options.Configuration.
	configuration map[string]any
	// leadership is the candidacy for the lead.
	leadership *leadership
	// history keeps what happened, peers exchange it with other agents; nil for an
	// agent that keeps none.
	history *historian
	peers   *peers
	// observer asks the leader.
	observer observer
	// outlook is what was forecast last.
	outlook outlookCache
	// releaser is nil where no job may wait.
	releaser *releaser
	// enforcer is nil where nothing is enforced on running work.
	enforcer *enforcer
	// bypasses is nil where nobody looks for ways around the gate.
	bypasses *bypassWatch
	metrics  *metrics.Metrics
	board    *board
	// teller is nil where nobody is told of events.
	teller *teller
	// openMetrics says that reading the metrics takes no token.
	openMetrics bool
	onServe     func()
}

// Options are the parts that main composes.
type Options struct {
	Name string
	// Version is that of the build.
	Version string
	// Configuration is that of the agent without its secrets, for who may manage; nil for
	// none.
	Configuration map[string]any
	Store         Store
	Nomad         nomadState
	Placer        Placer
	// Actor does what is enforced on running work; nil means that nothing is.
	Actor Actor
	// Registrar registers the jobs that waited for budget; nil means that none may
	// wait.
	Registrar registrar
	// GangTimeout is for how long a gang may run in part whose author does not say; 0
	// means the constant of that name.
	GangTimeout time.Duration
	// GangPlanAfter is how long a gang waits before GPUs are set aside for it; 0 means
	// that none ever are.
	GangPlanAfter time.Duration
	Logger        hclog.Logger
	Now           func() time.Time
	// Auditor hears what is done to budgets, beside the log; nil for none.
	Auditor Auditor
	// Archive keeps the audit records for good; nil means that only the latest are
	// kept, in the store.
	Archive Archive
	// Recorder keeps the history of usage; nil means that History does.
	Recorder Recorder
	// History keeps entries, sums and decisions; nil means that nobody does. The agent
	// closes it. Retention is how long it keeps single entries; 0 means for good.
	History   *history.Store
	Retention time.Duration
	// Peers says how agents reach each other for their history.
	Peers Peers
	// Posture reads what ways around the gate there are; nil means that nobody looks
	// for them. UnknownWrites says that the gate lets writes pass that it does not know,
	// Delegated is as in bypass.Facts.
	Posture       Posture
	UnknownWrites bool
	Delegated     string
	// Notify is how people are told of events.
	Notify Notify
	// OpenMetrics lets everybody read the metrics, without a token.
	OpenMetrics bool
	// OnServe is called once, when the agent answers requests; nil for nobody.
	OnServe func()
	// NewID makes the random part of ids, which is never the same twice; nil means
	// 64 random bits.
	NewID func() string
}

// New wires an agent; nothing runs yet.
func New(o Options) *Agent {
	a := &Agent{store: o.Store, name: o.Name, logger: o.Logger, openMetrics: o.OpenMetrics, onServe: o.OnServe,
		now: o.Now, version: o.Version, configuration: o.Configuration, started: o.Now(), leadership: newLeadership(o.Now)}
	b := newBooks(o.Store, o.Now)
	if o.NewID != nil {
		b.newID = o.NewID
		b.mark.key = commitPrefix + o.NewID()
	}
	b.unrecorded = func(err error) { o.Logger.Warn("history delayed", "error", err) }
	heard := auditors{logAuditor{o.Logger.Named("audit")}, countedAuditor{a}}
	if o.Auditor != nil {
		heard = append(heard, o.Auditor)
	}
	a.chain = newAuditChain(o.Store, o.Now, o.Logger, heard)
	a.chain.archive, a.Audit, b.audited = o.Archive, a.chain, a.chain.tell
	a.Keeper = newPolicyKeeper(o.Store, o.Now, o.Logger, a.chain, nil)
	a.Meter = newMeter(b, a.Keeper, o.Nomad, o.Placer, o.Logger)
	a.Keeper.OnChange(a.Meter.Rebuild)
	if nodes, ok := o.Nomad.(nodeReader); ok {
		a.Meter.readGauges(nodes)
	}
	a.Engine = newEngine(b, a.Keeper, o.Placer, o.Logger, a.chain, a.Meter.Touch)
	a.Meter.duties.onTick("move budgets", (&mover{engine: a.Engine}).tick)
	a.Meter.duties.onTick("end runs and overrides", (&tidier{engine: a.Engine}).tick)
	a.Meter.duties.whileLeading((&sweeper{e: a.Engine, logger: o.Logger.Named("tokens")}).lead)
	a.keepHistory(b, o)
	a.measure(b, o.Now)
	if o.Notify.Poster != nil {
		a.teller = newTeller(a, o)
		a.Meter.duties.whileLeading(a.teller.lead)
	}
	a.Meter.duties.onSnapshot("prune the audit records", func(ctx context.Context, fence ledger.Fence, _ []nomadevents.Allocation) error {
		return a.chain.prune(ctx, fence)
	})
	if o.Posture != nil {
		a.bypasses = &bypassWatch{posture: o.Posture, unknownWrites: o.UnknownWrites, delegated: o.Delegated, chain: a.chain, now: o.Now, logger: o.Logger.Named("bypass")}
		a.Meter.duties.whileLeading(a.bypasses.lead)
	}
	if o.Actor != nil {
		a.enforcer = newEnforcer(a.Engine, o.Actor, o.Logger)
		if a.Meter.gauges != nil {
			a.enforcer.idleFor = a.Meter.idleFor
		}
		a.Meter.duties.whileLeading(a.enforcer.lead)
	}
	if o.Registrar != nil {
		a.Engine.releases = true
		a.releaser = newReleaser(a.Engine, o.Registrar, o.GangPlanAfter, o.Logger)
		a.Meter.duties.onJob(a.releaser.touch)
		a.Meter.duties.whileLeading(a.releaser.lead)
		again := newReplacer(a.Engine, o.Registrar, o.Logger)
		a.Meter.duties.onTick("see who waits for GPUs", again.watch(a.Meter))
		a.Meter.duties.whileLeading(again.lead)
		whole := newGangs(a.Engine, o.Registrar, o.Nomad, o.GangTimeout, o.Logger)
		a.Meter.duties.onTick("see which gangs run in part", whole.watch(a.Meter))
		a.Meter.duties.whileLeading(whole.lead)
		launches := newLauncher(a.Engine, o.Registrar, o.Actor, a.Meter.follows, o.Logger)
		a.Meter.duties.onStray(launches.stray)
		a.Meter.duties.onChanged(launches.change)
		a.Meter.duties.onSnapshot("launches", launches.look)
		a.Meter.duties.onTick("launches", launches.tick)
	}
	if a.enforcer != nil { // after those that find what is to be stopped
		a.Meter.duties.onTick("enforce", a.enforcer.watch(a.Meter))
	}
	return a
}

// readPolicy reads the budgets before anything is served: clients that connect wait
// for that, instead of being refused by an agent that has just begun. A store that
// does not answer only delays the agent; the keeper goes on trying.
func (a *Agent) readPolicy(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readPolicyWithin)
	defer cancel()
	if err := a.Keeper.Load(ctx); err != nil {
		a.logger.Warn("serving without budgets, they could not be read yet", "error", err)
	}
}

// keepHistory gives the agent a history, if it has a file for it.
func (a *Agent) keepHistory(b *books, o Options) {
	if o.Recorder != nil {
		b.recorder = o.Recorder
	}
	if o.History == nil {
		return
	}
	a.history = newHistorian(o.History, a.Keeper, o.Retention, o.Now, o.Logger)
	a.peers = newPeers(o.Store, o.History, o.Peers, replica{Name: o.Name, Version: o.Version}, o.Now, o.Logger)
	a.Engine.decided = a.history.decided
	if o.Recorder == nil {
		b.recorder = a.history
	}
}

// Run serves handler on the listener until ctx ends, then stops in this order:
// no new requests, requests in flight, the meter (which gives up the leader's
// lock) and the policy keeper, the store.
func (a *Agent) Run(ctx context.Context, listener net.Listener, handler http.Handler) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	a.readPolicy(background)
	var running sync.WaitGroup
	running.Go(func() { a.Keeper.Run(background) })
	running.Go(func() { a.chain.Run(background) })
	running.Go(func() { a.board.run(background) })
	running.Go(func() { a.Engine.readAhead(background) })
	running.Go(func() { a.leadership.run(background, a.store, a.name, a.Meter.Lead) })
	if a.history != nil {
		running.Go(func() { a.history.run(background) })
		running.Go(func() { a.peers.run(background) })
	}

	requests := newInFlight(handler)
	defer requests.cut()
	connections, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := gate.NewServer(requests)
	server.BaseContext = func(net.Listener) context.Context { return connections }
	server.ErrorLog = a.logger.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})
	front := gate.NewFront(requests.reads(), server)
	failed := make(chan error, 1)
	running.Go(func() { failed <- front.Serve(listener) })
	a.logger.Info("serving", "address", listener.Addr().String())
	if a.onServe != nil {
		a.onServe()
	}

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	}
	a.drain(front, requests, cut)
	stop()
	running.Wait()
	a.logger.Info("stopped")
	err = errors.Join(err, a.store.Close())
	if a.history != nil {
		err = errors.Join(err, a.history.store.Close())
	}
	return err
}

// drain ends the server. New connections are refused from now on and idle ones closed.
// Reads are cut after drainWithin. What changes something is answered, for as long as
// a submission may take; then it is cut too, and waited for until it has settled its
// hold. One that takes longer is left to the next leader.
func (a *Agent) drain(server *gate.Front, requests *inFlight, cut context.CancelFunc) {
	shutdown := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		return server.Shutdown(ctx)
	}
	a.logger.Info("stopping, no new connections")
	err := shutdown(drainWithin)
	requests.cut()
	if err != nil {
		a.logger.Info("cutting streams, waiting for submissions")
		err = shutdown(finishWithin)
	}
	if err != nil {
		a.logger.Warn("cutting connections that are still open")
	}
	cut()
	_ = server.Close()
	if left := requests.wait(settleWithin); left > 0 {
		a.logger.Warn("stopping with requests in flight, the next leader settles them", "requests", left)
	}
}
