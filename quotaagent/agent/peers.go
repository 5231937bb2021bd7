package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/history"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// Each agent keeps the history of what it has committed itself, and gets from the
// others what they have: so any agent can answer for all, and one that lost its disk
// gets everything anew. Agents find each other in the store.

// replicaPrefix is where agents say at which address they answer each other.
const replicaPrefix = "replica/"

const (
	// exchangeEvery is how often an agent asks the others for what it lacks.
	exchangeEvery = 5 * time.Second
	// announceEvery is how often an agent says that it is there, awayAfter when one
	// that does not counts as gone, and goneAfter when its record is removed.
	announceEvery = time.Minute
	awayAfter     = 24 * time.Hour
	goneAfter     = 7 * 24 * time.Hour
	// pageSize is how many entries are asked for at once, about a megabyte; peerWithin
	// bounds one question.
	pageSize   = 2000
	peerWithin = 20 * time.Second
	// freshWithin is how old the last answer of another agent may be before a
	// statement says that it may miss something.
	freshWithin = 6 * exchangeEvery
)

// Peers says how agents reach each other.
type Peers struct {
	// Address is the URL at which the others reach this agent; "" for an agent that is
	// alone, or does not take part.
	Address string
	// Token is the Nomad token with which the others are asked.
	Token string
	// Client asks; nil means http.DefaultClient.
	Client *http.Client
}

// replica is what an agent says of itself in the store.
type replica struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	AtMS    int64  `json:"at_ms"`
}

// peer is another agent as this one knows it.
type peer struct {
	replica
	// reached is when it was asked last for everything and has answered; since is when
	// it was first heard of.
	reached, since time.Time
	// lost says that it does not answer, so that this is logged once.
	lost bool
}

// peers exchanges history with the other agents.
type peers struct {
	store   Store
	history *history.Store
	options Peers
	name    string
	now     func() time.Time
	logger  hclog.Logger
	// announced is when the record of this agent was written last.
	announced time.Time
	file      string

	mu    sync.Mutex
	known map[string]*peer // by file
	// unlisted is why the others are not known; nil if they are.
	unlisted error
}

func newPeers(store Store, h *history.Store, options Peers, name string, now func() time.Time, logger hclog.Logger) *peers {
	if options.Client == nil {
		options.Client = http.DefaultClient
	}
	return &peers{store: store, history: h, options: options, name: name, now: now, logger: logger.Named("history"), known: make(map[string]*peer)}
}

// run exchanges history until ctx ends.
func (p *peers) run(ctx context.Context) {
	if p.options.Address == "" {
		return
	}
	for ctx.Err() == nil {
		p.round(ctx)
		pause(ctx, exchangeEvery)
	}
}

// round announces this agent and asks each of the others once.
func (p *peers) round(ctx context.Context) {
	err := p.announce(ctx)
	if err == nil {
		err = p.list(ctx)
	}
	p.mu.Lock()
	if err != nil && p.unlisted == nil && ctx.Err() == nil {
		p.logger.Warn("other agents not looked up", "error", err)
	}
	p.unlisted = err
	files := slices.Sorted(maps.Keys(p.known))
	p.mu.Unlock()
	for _, file := range files {
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		address := p.known[file].Address
		p.mu.Unlock()
		began := p.now()
		p.note(ctx, file, began, p.fetch(ctx, address))
	}
}

func (p *peers) note(ctx context.Context, file string, began time.Time, err error) {
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	other := p.known[file]
	if other == nil {
		return
	}
	if err == nil {
		if other.lost {
			p.logger.Info("history is exchanged again", "agent", other.Name, "address", other.Address)
		}
		other.reached, other.lost = began, false
		return
	}
	if !other.lost {
		p.logger.Warn("no history from another agent", "agent", other.Name, "address", other.Address, "error", err)
	}
	other.lost = true
}

// announce writes the record of this agent, once in a while.
func (p *peers) announce(ctx context.Context) (err error) {
	if p.file == "" {
		if p.file, err = p.history.File(ctx); err != nil {
			return err
		}
	}
	now := p.now()
	if now.Sub(p.announced) < announceEvery {
		return nil
	}
	key := replicaPrefix + p.file
	records, err := p.store.Read(ctx, key)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	value, err := json.Marshal(replica{p.name, p.options.Address, now.UnixMilli()})
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	if err := p.store.Commit(ctx, ledger.Fence{}, []ledger.Write{{Key: key, Value: value, Version: records[0].Version}}); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	p.announced = now
	return nil
}

