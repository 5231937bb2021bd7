package agent

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

const (
	// glanceFor is how old a document may be that a decision without effect rests on.
	glanceFor = time.Second
	// glanceMost is how many such documents are kept at most. With those of one
	// budget's path and a job's own two, that is some hundred jobs in a second.
	glanceMost = 1024
)

// glances are documents as the store had them within the last second, for decisions
// that commit nothing: a plan, of which there may be a thousand in a second, then reads
// only what no other has read. What this process commits is known at once, and what
// others commit after glanceFor. It is safe for concurrent use.
type glances struct {
	mu   sync.Mutex
	docs map[string]memo
	// grants are all of them, as read at grantsAt; the zero time for never.
	grants   []grantAt
	grantsAt time.Time
	// commits counts those of this process: what was read beside one may be older.
	commits uint64
}

func newGlances() *glances { return &glances{docs: make(map[string]memo)} }

// glanced reports whether something that was read at a time may be used now.
func glanced(at, now time.Time) bool {
	age := now.Sub(at)
	return !at.IsZero() && age >= 0 && age < glanceFor
}

// recall puts on a sheet what is known of the keys, and of the grants, and returns the
// keys of which nothing is.
func (g *glances) recall(s *sheet, keys []string, now time.Time) (rest []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, key := range keys {
		if m, ok := g.docs[key]; ok && glanced(m.at, now) {
			s.docs[key] = m.document
		} else {
			rest = append(rest, key)
		}
	}
	if !s.grantsRead && glanced(g.grantsAt, now) {
		s.grants, s.grantsRead = g.grants, true
	}
	return rest
}

// recallGrants are the grants, if they were read within the last second.
func (g *glances) recallGrants(now time.Time) ([]grantAt, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.grants, glanced(g.grantsAt, now)
}

// begin is the mark that keep compares.
func (g *glances) begin() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.commits
}

// keep takes what a sheet has read at a time, unless this process has committed since.
func (g *glances) keep(s *sheet, keys []string, grants bool, mark uint64, at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if mark != g.commits {
		return
	}
	for _, key := range keys {
		if d := s.docs[key]; d.err == nil {
			d.fresh = false
			g.put(key, memo{d, at})
		}
	}
	if grants {
		g.grants, g.grantsAt = s.grants, at
	}
}

func (g *glances) put(key string, m memo) {
	if _, there := g.docs[key]; !there && len(g.docs) >= glanceMost {
		maps.DeleteFunc(g.docs, func(_ string, old memo) bool { return !glanced(old.at, m.at) })
		if len(g.docs) >= glanceMost {
			clear(g.docs)
		}
	}
	g.docs[key] = m
}

// wrote forgets what a commit has changed, or may have.
func (g *glances) wrote(writes []ledger.Write) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.commits++
	for _, w := range writes {
		if w.Check {
			continue
		}
		delete(g.docs, w.Key)
		if strings.HasPrefix(w.Key, overridePrefix) {
			g.grants, g.grantsAt = nil, time.Time{}
		}
	}
}

// learn takes what a commit has left in the store, and that it is so now.
func (g *glances) learn(next map[string]any, version uint64, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, value := range next {
		switch {
		case strings.HasPrefix(key, balancePrefix), strings.HasPrefix(key, holdPrefix), strings.HasPrefix(key, runPrefix), strings.HasPrefix(key, queuePrefix):
			d := document{version: version, value: value}
			if value == nil {
				d.version = 0
			}
			g.put(key, memo{d, now})
		}
	}
}

// glance is look for a decision that commits nothing: what is less than glanceFor old
// is not read again, and a novel job has no hold and no place in the queue. certain
// says that everything was read for this call, so that a refusal may rest on it.
func (b *books) glance(ctx context.Context, t target) (v view, certain bool, err error) {
	s := newSheet(b, nil)
	if certain = !t.novel; t.novel {
		s.docs[t.key], s.docs[queueKey(t.key)] = document{}, document{}
	}
	for {
		seen, missing, err := s.needs(t)
		if err != nil {
			return view{}, false, err
		}
		grants := t.policy != nil && !s.grantsRead
		if len(missing) == 0 && !grants {
			v, _ := s.view(t, seen)
			return v, certain, nil
		}
		rest := b.glances.recall(s, missing, b.now())
		if len(rest) < len(missing) || grants && s.grantsRead {
			certain = false
			continue // what was recalled may name more
		}
		mark, at := b.glances.begin(), b.now()
		if err := s.read(ctx, rest, grants); err != nil {
			return view{}, false, err
		}
		b.glances.keep(s, rest, grants, mark, at)
	}
}

// glanceGrants reads the grants ahead of who needs them, unless they were read within the
// last second.
func (b *books) glanceGrants(ctx context.Context) error {
	mark, at := b.glances.begin(), b.now()
	if _, known := b.glances.recallGrants(at); known {
		return nil
	}
	s := newSheet(b, nil)
	if err := s.readGrants(ctx); err != nil {
		return err
	}
	b.glances.keep(s, nil, true, mark, at)
	return nil
}

// commit writes documents that no change of a hold goes with.
func (b *books) commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	defer b.glances.wrote(writes)
	return b.store.Commit(ctx, fence, writes)
}
