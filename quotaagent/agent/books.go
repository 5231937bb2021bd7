package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/ledger/request"
)

// Store keeps the ledger's documents. consulkv and sqlite implement it; their
// contract is in quotaagent/ledger/storetest.
type Store interface {
	Read(ctx context.Context, keys ...string) ([]ledger.Record, error)
	List(ctx context.Context, prefix string) ([]ledger.Record, uint64, error)
	Watch(ctx context.Context, prefix string, index uint64) (uint64, error)
	Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error
	Lead(ctx context.Context, name string, run func(ctx context.Context, fence ledger.Fence))
	// Leader is the name of who leads, "" for nobody.
	Leader(ctx context.Context) (string, error)
	Close() error
}

// The key prefixes of the store (BUDGETS.md, "Store layout in Consul").
const (
	holdPrefix    = "hold/"
	balancePrefix = "balance/"
	queuePrefix   = "queue/"
	runPrefix     = "run/"
	policyPrefix  = "policy/"
	statusPrefix  = "status/"
	// templatePrefix is for jobs whose launches are jobs of their own.
	templatePrefix = "template/"
	// outsidePrefix is for work around the gate that is let be.
	outsidePrefix = "outside/"
	// tokensPrefix is for holds of requests for tokens, also of those that ended a
	// short while ago: they are listed apart, for nothing of them is at Nomad.
	tokensPrefix = "tokens/"
	// settledPrefix is for holds that ended a short while ago.
	settledPrefix = "settled/"
	// commitPrefix is for the last commit of each agent process.
	commitPrefix = "commit/"
)

// jobHash names a job in keys: any job id, slashes included, becomes plain.
func jobHash(namespace, jobID string) string {
	sum := sha256.Sum256([]byte(namespace + "\x00" + jobID))
	return hex.EncodeToString(sum[:16])
}

// holdKey names the one open hold of a job.
func holdKey(namespace, jobID string) string { return holdPrefix + jobHash(namespace, jobID) }

// queueKey names the place in the queue of the job with this hold.
func queueKey(holdKey string) string { return queuePrefix + strings.TrimPrefix(holdKey, holdPrefix) }

const (
	// commitAttempts bounds how often a lost compare-and-set is tried again. Each
	// conflict means that another agent made progress.
	commitAttempts = 40
	// turnWithin bounds the wait for the other commits of this agent. It is well
	// above a healthy queue, and keeps a store that hangs from collecting callers.
	turnWithin = 10 * time.Second
	// keepPosted is how long a balance keeps the posted amounts of ended periods.
	keepPosted = 48 * time.Hour
)

// books reads and changes holds together with the balances they charge. One is
// shared by everything in an agent; it is safe for concurrent use.
//
// Changes are committed in groups. Nearly all of them write the same root
// balance, so that side by side all but one would lose their race. Instead, who
// wants a change queues up; whoever gets the turn takes as many of those that
// wait as fit into one commit, makes their changes one after the other in memory,
// and commits once. Zero overspend follows from the commit alone: it compares the
// version of every document that any of its changes has seen.
type books struct {
	store    Store
	now      func() time.Time
	newID    func() string
	recorder Recorder
	// unrecorded hears why history could not be recorded. It stays in the outboxes.
	unrecorded func(error)
	// wrote hears of every hold that was committed, while the turn is held; a nil
	// hold is one that ended. The version is that of the commit.
	wrote func(namespace, jobID string, h heldAt)
	// unsure hears of every commit of which it is not known what it has written.
	unsure func()
	// audited hears of events after the commit that recorded them.
	audited func([]AuditEvent)
	// counted hears of every entry that this process has committed, once; committed of
	// every transaction and how it ended, conflicted of those that are made again.
	counted    func([]ledger.Entry)
	committed  func(d time.Duration, err error)
	conflicted func()
	// wait is the pause between two attempts; it ends with the context.
	wait func(ctx context.Context, d time.Duration)

	mu sync.Mutex
	// lanes are the waiting changes by fence, in the order in which they are served.
	lanes []*lane
	// recorded are the outboxes known to be recorded, by the key of the hold.
	recorded map[string]string
	// members are the cohorts of the policy seen last.
	members members
	listing listing
	// glances are for decisions that commit nothing.
	glances *glances
	// doubt says that the store was restored: nothing that is remembered counts.
	doubt atomic.Bool

	// turn has room for one. What follows belongs to whoever has it.
	turn   chan struct{}
	memory memory
	mark   mark

	// replayed is the fence of the term in which history was recorded again. It
	// belongs to the leader's work.
	replayed *ledger.Fence
}

