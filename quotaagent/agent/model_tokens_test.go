package agent

import (
	"fmt"
	"slices"

	"github.com/nomad-governor/governor/internal/quantity"
)

// askTokens is a request for tokens through an agent. One of which the answer is lost
// may be held: nobody settles it, and it is posted at what is held.
func (m *model) askTokens(a *modelAgent) {
	m.nextKey++
	namespace := []string{"nlp", "nlp", "vision", "serving"}[m.rng.IntN(4)]
	q := TokenRequest{Key: fmt.Sprint(m.nextKey), Budget: modelLeaf(namespace), Model: "m", InputTokens: quantity.Amount(m.rng.IntN(5000)),
		MaxOutputTokens: quantity.Amount(1 + m.rng.IntN(5000)), TTL: fmt.Sprintf("%ds", 1+m.rng.IntN(1200))}
	nested := a.store.admitting
	a.store.admitting = a.limits
	s, err := a.Engine.AuthorizeTokens(m.ctx, root, q)
	a.store.admitting = nested
	m.note("tokens of %s, %d and %d: %s %v", q.Budget, q.InputTokens, q.MaxOutputTokens, s.ID, err)
	if err == nil {
		m.asked = append(m.asked, s)
	}
}

// endTokens says through an agent what one of the requests used, or that it never ran.
func (m *model) endTokens(a *modelAgent) {
	if len(m.asked) == 0 {
		return
	}
	i := m.rng.IntN(len(m.asked))
	s := m.asked[i]
	var err error
	if m.rng.IntN(4) == 0 {
		_, err = a.Engine.VoidTokens(m.ctx, root, TokenVoid{s.ID})
	} else {
		_, err = a.Engine.SettleTokens(m.ctx, root, TokenUsage{ID: s.ID, Input: s.Held.Input / 2, Cached: s.Held.Input / 4, Output: s.Held.Output / 3})
	}
	m.note("tokens of %s end: %v", s.ID, err)
	if !isUnavailable(err) && !a.store.dead { // else it is said again
		m.asked = slices.Delete(m.asked, i, i+1)
	}
}

// sweepTokens has an agent do the leader's work on requests; a deposed one must not.
func (m *model) sweepTokens(a *modelAgent) {
	if err := a.Engine.sweepTokens(m.ctx, a.fence); err != nil {
		m.note("sweep of %s: %v", a.name, err)
	}
}
