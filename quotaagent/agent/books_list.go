package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// listAfter is how long the list of holds is taken from memory at most, whatever the marks
// say: somebody may have mended a document by hand.
const listAfter = 30 * time.Second

// listedHold is a hold with the hash of what it was read from.
type listedHold struct {
	value [sha256.Size]byte
	held  heldAt
}

// listing is the open holds as they were listed last, with what this process has committed
// since. Every commit of every process writes that one's mark, so that the marks, which are
// few and small, tell whether others have committed anything: while they have not, the
// holds need not be listed, of which there may be thousands.
type listing struct {
	holds map[string]listedHold
	// at is when they were listed, marks the versions of all marks as they were before
	// that, and index the store's of the marks when they were looked at last.
	at    time.Time
	marks map[string]uint64
	index uint64
	// listed is the store's index of the holds: they are no older than that.
	listed uint64
	// whole says that holds has all that this process has committed since; own is the
	// version of its last commit.
	whole bool
	own   uint64
	// lists counts those under way, written is what was committed meanwhile, and lost how
	// many commits have ended so that it is not known what they wrote.
	lists   int
	written []writtenHold
	lost    int
}

// writtenHold is a hold as this process has committed it; a nil hold for one that ended.
type writtenHold struct {
	key string
	listedHold
}

func newListing() listing { return listing{holds: make(map[string]listedHold)} }

// current reports whether the marks, as of an index of the store, say that nobody else has
// committed anything since the holds were listed; before is what own was before they were
// read.
func (l *listing) current(marks map[string]uint64, index, before uint64, own string, now time.Time) bool {
	if age := now.Sub(l.at); !l.whole || age < 0 || age > listAfter || index < l.index {
		return false
	}
	others := func(all map[string]uint64) map[string]uint64 {
		rest := maps.Clone(all)
		delete(rest, own)
		return rest
	}
	mine := marks[own]
	// What this process has committed after the marks were read is in holds already.
	return maps.Equal(others(marks), others(l.marks)) && (mine == l.own || l.own > index && mine >= before)
}

// take puts a hold of this process where it belongs.
func (l *listing) take(w writtenHold) {
	if w.held.Hold == nil {
		delete(l.holds, w.key)
	} else {
		l.holds[w.key] = w.listedHold
	}
}

// holds lists all open holds, by namespace and job id. A document that cannot
// be read is left out and reported in unreadable: it must not keep the others
// from being metered. What has not changed since the last list is not decoded
// again.
func (b *books) holds(ctx context.Context) (holds []heldAt, unreadable, err error) {
	holds, _, unreadable, err = b.listHolds(ctx)
	return holds, unreadable, err
}

// holdsAnew is holds as the store lists them now, for what must not rest on memory.
func (b *books) holdsAnew(ctx context.Context) (holds []heldAt, unreadable, err error) {
	b.forgetList()
	return b.holds(ctx)
}

// listHolds is holds, and also returns the store's index of the list: what has a
// lower version is in it.
func (b *books) listHolds(ctx context.Context) (holds []heldAt, index uint64, unreadable, err error) {
	before := b.lastCommit()
	marks, index, err := b.marks(ctx)
	if err != nil {
		return nil, 0, nil, err
	}
	if holds := b.recallHolds(marks, index, before); holds != nil {
		return holds, index, nil, nil
	}
	lost := b.beginList()
	records, at, err := b.store.List(ctx, holdPrefix)
	if err != nil {
		b.endList(listing{}, 0, lost)
		return nil, 0, nil, fmt.Errorf("list holds: %w", err)
	}
	next := listing{holds: make(map[string]listedHold, len(records)), at: b.now(), marks: marks, index: index}
	holds = make([]heldAt, 0, len(records))
	for _, r := range records {
		l, known := b.listedAs(r.Key)
		value := sha256.Sum256(r.Value)
		if l.held.version = r.Version; !known || l.value != value {
			h, err := decodeHold(r)
			if err != nil {
				unreadable = errors.Join(unreadable, err)
				continue
			}
			l = listedHold{value, h}
		}
		next.holds[r.Key] = l
		holds = append(holds, l.held)
	}
	next.whole, next.listed = unreadable == nil, at
	b.endList(next, at, lost)
	slices.SortFunc(holds, byJob)
	return holds, at, unreadable, nil
}

// recallHolds are the open holds without a list, nil where that is not possible.
func (b *books) recallHolds(marks map[string]uint64, index, before uint64) []heldAt {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.doubt.Load() || !b.listing.current(marks, index, before, b.mark.key, b.now()) {
		return nil
	}
	b.listing.index = index
	holds := make([]heldAt, 0, len(b.listing.holds))
	for _, l := range b.listing.holds {
		holds = append(holds, l.held)
	}
	slices.SortFunc(holds, byJob)
	return holds
}

// marks are the versions of the marks of all processes, by key, and the store's index of
// them.
func (b *books) marks(ctx context.Context) (versions map[string]uint64, index uint64, err error) {
	records, index, err := b.store.List(ctx, commitPrefix)
	if err != nil {
		return nil, 0, fmt.Errorf("list the marks of commits: %w", err)
	}
	versions = make(map[string]uint64, len(records))
	for _, r := range records {
		versions[r.Key] = r.Version
	}
	return versions, index, nil
}

// lastCommit is the version of the last commit of this process that is known.
func (b *books) lastCommit() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.listing.own
}

// beginList says that the holds are being listed, and endList how that has ended: with what
// was listed at an index of the store, at 0 with nothing.
func (b *books) beginList() (lost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listing.lists++
	return b.listing.lost
}

func (b *books) endList(next listing, at uint64, lost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &b.listing
	l.lists--
	if at > 0 && next.index >= l.index {
		next.lists, next.lost, next.own, next.written = l.lists, l.lost, l.own, l.written
		next.whole = next.whole && lost == l.lost
		for _, w := range next.written {
			if w.held.version > at {
				next.take(w)
			}
		}
		*l = next
	}
	if l.lists == 0 {
		l.written = nil
	}
}

// forgetList has the next list read whatever the marks say.
func (b *books) forgetList() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listing.whole, b.listing.lost = false, b.listing.lost+1
}

func (b *books) listedAs(key string) (listedHold, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, known := b.listing.holds[key]
	return l, known
}

// noteWritten remembers listed holds as this process wrote them at a version, or that it is
// not known what it wrote.
func (b *books) noteWritten(writes []ledger.Write, holds map[string]any, version uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &b.listing
	unsure := func() {
		l.whole, l.lost = false, l.lost+1
		b.unsure()
	}
	if err != nil || version == 0 {
		unsure()
		return
	}
	for _, w := range writes {
		if w.Key == b.mark.key && w.Version != l.own { // a commit in between of which nobody heard
			unsure()
		}
	}
	l.own = version
	for _, w := range writes {
		value, written := holds[w.Key]
		if !written || !strings.HasPrefix(w.Key, holdPrefix) {
			continue
		}
		h, _ := value.(*ledger.Hold)
		one := writtenHold{w.Key, listedHold{sha256.Sum256(w.Value), heldAt{h, version}}}
		if version >= l.listed { // else others may have written it since, while its answer was lost
			l.take(one)
		}
		if l.lists > 0 {
			l.written = append(l.written, one)
		}
	}
}
