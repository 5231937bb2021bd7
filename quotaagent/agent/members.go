package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/api"
)

// AgentState says whether an agent answers.
type AgentState string

// The states of agents.
const (
	// AgentAlive answered when it was asked.
	AgentAlive AgentState = "alive"
	// AgentFailed is written in the ledger and did not answer.
	AgentFailed AgentState = "failed"
	// AgentUnknown has the leader's lock and has not said where it can be asked.
	AgentUnknown AgentState = "unknown"
)

// AgentInfo is one agent of an installation.
type AgentInfo struct {
	Name string `json:"name"`
	// Address is the URL at which the other agents reach it; "" of one that they do not.
	Address string `json:"address"`
	// Version is that of its build; "" where it is not known.
	Version string     `json:"version"`
	State   AgentState `json:"state"`
	// Error is why it did not answer.
	Error string `json:"error,omitempty"`
	// Self marks the agent that answers.
	Self bool `json:"self,omitempty"`
	// Leader says that it leads, LeadsSince since when; nil where it does not.
	Leader     bool       `json:"leader"`
	LeadsSince *time.Time `json:"leads_since,omitempty"`
	// Started is when its process began; nil where it is not known.
	Started *time.Time `json:"started,omitempty"`
	// Heard is when it has written into the ledger last that it is there; nil of one that
	// does not.
	Heard *time.Time `json:"heard,omitempty"`
	// History is how far its history has everything; nil of one that keeps none.
	History *HistoryMark `json:"history,omitempty"`
}

// HistoryMark is how far the history of an agent has what all agents recorded.
type HistoryMark struct {
	// CompleteTo is until when it has everything, LagMS how long ago that is.
	CompleteTo time.Time `json:"complete_to"`
	LagMS      int64     `json:"lag_ms"`
	// Missing says in sentences what may be missing.
	Missing []string `json:"missing"`
}

// AgentsView is all agents of an installation, as one of them knows them.
type AgentsView struct {
	Time time.Time `json:"time"`
	// Leader is the name in the leader's lock, "" while nobody leads.
	Leader string      `json:"leader"`
	Agents []AgentInfo `json:"agents"`
	// Outbox is how many entries the ledger keeps that the history of this agent does not
	// have yet; nil where that is not known.
	Outbox *int `json:"outbox,omitempty"`
	// Notes are sentences about what is not known.
	Notes []string `json:"notes"`
}

// selfPath is where an agent tells about itself.
const selfPath = "/governor/v1/agents/self"

func (a *Agent) serveAgents(ctx context.Context, _ api.Call) (any, error) { return a.agents(ctx) }

func (a *Agent) serveSelf(context.Context, api.Call) (any, error) { return a.self(), nil }

// self is this agent.
func (a *Agent) self() AgentInfo {
	started := a.started.UTC()
	out := AgentInfo{Name: a.name, Version: a.version, State: AgentAlive, Started: &started}
	if since := a.leadership.leadsSince().UTC(); !since.IsZero() {
		out.Leader, out.LeadsSince = true, &since
	}
	if a.history == nil {
		return out
	}
	out.Address = a.peers.options.Address
	now := a.now()
	to, missing := a.peers.complete(now)
	if since, cause := a.history.trouble(); !since.IsZero() {
		missing = append(missing, fmt.Sprintf("this agent cannot record since %s: %v", since.UTC().Format(time.RFC3339), cause))
		if since.Before(to) {
			to = since
		}
	}
	out.History = &HistoryMark{CompleteTo: to.UTC(), LagMS: now.Sub(to).Milliseconds(), Missing: missing}
	if at := a.peers.announcedAt(); !at.IsZero() {
		out.Heard = &at
	}
	return out
}

// agents asks all agents that the ledger knows about themselves.
func (a *Agent) agents(ctx context.Context) (AgentsView, error) {
	leader, err := a.store.Leader(ctx)
	if err != nil {
		return AgentsView{}, err
	}
	self := a.self()
	self.Self = true
	out := AgentsView{Time: a.now().UTC(), Leader: leader, Agents: []AgentInfo{self}, Notes: []string{}}
	if a.peers == nil {
		out.Notes = append(out.Notes, "this agent keeps no history and so knows no other agents: set data_dir in its configuration")
	} else {
		out.Agents = append(out.Agents, a.peers.askAll(ctx)...)
		if text := a.peers.trouble(); text != "" {
			out.Notes = append(out.Notes, text)
		}
		waiting, err := a.waiting(ctx, a.history)
		if err != nil {
			return AgentsView{}, err
		}
		n := len(waiting)
		out.Outbox = &n
	}
	out.markLeader()
	slices.SortStableFunc(out.Agents, func(x, y AgentInfo) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Address, y.Address))
	})
	return out, nil
}

// markLeader marks who has the lock and does not say so itself: an agent that does not
// answer, or one that the ledger does not know.
func (v *AgentsView) markLeader() {
	if v.Leader == "" || slices.ContainsFunc(v.Agents, func(one AgentInfo) bool { return one.Leader }) {
		return
	}
	for i := range v.Agents {
		if v.Agents[i].Name == v.Leader && !v.Agents[i].Self {
			v.Agents[i].Leader = true
			return
		}
	}
	if !slices.ContainsFunc(v.Agents, func(one AgentInfo) bool { return one.Name == v.Leader }) {
		v.Agents = append(v.Agents, AgentInfo{Name: v.Leader, State: AgentUnknown, Leader: true})
	}
}

// announcedAt is when the record of this agent was written last; a zero time for never.
func (p *peers) announcedAt() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.UTC()
}

// trouble is a sentence about why the others may not be known, "" if they are.
func (p *peers) trouble() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.unlisted != nil:
		return "the ledger did not say lately which other agents there are: some may be missing here"
	case p.clash != "":
		return fmt.Sprintf("agent %s says to be at %s, the address of this one, and is not listed: set advertise on both", p.clash, p.options.Address)
	}
	return ""
}

// askAll asks the other agents about themselves.
func (p *peers) askAll(ctx context.Context) []AgentInfo {
	whom, _ := p.others(true)
	out := make([]AgentInfo, 0, len(whom))
	for _, a := range askOthers[AgentInfo](ctx, p, whom, selfPath, nil, memberMax) {
		heard := time.UnixMilli(a.AtMS).UTC()
		if a.err != nil {
			out = append(out, AgentInfo{Name: a.Name, Address: a.Address, Version: a.Version, State: AgentFailed, Error: a.err.Error(), Heard: &heard})
			continue
		}
		info := a.said
		info.Name, info.Address, info.State, info.Self, info.Heard = a.Name, a.Address, AgentAlive, false, &heard
		out = append(out, info)
	}
	return out
}
