package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

const (
	// handoverWithin bounds the wait for another agent to lead: the lock is free at once,
	// or when the session of the lock ends.
	handoverWithin = 25 * time.Second
	// handoverLook is how often the lock is looked at meanwhile.
	handoverLook = 100 * time.Millisecond
)

// StepDownRequest asks the leader to give the lead up.
type StepDownRequest struct {
	// Force does so although no other agent is known that could lead.
	Force bool `json:"force,omitempty"`
}

// Handover says who led and who leads.
type Handover struct {
	// From is the name of the agent that gave the lead up.
	From string `json:"from"`
	// To is the name of the agent that leads now; "" when none has led within the wait.
	To string `json:"to"`
	// TookMS is how long that took, in milliseconds.
	TookMS int64 `json:"took_ms"`
}

// mustManage refuses whoever may not manage; what is the thing that was asked for.
func mustManage(c api.Call, what string) error {
	if manages(c.Caller.Names) {
		return nil
	}
	return refusal(http.StatusForbidden, "%s needs a Nomad management token", what)
}

// serveStepDown gives the lead up. It is recorded first: what is not recorded is not done.
func (a *Agent) serveStepDown(ctx context.Context, c api.Call) (any, error) {
	if err := mustManage(c, "to change the leader"); err != nil {
		return nil, err
	}
	r, err := api.Decode[StepDownRequest](c)
	if err != nil {
		return nil, err
	}
	// Whoever asks may go away: what was begun is brought to its end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoverWithin)
	defer cancel()
	view, err := a.agents(ctx)
	if err != nil {
		return nil, err
	}
	if err := mayStepDown(view, a.name, r.Force); err != nil {
		return nil, err
	}
	event := AuditEvent{At: a.now(), Kind: "leader.stepped_down", Actor: c.Caller.Accessor, Names: c.Caller.Names, Subject: a.name,
		Text: fmt.Sprintf("agent %s was told to give the lead up", a.name)}
	if err := a.chain.commit(ctx, ledger.Fence{}, nil, event); err != nil {
		return nil, err
	}
	began := time.Now()
	released, leads := a.leadership.stepDown()
	if !leads {
		return nil, refusal(http.StatusConflict, "agent %s does not lead any more: look who does with `governor operator agents`", a.name)
	}
	a.logger.Info("stepping down, another agent may lead", "actor", c.Caller.Accessor)
	select {
	case <-released:
	case <-ctx.Done():
	}
	h := Handover{From: a.name, To: a.awaitLeader(ctx)}
	h.TookMS = time.Since(began).Milliseconds()
	return h, nil
}

// mayStepDown refuses an agent that does not lead, and one that leads alone unless it is
// forced.
func mayStepDown(v AgentsView, name string, force bool) error {
	var self, leader *AgentInfo
	others := 0
	for i := range v.Agents {
		one := &v.Agents[i]
		switch {
		case one.Self:
			self = one
		case one.State == AgentAlive:
			others++
		}
		if one.Leader {
			leader = one
		}
	}
	switch {
	case self != nil && !self.Leader && leader == nil:
		return refusal(http.StatusConflict, "agent %s does not lead, and nobody does now: an agent leads within half a minute; look with `governor operator agents`", name)
	case self != nil && !self.Leader:
		return refusal(http.StatusConflict, "agent %s does not lead, agent %s does: ask that one, with -address=%s", name, leader.Name, cmp.Or(leader.Address, "<its address>"))
	case others == 0 && !force:
		return refusal(http.StatusConflict, "agent %s leads, and no other agent is known that could: start another one first. Agents that keep no history are not known to the others: with -force it is done all the same, and the agent leads again after %v if nobody else does", name, standAside)
	}
	return nil
}

// awaitLeader is the name of who leads next; "" when nobody does before ctx ends.
func (a *Agent) awaitLeader(ctx context.Context) string {
	for ctx.Err() == nil {
		name, err := a.store.Leader(ctx)
		if err != nil && ctx.Err() == nil {
			a.logger.Warn("leader not looked up", "error", err)
		}
		if err == nil && name != "" {
			return name
		}
		pause(ctx, handoverLook)
	}
	return ""
}
