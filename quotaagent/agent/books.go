package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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

// commitAttempts bounds how often a lost compare-and-set is tried again. Each
// conflict means that somebody else made progress.
const commitAttempts = 40

// keepPosted is how long a balance keeps the posted amounts of ended periods.
const keepPosted = 48 * time.Hour

// books reads and changes holds together with the balances they charge.
type books struct {
	store Store
	now   func() time.Time
}

// change is what a mutation wants: the hold as it should be (nil ends it) and
// what to post.
type change struct {
	hold   *ledger.Hold
	posted ledger.Vector
}

// errNoChange tells update that nothing needs to be written.
var errNoChange = errors.New("no change")

// update changes the hold of one job: mutate is given the open hold (nil if
// there is none) and the balances of the paths asked for, and may run several
// times. The hold and every balance it charges change in one commit.
func (b *books) update(ctx context.Context, fence ledger.Fence, key string, paths []string, cal func() ledger.Calendar,
	mutate func(h *ledger.Hold, books map[string]ledger.Balance) (change, error)) error {
	for attempt := 0; ; attempt++ {
		err := b.tryUpdate(ctx, fence, key, paths, cal, mutate)
		if !errors.Is(err, ledger.ErrConflict) || attempt == commitAttempts {
			if errors.Is(err, errNoChange) {
				return nil
			}
			return err
		}
		pause := time.Duration(rand.Int64N(int64(min(attempt+1, 10)) * int64(5*time.Millisecond)))
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ledger.ErrUnavailable, ctx.Err())
		case <-time.After(pause):
		}
	}
}

func (b *books) tryUpdate(ctx context.Context, fence ledger.Fence, key string, paths []string, cal func() ledger.Calendar,
	mutate func(h *ledger.Hold, books map[string]ledger.Balance) (change, error)) error {
	hold, record, err := b.readHold(ctx, key)
	if err != nil {
		return err
	}
	need := slices.Clone(paths)
	if hold != nil {
		need = append(need, ledger.Ancestors(hold.Budget)...)
	}
	slices.Sort(need)
	balances, versions, err := b.readBalances(ctx, slices.Compact(need))
	if err != nil {
		return err
	}
	want, err := mutate(hold, balances)
	if err != nil {
		return err
	}
	writes, err := b.writes(key, record, hold, want, balances, versions, cal())
	if err != nil {
		return err
	}
	return b.store.Commit(ctx, fence, writes)
}

func (b *books) readHold(ctx context.Context, key string) (*ledger.Hold, ledger.Record, error) {
	records, err := b.store.Read(ctx, key)
	if err != nil {
		return nil, ledger.Record{}, fmt.Errorf("read hold: %w", err)
	}
	if records[0].Version == 0 {
		return nil, records[0], nil
	}
	h, err := ledger.DecodeHold(records[0].Value)
	if err != nil {
		return nil, ledger.Record{}, fmt.Errorf("%s: %w", key, err)
	}
	return &h, records[0], nil
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

// writes turns a change into the documents to write: the hold, and each balance
// with the old charge taken out, the new one put in, and the usage posted.
func (b *books) writes(key string, record ledger.Record, old *ledger.Hold, want change,
	balances map[string]ledger.Balance, versions map[string]uint64, cal ledger.Calendar) ([]ledger.Write, error) {
	holdWrite := ledger.Write{Key: key, Version: record.Version}
	owner := ""
	if want.hold != nil {
		want.hold.Charged = ledger.Charges(*want.hold, cal)
		value, err := ledger.EncodeHold(*want.hold)
		if err != nil {
			return nil, fmt.Errorf("encode hold: %w", err)
		}
		holdWrite.Value, owner = value, want.hold.Budget
	}
	if old != nil && owner == "" {
		owner = old.Budget
	}
	if old == nil && want.hold == nil {
		return nil, errNoChange
	}
	writes := []ledger.Write{holdWrite}
	for _, path := range touched(old, want.hold) {
		next := balances[path].Clone()
		if old != nil && slices.Contains(ledger.Ancestors(old.Budget), path) {
			next.Held.AddAll(old.Charged, -1)
		}
		if want.hold != nil && slices.Contains(ledger.Ancestors(want.hold.Budget), path) {
			next.Held.AddAll(want.hold.Charged, 1)
		}
		if slices.Contains(ledger.Ancestors(owner), path) {
			next.Posted.AddAll(want.posted, 1)
		}
		next.Prune(b.now(), keepPosted)
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

// holds lists all open holds.
func (b *books) holds(ctx context.Context) ([]ledger.Hold, uint64, error) {
	records, index, err := b.store.List(ctx, holdPrefix)
	if err != nil {
		return nil, 0, fmt.Errorf("list holds: %w", err)
	}
	holds := make([]ledger.Hold, 0, len(records))
	for _, r := range records {
		h, err := ledger.DecodeHold(r.Value)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", r.Key, err)
		}
		holds = append(holds, h)
	}
	return holds, index, nil
}

// calendar is the policy's.
func calendar(p *budget.Policy) ledger.Calendar {
	return ledger.Calendar{Location: p.Location, Windows: p.Windows()}
}
