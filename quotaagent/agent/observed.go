package agent

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/nomad-governor/governor/quotaagent/api"
)

// Observed is what the leader alone knows, as it alone reads Nomad's allocations and the
// GPUs' statistics. The other agents ask it.
type Observed struct {
	Ungoverned []StrayStatus    `json:"ungoverned"`
	Idle       []IdleStatus     `json:"idle"`
	Rogue      []RogueStatus    `json:"rogue"`
	Capacity   []CapacityStatus `json:"capacity"`
	// Placement is where allocations got other GPUs than they were offered, or the same.
	Placement []Verification `json:"placement"`
	// Utilization is that of GPUs in percent that was read lately, by their ids.
	Utilization map[string]int64 `json:"utilization"`
}

const (
	// observedPath is where the leader tells what it has observed, in at most observedMax
	// bytes.
	observedPath = "/governor/v1/observed"
	observedMax  = 32 << 20
	// observedFor is how old may be what another agent tells of that: the leader itself
	// reads statistics less often. A leader that did not answer is asked again after
	// silentFor: who asks it meanwhile would wait.
	observedFor = 2 * time.Second
	silentFor   = 10 * time.Second
)

// observer asks the leader, for an agent that does not lead.
type observer struct {
	mu   sync.Mutex
	next time.Time // when it is asked again
	said *Observed // nil while it does not answer
}

// serveObserved answers what this agent has observed itself: nothing unless it leads.
func (a *Agent) serveObserved(ctx context.Context, c api.Call) (any, error) {
	s, err := a.clearanceOf(c)
	if err != nil {
		return nil, err
	}
	holds, _, err := a.Engine.books.holds(ctx) // a status says which cannot be read
	if err != nil {
		return nil, err
	}
	var status Status
	a.Meter.addObserved(&status, holds)
	status = s.status(status)
	placed := keep(s, a.Meter.verifications(), func(v *Verification) string { return v.Namespace })
	return Observed{Placement: placed, Ungoverned: status.Ungoverned, Idle: status.Idle, Rogue: status.Rogue, Capacity: status.Capacity, Utilization: a.Meter.used()}, nil
}

// observed is what the leader has observed, if that is another agent and it answers.
func (a *Agent) observed(ctx context.Context) (Observed, bool) {
	if a.peers == nil || a.Meter.Leading() {
		return Observed{}, false
	}
	o := &a.observer
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := a.now(); !now.Before(o.next) || o.next.Sub(now) > silentFor {
		// Others get the answer too, also when who asked is gone.
		o.said, o.next = a.askLeader(context.WithoutCancel(ctx)), now.Add(silentFor)
		if o.said != nil {
			o.next = now.Add(observedFor)
		}
	}
	if o.said == nil {
		return Observed{}, false
	}
	return *o.said, true
}

func (a *Agent) askLeader(ctx context.Context) *Observed {
	leader, err := a.store.Leader(ctx)
	if err != nil {
		a.logger.Debug("leader not looked up", "error", err)
		return nil
	}
	whom, _ := a.peers.others(false)
	for _, other := range whom {
		if other.Name != leader {
			continue
		}
		answers := askOthers[Observed](ctx, a.peers, []replica{other}, observedPath, nil, observedMax)
		if answers[0].err != nil {
			a.logger.Debug("leader not asked", "agent", leader, "error", answers[0].err)
			return nil
		}
		return &answers[0].said
	}
	return nil
}

// add puts what the leader has observed into the status of another agent.
func (o Observed) add(s *Status) {
	s.Observed, s.Ungoverned, s.Idle, s.Rogue, s.Capacity = true, o.Ungoverned, o.Idle, o.Rogue, o.Capacity
	placed := placedBy(o.Placement)
	for i := range s.Holds {
		s.Holds[i].Placement = placed[holdKey(s.Holds[i].Namespace, s.Holds[i].JobID)]
	}
}

// verified is what became of the offers to one job.
func (a *Agent) verified(ctx context.Context, namespace, jobID string) []Verification {
	if said, ok := a.observed(ctx); ok {
		return placedBy(said.Placement)[holdKey(namespace, jobID)]
	}
	return a.Meter.Verified(namespace, jobID)
}

// Utilization is the utilisation of GPUs in percent that was read lately, by their ids.
func (a *Agent) Utilization(ctx context.Context) map[string]int64 {
	if said, ok := a.observed(ctx); ok {
		return maps.Clone(said.Utilization)
	}
	return a.Meter.used()
}
