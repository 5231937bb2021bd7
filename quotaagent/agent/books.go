package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Store keeps the ledger's documents. consulkv and sqlite implement it; their
// contract is in quotaagent/ledger/storetest.
type Store interface {
	Read(ctx context.Context, keys ...string) ([]ledger.Record, error)
	List(ctx context.Context, prefix string) ([]ledger.Record, uint64, error)
	Watch(ctx context.Context, prefix string, index uint64) (uint64, error)
	Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error
	Lead(ctx context.Context, name string, run func(ctx context.Context, fence ledger.Fence))
	Close() error
}

// The key prefixes of the store (BUDGETS.md, "Store layout in Consul").
const (
	holdPrefix    = "hold/"
	balancePrefix = "balance/"
	policyPrefix  = "policy/"
	statusPrefix  = "status/"
)

// holdKey names the one open hold of a job. The hash keeps any job id, slashes
// included, a plain key.
func holdKey(namespace, jobID string) string {
	sum := sha256.Sum256([]byte(namespace + "\x00" + jobID))
	return holdPrefix + hex.EncodeToString(sum[:16])
}

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
type books struct {
	store Store
	now   func() time.Time
	// turn has room for one: the changes of one agent queue up here. Nearly all of
	// them write the same root balance, so that side by side all but one would
	// lose their race and read everything again.
	turn chan struct{}
}

func newBooks(store Store, now func() time.Time) *books {
	return &books{store: store, now: now, turn: make(chan struct{}, 1)}
}

// heldAt is an open hold with the version of its document; a nil hold means
// that the job has none.
type heldAt struct {
	*ledger.Hold
	version uint64
}

// view is what a mutation sees: the documents that its target names, all of one
// consistent state.
type view struct {
	// hold of the job; its Hold is nil when there is none.
	hold heldAt
	// balances by budget path: those of the target's and of the hold's path, and of
	// all cohort members of either.
	balances map[string]ledger.Balance
	// queued is the job's place in the queue; nil when it does not wait.
	queued *ledger.Queued
	// run is the envelope that the target names; nil when there is none.
	run *ledger.Run
	// grants that count for the budgets on the path.
	grants []ledger.Grant
}

// change is what a mutation wants: the hold as it should be (nil ends it), what
// to post, and what becomes of the documents beside it. What follows from it the
// books derive themselves, in the same commit: Hold.Charged, Hold.Drawn and
// Hold.Outbox, the balances, and of the run of the hold Held, Posted, Jobs, Open
// and Charged.
type change struct {
	hold *ledger.Hold
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
	// run is the envelope as it should be, but for what the books derive; nil leaves
	// it. It may be a new one.
	run *ledger.Run
}

// Recorder keeps the history of usage: what was posted, line by line. It is told
// after the commit that posted the entries, and again whenever it is not certain
// that it was told: an entry with a Key that it has is nothing new.
type Recorder interface {
	Record(ctx context.Context, entries []ledger.Entry) error
}

// errNoChange tells update that nothing needs to be written.
var errNoChange = errors.New("no change")

// mutation decides what becomes of a hold. It may run several times and must not
// keep what it is given.
type mutation func(v view) (change, error)

// target is the hold to change and what is needed to do so.
type target struct {
	key string
	// budget is the path whose balances the mutation needs; "" for none beyond
	// those of the hold's own budget. With a budget it also sees the place of the job
	// in the queue.
	budget string
	// policy names the cohorts whose members' balances the mutation sees, and has it
	// see the grants on the path; nil for a mutation that decides nothing by them.
	policy *budget.Policy
	// run is the id of the envelope that the mutation needs; "" for none beyond the
	// hold's own.
	run      string
	calendar ledger.Calendar
}

// update changes the hold of one job. The hold and every balance it charges
// change in one commit.
func (b *books) update(ctx context.Context, fence ledger.Fence, t target, mutate mutation) error {
	for attempt := 0; ; attempt++ {
		err := b.tryUpdate(ctx, fence, t, mutate)
		switch {
		case errors.Is(err, errNoChange):
			return nil
		case !errors.Is(err, ledger.ErrConflict) || attempt == commitAttempts:
			return err
		}
		pause(ctx, time.Duration(rand.Int64N(int64(min(attempt+1, 10))*int64(5*time.Millisecond))))
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ledger.ErrUnavailable, ctx.Err())
		}
	}
}

