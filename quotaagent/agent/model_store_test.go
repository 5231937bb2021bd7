package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// modelBacking is a real store.
type modelBacking interface {
	Store
	CommitVersion(ctx context.Context, fence ledger.Fence, writes []ledger.Write) (uint64, error)
}

// modelFaults are what goes wrong at the store calls of one step, each a number of
// calls from now; 0 for never.
type modelFaults struct {
	// die: the process dies at this call; with wrote its commit still counts.
	die   int
	wrote bool
	// lose: the answer of this call is lost; with arrived it was carried out.
	lose    int
	arrived bool
	// interleave: another agent acts before this call.
	interleave int
	other      func()
}

// modelStore is the store as one agent process sees it.
type modelStore struct {
	modelBacking
	model  *model
	agent  *modelAgent
	faults modelFaults
	dead   bool
	// admitting is the submission whose commit is on its way; nil for other commits.
	admitting *modelPolicy
}

// call is one call to the store: what goes wrong with it happens here. carriedOut
// says whether it reaches the store.
func (s *modelStore) call() (carriedOut bool, err error) {
	if s.dead {
		return false, errDied
	}
	f := &s.faults
	due := func(n *int) bool {
		*n--
		return *n == 0
	}
	if due(&f.interleave) {
		f.other()
	}
	if due(&f.die) {
		s.dead = true
		return f.wrote, errDied
	}
	if due(&f.lose) {
		return f.arrived, fmt.Errorf("%w: the answer is lost", ledger.ErrUnavailable)
	}
	if s.model.storeDown {
		return false, fmt.Errorf("%w: no quorum", ledger.ErrUnavailable)
	}
	return true, nil
}

// Read implements Store.
func (s *modelStore) Read(ctx context.Context, keys ...string) ([]ledger.Record, error) {
	if _, err := s.call(); err != nil {
		return nil, err
	}
	return s.modelBacking.Read(ctx, keys...)
}

// List implements Store.
func (s *modelStore) List(ctx context.Context, prefix string) ([]ledger.Record, uint64, error) {
	if _, err := s.call(); err != nil {
		return nil, 0, err
	}
	return s.modelBacking.List(ctx, prefix)
}

// Commit implements Store.
func (s *modelStore) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	_, err := s.CommitVersion(ctx, fence, writes)
	return err
}

// CommitVersion is Commit that tells the version. The model's own lock stands for
// the leader's session: what fences do is the contract of the stores.
func (s *modelStore) CommitVersion(ctx context.Context, fence ledger.Fence, writes []ledger.Write) (uint64, error) {
	carriedOut, lost := s.call()
	if !carriedOut {
		return 0, lost
	}
	if fence != (ledger.Fence{}) && fence != s.model.fence {
		return 0, errors.Join(fmt.Errorf("%w: not the leader", ledger.ErrConflict), lost)
	}
	before := s.model.balancesBefore(s, writes)
	version, err := s.modelBacking.CommitVersion(ctx, ledger.Fence{}, writes)
	if err == nil && s.admitting != nil {
		s.model.checkAdmission(s, before, writes)
	}
	for _, w := range writes {
		if strings.HasPrefix(w.Key, holdPrefix) && w.Value != nil {
			h, _ := ledger.DecodeHold(w.Value)
			s.model.note("WRITE %s %v %s posted %d out %v tracks %v", s.agent.name, err, h.ID, h.Posted.Total(), h.Outbox, h.Tracks)
		}
		if strings.HasPrefix(w.Key, settledPrefix) && w.Value != nil {
			h, _ := ledger.Decode[ledger.Remains](w.Value)
			s.model.note("REMAINS %s %v %s posted %d out %v tracks %v", s.agent.name, err, h.Hold.ID, h.Hold.Posted.Total(), h.Hold.Outbox, h.Hold.Tracks)
		}
	}
	if lost != nil {
		return 0, lost
	}
	return version, err
}

// balancesBefore are those that an admission is about to change.
func (m *model) balancesBefore(s *modelStore, writes []ledger.Write) map[string]ledger.Balance {
	if s.admitting == nil {
		return nil
	}
	before := map[string]ledger.Balance{}
	for _, w := range writes {
		if path, found := strings.CutPrefix(w.Key, balancePrefix); found && w.Value != nil {
			records, err := s.modelBacking.Read(m.ctx, w.Key)
			m.require(err == nil, "read: %v", err)
			b, err := ledger.DecodeBalance(records[0].Value)
			m.require(err == nil, "decode: %v", err)
			before[path] = b
		}
	}
	return before
}

// checkAdmission is I1: no admission makes what is posted and held exceed a limit.
func (m *model) checkAdmission(s *modelStore, before map[string]ledger.Balance, writes []ledger.Write) {
	for _, w := range writes {
		path, found := strings.CutPrefix(w.Key, balancePrefix)
		if !found || w.Value == nil {
			continue
		}
		after, err := ledger.DecodeBalance(w.Value)
		m.require(err == nil, "decode: %v", err)
		excess := s.admitting.excess(path, before[path], after, s.agent.now(), m.loc)
		m.require(excess == "", "I1: an admission by %s: %s", s.agent.name, excess)
		m.admissions++
	}
}