func newBooks(store Store, now func() time.Time) *books {
	return &books{store: store, now: now, newID: randomID, recorder: forgetful{}, unrecorded: func(error) {}, audited: func([]AuditEvent) {}, wait: pause,
		counted: func([]ledger.Entry) {}, committed: func(time.Duration, error) {}, conflicted: func() {},
		wrote: func(string, string, heldAt) {}, unsure: func() {}, recorded: make(map[string]string), listing: newListing(), glances: newGlances(), turn: make(chan struct{}, 1), memory: newMemory(), mark: mark{key: commitPrefix + randomID()}}
}

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// heldAt is an open hold with the version of its document; a nil hold means
// that the job has none.
type heldAt struct {
	*ledger.Hold
	version uint64
}

// unsaved is the version of a hold that was changed earlier in the same commit.
const unsaved = ^uint64(0)

// view is what a mutation sees: the documents that its target names. The commit
// compares all of them, so that the change only counts if they were all like this
// at the same time. They are shared: a mutation must not change them.
type view struct {
	// hold of the job; its Hold is nil when there is none.
	hold heldAt
	// balances by budget path: those of the target's and of the hold's path, and of
	// all cohort members of either. One that was never written is empty.
	balances map[string]ledger.Balance
	// queued is the job's place in the queue; nil when it does not wait.
	queued *ledger.Queued
	// run is the envelope that the target names, else that of the hold; nil when
	// there is none.
	run *ledger.Run
	// there is the hold that is kept under the key that this one may move to.
	there *ledger.Hold
	// grants that count now for the budgets on the path, by id.
	grants []ledger.Grant
}

// change is what a mutation wants: the hold as it should be (nil ends it), what
// to post, and what becomes of the documents beside it. What follows from it the
// books derive themselves, in the same commit: Hold.Charged, Hold.Drawn and
// Hold.Outbox, the balances, and of the run of the hold Held, Posted, Jobs, Open,
// Requests and Charged.
type change struct {
	hold *ledger.Hold
	// moved says that the hold is kept under the target's other key from now on.
	moved bool
	// ended is the hold as it ended, for its receipt; only where hold is nil. Without
	// it the hold is taken as it was.
	ended  *ledger.Hold
	posted ledger.Vector
	// entries are the history of what is posted.
	entries []ledger.Entry
	// queued is the job's place in the queue as it should be; nil leaves it, and
	// unqueue removes it.
	queued  *ledger.Queued
	unqueue bool
	// unplaced says that the change is right whether or not the job has got a place
	// in the queue meanwhile.
	unplaced bool
	// run is the envelope as it should be, but for what the books derive; nil leaves
	// it. It may be a new one.
	run *ledger.Run
	// tokenRest is Balance.TokenRest of the hold's budget as it should be; nil leaves it.
	tokenRest *int64
	// audit are what the change is recorded as, in the same commit.
	audit []AuditEvent
}

// Recorder keeps the history of usage: what was posted, line by line. It is told
// after the commit that posted the entries, and again whenever it is not certain
// that it was told: an entry with a Key that it has is nothing new.
type Recorder interface {
	Record(ctx context.Context, entries []ledger.Entry) error
}

// errNoChange tells update that nothing needs to be written. That must not rest on what is
// remembered: then it is read, and the mutation runs again. After errNothingYet it does
// not, for whoever changes the hold has it looked at again.
var (
	errNoChange   = errors.New("no change")
	errNothingYet = errors.New("no change as far as it is remembered")
)

// mutation decides what becomes of a hold. It may run several times, also after
// changes of others that wait with it, and must not keep what it is given. What
// it decided in its last run is what was committed.
type mutation func(v view) (change, error)

// target is the hold to change and what is needed to do so.
type target struct {
	// key of the hold; "" for a change of a run alone.
	key string
	// budget is the path whose balances the mutation needs; "" for none beyond
	// those of the hold's own budget. With a budget it also sees the place of a job in
	// the queue.
	budget string
	// to is the key under which the hold may be kept from now on; "" when it stays
	// where it is.
	to string
	// policy names the cohorts whose members' balances the mutation sees, and has it
	// see the grants on the path; nil for a mutation that decides nothing by them.
	policy *budget.Policy
	// run is the id of the envelope that the mutation needs; "" for none beyond the
	// hold's own.
	run      string
	calendar ledger.Calendar
	// known is the hold as it was seen lately, so that it need not be read; a nil
	// hold for none. If it has changed since, the commit fails, and it is read.
	known heldAt
	// novel says that the job is most likely a new one, without a hold and without a
	// place in the queue, so that neither need be read. A refusal does not rest on it.
	novel bool
}