// updateAll changes many holds in as few commits as possible: the i-th target by
// mutate(i, ...), each as update would do it. The result has one error for each
// target, nil where it is done or nothing had to be done. One that fails does not
// keep the others from being written. mutate is called from one goroutine at a
// time, and may run several times for the same i.
func (b *books) updateAll(ctx context.Context, fence ledger.Fence, targets []target, mutate func(i int, v view) (change, error)) []error {
	errs := make([]error, len(targets))
	for i, t := range targets {
		errs[i] = b.update(ctx, fence, t, func(v view) (change, error) { return mutate(i, v) })
	}
	return errs
}

func (b *books) tryUpdate(ctx context.Context, fence ledger.Fence, t target, mutate mutation) error {
	if err := b.begin(ctx); err != nil {
		return err
	}
	defer b.end()
	hold, err := b.readHold(ctx, t.key)
	if err != nil {
		return err
	}
	var paths []string
	if t.budget != "" {
		paths = ledger.Ancestors(t.budget)
	}
	if hold.Hold != nil {
		paths = append(paths, ledger.Ancestors(hold.Budget)...)
	}
	slices.Sort(paths)
	balances, versions, err := b.readBalances(ctx, slices.Compact(paths))
	if err != nil {
		return err
	}
	want, err := mutate(view{hold: hold, balances: balances})
	if err != nil {
		return err
	}
	writes, err := b.writes(t, hold, want, balances, versions)
	if err != nil {
		return err
	}
	return b.store.Commit(ctx, fence, writes)
}

// begin waits for this caller's turn.
func (b *books) begin(ctx context.Context) error {
	patience := time.NewTimer(turnWithin)
	defer patience.Stop()
	select {
	case b.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ledger.ErrUnavailable, ctx.Err())
	case <-patience.C:
		return fmt.Errorf("%w: %v passed before this change had its turn", ledger.ErrUnavailable, turnWithin)
	}
}

func (b *books) end() { <-b.turn }

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

// writes turns a change into the documents to write: the hold, and each balance
// with the old charge taken out, the new one put in, and the usage posted.
func (b *books) writes(t target, old heldAt, want change, balances map[string]ledger.Balance, versions map[string]uint64) ([]ledger.Write, error) {
	if old.Hold == nil && want.hold == nil {
		return nil, errNoChange
	}
	holdWrite, owner := ledger.Write{Key: t.key, Version: old.version}, ""
	if old.Hold != nil {
		owner = old.Budget
	}
	if want.hold != nil {
		want.hold.Charged = ledger.Charges(*want.hold, t.calendar)
		value, err := ledger.EncodeHold(*want.hold)
		if err != nil {
			return nil, fmt.Errorf("encode hold: %w", err)
		}
		holdWrite.Value, owner = value, want.hold.Budget
	}
	writes := []ledger.Write{holdWrite}
	for _, path := range touched(old.Hold, want.hold) {
		next := balances[path].Clone()
		if old.Hold != nil && slices.Contains(ledger.Ancestors(old.Budget), path) {
			next.Held.AddAll(old.Charged, -1)
		}
		if want.hold != nil && slices.Contains(ledger.Ancestors(want.hold.Budget), path) {
			next.Held.AddAll(want.hold.Charged, 1)
		}
		if slices.Contains(ledger.Ancestors(owner), path) {
			next.Posted.AddAll(want.posted, 1)
		}
		next.Prune(b.now(), keepPosted, t.calendar)
		value, err := next.Encode()
		if err != nil {
			return nil, fmt.Errorf("encode balance %s: %w", path, err)
		}
		writes = append(writes, ledger.Write{Key: balancePrefix + path, Value: value, Version: versions[path]})
	}
	return writes, nil
}

// touched is the sorted paths whose balances change.
func touched(old, next *ledger.Hold) []string {
	var paths []string
	for _, h := range []*ledger.Hold{old, next} {
		if h != nil {
			paths = append(paths, ledger.Ancestors(h.Budget)...)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// holds lists all open holds, by namespace and job id. A document that cannot
// be read is left out and reported in unreadable: it must not keep the others
// from being metered.
func (b *books) holds(ctx context.Context) (holds []heldAt, unreadable, err error) {
	records, _, err := b.store.List(ctx, holdPrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("list holds: %w", err)
	}
	for _, r := range records {
		h, err := decodeHold(r)
		if err != nil {
			unreadable = errors.Join(unreadable, err)
			continue
		}
		holds = append(holds, h)
	}
	slices.SortFunc(holds, func(a, b heldAt) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.JobID, b.JobID))
	})
	return holds, unreadable, nil
}
