package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
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
	// Version is that of its build; "" of builds before it was said.
	Version string `json:"version,omitempty"`
}

// peer is another agent as this one knows it.
type peer struct {
	replica
	// reached is when it was asked last for everything and has answered.
	reached time.Time
	// lost says that it does not answer, so that this is logged once.
	lost bool
}

// peers exchanges history with the other agents.
type peers struct {
	store   Store
	history *history.Store
	options Peers
	// self is what this agent says of itself, but where and when.
	self   replica
	now    func() time.Time
	logger hclog.Logger
	// turn is held by who asks the others; what follows belongs to it. announced is
	// when the record of this agent was written last, key which it is.
	turn      sync.Mutex
	announced time.Time
	key       string

	mu    sync.Mutex
	known map[string]*peer // by key
	// said is announced, for who asks from outside.
	said time.Time
	// unlisted is why the others are not known; nil if they are. clash is another agent
	// that says to be at the address of this one, "" for none.
	unlisted error
	clash    string
}

func newPeers(store Store, h *history.Store, options Peers, self replica, now func() time.Time, logger hclog.Logger) *peers {
	if options.Client == nil {
		options.Client = http.DefaultClient
	}
	return &peers{store: store, history: h, options: options, self: self, now: now, logger: logger.Named("history"), known: make(map[string]*peer)}
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

// round announces this agent and asks each of the others once; nothing if that is
// being done already.
func (p *peers) round(ctx context.Context) {
	if !p.turn.TryLock() {
		return
	}
	defer p.turn.Unlock()
	err := p.announce(ctx)
	if err == nil {
		err = p.list(ctx)
	}
	p.mu.Lock()
	if err != nil && p.unlisted == nil && ctx.Err() == nil {
		p.logger.Warn("other agents not looked up", "error", err)
	}
	p.unlisted = err
	addresses := make(map[string]string, len(p.known))
	for key, other := range p.known {
		addresses[key] = other.Address
	}
	p.mu.Unlock()
	for _, key := range sortedKeys(addresses) {
		if ctx.Err() != nil {
			return
		}
		began := p.now()
		p.note(ctx, key, began, p.fetch(ctx, addresses[key]))
	}
}

func (p *peers) note(ctx context.Context, key string, began time.Time, err error) {
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	other := p.known[key]
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

// replicaKey names an agent by its name and its file: one with a new disk is
// another one, and so is one that began with a copy of another's file.
func replicaKey(name, file string) string {
	sum := sha256.Sum256([]byte(name + "\x00" + file))
	return replicaPrefix + hex.EncodeToString(sum[:8])
}

// announce writes the record of this agent, once in a while.
func (p *peers) announce(ctx context.Context) error {
	if p.key == "" {
		file, err := p.history.File(ctx)
		if err != nil {
			return err
		}
		p.key = replicaKey(p.self.Name, file)
	}
	now := p.now()
	if now.Sub(p.announced) < announceEvery {
		return nil
	}
	records, err := p.store.Read(ctx, p.key)
	if err != nil {
		return fmt.Errorf("read %s: %w", p.key, err)
	}
	value, err := json.Marshal(replica{p.self.Name, p.options.Address, now.UnixMilli(), p.self.Version})
	if err != nil {
		return fmt.Errorf("encode %s: %w", p.key, err)
	}
	if err := p.store.Commit(ctx, ledger.Fence{}, []ledger.Write{{Key: p.key, Value: value, Version: records[0].Version}}); err != nil {
		return fmt.Errorf("write %s: %w", p.key, err)
	}
	p.announced = now
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = now
	return nil
}

// list reads who else is there, and removes who is gone.
func (p *peers) list(ctx context.Context) error {
	records, _, err := p.store.List(ctx, replicaPrefix)
	if err != nil {
		return fmt.Errorf("list agents: %w", err)
	}
	found := make(map[string]replica)
	at := make(map[string]string) // whose the latest record of an address is
	now, clash := p.now().UnixMilli(), ""
	for _, r := range records {
		var other replica
		if err := json.Unmarshal(r.Value, &other); err != nil {
			return fmt.Errorf("%s: %w", r.Key, err)
		}
		age := now - other.AtMS
		if other.Address == p.options.Address && other.Name != p.self.Name && age <= awayAfter.Milliseconds() {
			clash = other.Name
		}
		switch {
		case r.Key == p.key || other.Address == p.options.Address: // itself, now or with an earlier disk
		case age > goneAfter.Milliseconds():
			err := p.store.Commit(ctx, ledger.Fence{}, []ledger.Write{{Key: r.Key, Version: r.Version}})
			if err != nil && !errors.Is(err, ledger.ErrConflict) {
				return fmt.Errorf("remove %s: %w", r.Key, err)
			}
		case age <= awayAfter.Milliseconds() && found[at[other.Address]].AtMS <= other.AtMS:
			delete(found, at[other.Address])
			found[r.Key], at[other.Address] = other, r.Key
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if clash != p.clash && clash != "" {
		p.logger.Error("another agent has the same address, so that they cannot exchange their history: set advertise", "agent", clash, "address", p.options.Address)
	}
	p.clash = clash
	maps.DeleteFunc(p.known, func(key string, _ *peer) bool { _, there := found[key]; return !there })
	for key, other := range found {
		if p.known[key] == nil {
			p.known[key] = &peer{}
		}
		p.known[key].replica = other
	}
	return nil
}

// fetch takes in all that another agent has and this one lacks.
func (p *peers) fetch(ctx context.Context, address string) error {
	heads, err := p.history.Heads(ctx)
	if err != nil {
		return err
	}
	for before := (history.Page{}); ; {
		page, err := p.ask(ctx, address, heads)
		if err != nil {
			return err
		}
		maps.Copy(heads, page.Heads)
		page = page.Join(before)
		before = page
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
	if p.clash != "" {
		missing = append(missing, fmt.Sprintf("agent %s says to be at %s, the address of this one: set advertise on both; what it recorded may be missing", p.clash, p.options.Address))
	}
	for _, key := range sortedKeys(p.known) {
		other := p.known[key]
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