// update changes the hold of one job. The hold and every balance it charges
// change in one commit. When it returns, mutate is not called any more.
func (b *books) update(ctx context.Context, fence ledger.Fence, t target, mutate mutation) error {
	r := &wish{ctx: ctx, target: t, mutate: mutate, done: make(chan struct{})}
	b.serve(ctx, fence, []*wish{r})
	return r.err
}

// updateAll changes many holds in as few commits as possible: the i-th target by
// mutate(i, ...), each as update would do it. The result has one error for each
// target, nil where it is done or nothing had to be done. One that fails does not
// keep the others from being written. mutate is called from one goroutine at a
// time, and may run several times for the same i.
func (b *books) updateAll(ctx context.Context, fence ledger.Fence, targets []target, mutate func(i int, v view) (change, error)) []error {
	requests := make([]*wish, len(targets))
	for i, t := range targets {
		requests[i] = &wish{ctx: ctx, target: t, mutate: func(v view) (change, error) { return mutate(i, v) }, done: make(chan struct{})}
	}
	b.serve(ctx, fence, requests)
	errs := make([]error, len(targets))
	for i, r := range requests {
		errs[i] = r.err
	}
	return errs
}

// look reads what a mutation with this target would see, without changing
// anything.
func (b *books) look(ctx context.Context, t target) (view, error) {
	s := newSheet(b, nil)
	for {
		seen, missing, err := s.needs(t)
		if err != nil {
			return view{}, err
		}
		if len(missing) == 0 && (t.policy == nil || s.grantsRead) {
			v, _ := s.view(t, seen)
			return v, nil
		}
		if err := s.read(ctx, missing, t.policy != nil); err != nil {
			return view{}, err
		}
	}
}

func (b *books) readHold(ctx context.Context, key string) (heldAt, error) {
	records, err := b.store.Read(ctx, key)
	if err != nil {
		return heldAt{}, fmt.Errorf("read hold: %w", err)
	}
	if records[0].Version == 0 {
		return heldAt{}, nil
	}
	return decodeHold(records[0])
}

func decodeHold(r ledger.Record) (heldAt, error) {
	h, err := ledger.DecodeHold(r.Value)
	if err != nil {
		return heldAt{}, fmt.Errorf("%s: %w", r.Key, err)
	}
	return heldAt{Hold: &h, version: r.Version}, nil
}

func (b *books) readBalances(ctx context.Context, paths []string) (map[string]ledger.Balance, map[string]uint64, error) {
	balances, versions := make(map[string]ledger.Balance, len(paths)), make(map[string]uint64, len(paths))
	if len(paths) == 0 {
		return balances, versions, nil
	}
	keys := make([]string, len(paths))
	for i, path := range paths {
		keys[i] = balancePrefix + path
	}
	records, err := b.store.Read(ctx, keys...)
	if err != nil {
		return nil, nil, fmt.Errorf("read balances: %w", err)
	}
	for i, r := range records {
		balance, err := ledger.DecodeBalance(r.Value)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", r.Key, err)
		}
		balances[paths[i]], versions[paths[i]] = balance, r.Version
	}
	return balances, versions, nil
}

// allBalances reads every balance, for any number of budgets.
func (b *books) allBalances(ctx context.Context) (map[string]ledger.Balance, map[string]uint64, error) {
	records, _, err := b.store.List(ctx, balancePrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("list balances: %w", err)
	}
	balances, versions := make(map[string]ledger.Balance, len(records)), make(map[string]uint64, len(records))
	for _, r := range records {
		balance, err := ledger.DecodeBalance(r.Value)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", r.Key, err)
		}
		path := strings.TrimPrefix(r.Key, balancePrefix)
		balances[path], versions[path] = balance, r.Version
	}
	return balances, versions, nil
}

// byJob is the order of holds: by namespace and job id.
func byJob(a, b heldAt) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.JobID, b.JobID))
}

// readHolds reads the holds with these keys, in their order; a nil hold where
// there is none.
func (b *books) readHolds(ctx context.Context, keys []string) ([]heldAt, error) {
	holds := make([]heldAt, 0, len(keys))
	for part := range slices.Chunk(keys, request.MaxReads) {
		records, err := b.store.Read(ctx, part...)
		if err != nil {
			return nil, fmt.Errorf("read holds: %w", err)
		}
		for _, r := range records {
			if r.Version == 0 {
				holds = append(holds, heldAt{})
				continue
			}
			h, err := decodeHold(r)
			if err != nil {
				return nil, err
			}
			holds = append(holds, h)
		}
	}
	return holds, nil
}