// list reads who else is there, and removes who is gone.
func (p *peers) list(ctx context.Context) error {
	records, _, err := p.store.List(ctx, replicaPrefix)
	if err != nil {
		return fmt.Errorf("list agents: %w", err)
	}
	found := make(map[string]replica)
	now := p.now().UnixMilli()
	for _, r := range records {
		file := strings.TrimPrefix(r.Key, replicaPrefix)
		var other replica
		if err := json.Unmarshal(r.Value, &other); err != nil {
			return fmt.Errorf("%s: %w", r.Key, err)
		}
		switch age := now - other.AtMS; {
		case file == p.file:
		case age > goneAfter.Milliseconds():
			err := p.store.Commit(ctx, ledger.Fence{}, []ledger.Write{{Key: r.Key, Version: r.Version}})
			if err != nil && !errors.Is(err, ledger.ErrConflict) {
				return fmt.Errorf("remove %s: %w", r.Key, err)
			}
		case age <= awayAfter.Milliseconds():
			found[file] = other
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.known, func(file string, _ *peer) bool { _, there := found[file]; return !there })
	for file, other := range found {
		if p.known[file] == nil {
			p.known[file] = &peer{since: p.now()}
		}
		p.known[file].replica = other
	}
	return nil
}

// fetch takes in all that another agent has and this one lacks.
func (p *peers) fetch(ctx context.Context, address string) error {
	for {
		heads, err := p.history.Heads(ctx)
		if err != nil {
			return err
		}
		page, err := p.ask(ctx, address, heads)
		if err != nil {
			return err
		}
		err = p.history.Absorb(ctx, page)
		var conflict *history.ConflictError
		if errors.As(err, &conflict) {
			p.logger.Error("another agent has other entries with these keys", "address", address, "error", err)
		} else if err != nil {
			return err
		}
		if !page.More {
			return nil
		}
	}
}

// answerMax bounds the answer of another agent, in bytes.
const answerMax = 64 << 20

// LogRequest asks for what follows these heads.
type LogRequest struct {
	Heads history.Heads `json:"heads"`
	Limit int           `json:"limit"`
}

func (p *peers) ask(ctx context.Context, address string, heads history.Heads) (history.Page, error) {
	var page history.Page
	ctx, cancel := context.WithTimeout(ctx, peerWithin)
	defer cancel()
	body, err := json.Marshal(LogRequest{heads, pageSize})
	if err != nil {
		return page, fmt.Errorf("encode the question for history: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(address, "/")+"/governor/v1/history/log", bytes.NewReader(body))
	if err != nil {
		return page, fmt.Errorf("address %q: %w", address, err)
	}
	if p.options.Token != "" {
		req.Header.Set("X-Nomad-Token", p.options.Token)
	}
	resp, err := p.options.Client.Do(req)
	if err != nil {
		return page, fmt.Errorf("ask for history: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
	if err != nil {
		return page, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return page, fmt.Errorf("it answers %s: %.200s", resp.Status, answer)
	}
	if err := json.Unmarshal(answer, &page); err != nil {
		return page, fmt.Errorf("decode the answer: %w", err)
	}
	return page, nil
}

// complete is until when this agent has the history of all others, and sentences
// about what may be missing.
func (p *peers) complete(now time.Time) (time.Time, []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	to, missing := now, []string{}
	if p.unlisted != nil {
		missing = append(missing, "the ledger does not say which other agents there are: what they recorded may be missing")
	}
	for _, file := range slices.Sorted(maps.Keys(p.known)) {
		other := p.known[file]
		at := other.reached
		if at.IsZero() {
			at = time.UnixMilli(0)
		}
		if at.Before(to) {
			to = at
		}
		if now.Sub(at) > freshWithin {
			text := "has not answered yet"
			if !other.reached.IsZero() {
				text = "has not answered since " + other.reached.UTC().Format(time.RFC3339)
			}
			missing = append(missing, fmt.Sprintf("agent %s at %s %s: what it recorded since may be missing", other.Name, other.Address, text))
		}
	}
	return to, missing
}
