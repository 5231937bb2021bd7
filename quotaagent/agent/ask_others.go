package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// othersWithin bounds how long the other agents are waited for, membersAtOnce how many
	// are asked at the same time.
	othersWithin  = 3 * time.Second
	membersAtOnce = 16
	// memberMax bounds what one says of itself, in bytes.
	memberMax = 1 << 20
)

// reply is what another agent says.
type reply[T any] struct {
	replica
	said T
	err  error
}

// others are the other agents, in the order of their keys. Those that did not answer when
// the history was exchanged last are among them only with all: they would be waited for.
func (p *peers) others(all bool) (there []replica, lost []replica) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range sortedKeys(p.known) {
		if other := p.known[key]; all || !other.lost {
			there = append(there, other.replica)
		} else {
			lost = append(lost, other.replica)
		}
	}
	return there, lost
}

// askOthers asks agents for the same path, at the same time: with a caller's headers, or
// with this agent's token for nil. Each is waited for for at most othersWithin.
func askOthers[T any](ctx context.Context, p *peers, whom []replica, path string, as http.Header, most int64) []reply[T] {
	out := make([]reply[T], len(whom))
	turns := make(chan struct{}, membersAtOnce)
	var asking sync.WaitGroup
	for i, other := range whom {
		turns <- struct{}{}
		asking.Go(func() {
			defer func() { <-turns }()
			out[i].replica = other
			out[i].err = p.read(ctx, other.Address, path, as, most, &out[i].said)
		})
	}
	asking.Wait()
	return out
}

// callerHeaders are the headers by which somebody is known to an agent.
func callerHeaders() []string { return []string{"X-Nomad-Token", "Authorization"} }

// read reads one path of another agent as JSON.
func (p *peers) read(ctx context.Context, address, path string, as http.Header, most int64, into any) error {
	ctx, cancel := context.WithTimeout(ctx, othersWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(address, "/")+path, nil)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	if as == nil && p.options.Token != "" {
		req.Header.Set("X-Nomad-Token", p.options.Token)
	}
	for _, name := range callerHeaders() {
		if values := as.Values(name); len(values) > 0 {
			req.Header[name] = values
		}
	}
	resp, err := p.options.Client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return &statusError{status: resp.StatusCode, text: fmt.Sprintf("it answers %s: %.200s", resp.Status, body)}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("decode the answer: %w", err)
	}
	return nil
}

// statusError is an answer of another agent that is not 200.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }
