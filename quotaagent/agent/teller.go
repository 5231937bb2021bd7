package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/notice"
	"github.com/nomad-governor/governor/quotaagent/webhook"
)

// courierRests is how long a courier waits at most before it looks at its outbox again.
const courierRests = 10 * time.Second

// poster makes one attempt to deliver; *webhook.Sender is it.
type poster interface {
	Send(ctx context.Context, m webhook.Message) error
}

// teller is the leader's duty to tell those whom the policy names. What begins and what
// is over, and what is in the audit log, becomes an event in one commit with the note
// that it was told; from there on it is in the outbox of each who is to hear of it,
// whoever leads. Each notifier has a courier of its own, so that one that does not
// answer holds up no other.
type teller struct {
	agent  *Agent
	poster poster
	// source says which installation events come from; secret is the value of an
	// environment variable.
	source string
	secret func(name string) string
	logger hclog.Logger
	now    func() time.Time
	random func() float64

	// anomalies looks for hours that are like no other.
	anomalies anomalies

	// mu guards the documents: they are written by one after the other.
	mu   sync.Mutex
	told told
	// stale says that the documents must be read again.
	stale bool
	wakes map[string]chan struct{}
}

func newTeller(a *Agent, o Options) *teller {
	return &teller{agent: a, poster: o.Notify.Poster, source: o.Notify.Source, secret: o.Notify.Secret, logger: a.logger.Named("notify"), now: o.Now,
		random: rand.Float64, stale: true, wakes: make(map[string]chan struct{})}
}

// Notify is how an agent tells people of events.
type Notify struct {
	// Poster delivers; nil means that this agent tells nobody.
	Poster poster
	// Source is that of all events, a path or URL that names the installation.
	Source string
	// Secret returns the value of an environment variable.
	Secret func(name string) string
}

// lead watches and delivers until ctx ends.
func (t *teller) lead(ctx context.Context, fence ledger.Fence) {
	t.mu.Lock()
	t.stale = true
	t.wakes = make(map[string]chan struct{})
	t.mu.Unlock()
	var couriers sync.WaitGroup
	defer couriers.Wait()
	running := make(map[string]bool)
	step := func() error {
		err := t.step(ctx, fence)
		for _, n := range t.agent.Keeper.State().Policy.Notifiers {
			if name := notice.Name(n); !running[name] {
				running[name] = true
				couriers.Go(func() { t.courier(ctx, fence, name) })
			}
		}
		return err
	}
	failed := func(err error) { t.logger.Warn("events delayed", "error", err) }
	if err := step(); err != nil && ctx.Err() == nil {
		failed(err)
	}
	every(ctx, boardEvery, step, failed)
}

// refresh reads the documents if they are not known. t.mu is held.
func (t *teller) refresh(ctx context.Context) error {
	if !t.stale {
		return nil
	}
	now, err := readTold(ctx, t.agent.store)
	if err != nil {
		return err
	}
	if len(now.damaged) > 0 {
		t.logger.Error("documents about what was told cannot be read, and begin anew", "keys", now.damaged)
	}
	t.told, t.stale = now, false
	return nil
}

// step makes events of what is new.
func (t *teller) step(ctx context.Context, fence ledger.Fence) error {
	r, fresh := t.agent.board.latest()
	if !fresh {
		return nil // it says so itself
	}
	conditions := slices.Concat(t.agent.board.conditions(r), t.agent.healthConditions(t.now()), t.anomalies.look(ctx, t.agent, r))
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.refresh(ctx); err != nil {
		return err
	}
	state := t.told.state
	head, _, err := t.agent.chain.head(ctx)
	if err != nil {
		return err
	}
	if !t.told.known { // what was before nobody has asked for
		state.Epoch, state.Audit = t.agent.Engine.books.newID(), head.Seq
	}
	var log AuditLog
	if head.Seq > state.Audit {
		if log, err = t.agent.chain.log(ctx, state.Audit+1); err != nil {
			return err
		}
	}
	after, events := state.Follow(log.Records)
	after, more, changed := after.Watch(conditions, t.now())
	boxes := t.addressed(r.policy, slices.Concat(events, more))
	if t.told.known && !changed && after.Audit == state.Audit && len(boxes) == 0 {
		return nil
	}
	return t.write(ctx, fence, &after, boxes)
}

// addressed puts events into the outboxes of who is to hear of them; outboxes of
// notifiers that are gone become nil.
func (t *teller) addressed(p *budget.Policy, events []notice.Addressed) map[string]*notice.Outbox {
	out := make(map[string]*notice.Outbox)
	for _, e := range events {
		for _, name := range notice.Receivers(p, e.Event, e.Named) {
			have := out[name]
			if have == nil {
				box := t.told.boxes[name].Outbox
				have = &box
				out[name] = have
			}
			*have = have.With(e.Event)
		}
		t.logger.Info(e.Data.Text, "kind", e.Kind, "subject", e.Subject, "status", e.Data.Status, "event_id", e.ID)
	}
	for name := range t.told.boxes {
		if _, there := notifierOf(p, name); !there {
			out[name] = nil
		}
	}
	return out
}

// write commits the state, if it is given, and outboxes, all or nothing. t.mu is held.
func (t *teller) write(ctx context.Context, fence ledger.Fence, state *notice.State, boxes map[string]*notice.Outbox) error {
	var writes []ledger.Write
	if state != nil {
		value, err := ledger.EncodeDocument(state)
		if err != nil {
			return fmt.Errorf("encode %s: %w", noticeStateKey, err)
		}
		writes = append(writes, ledger.Write{Key: noticeStateKey, Value: value, Version: t.told.version})
	}
	for name, o := range boxes {
		w := ledger.Write{Key: outboxPrefix + name, Version: t.told.boxes[name].version}
		if o != nil {
			var err error
			if w.Value, err = ledger.EncodeDocument(o); err != nil {
				return fmt.Errorf("encode %s: %w", w.Key, err)
			}
		}
		writes = append(writes, w)
	}
	slices.SortFunc(writes, func(a, b ledger.Write) int { return strings.Compare(a.Key, b.Key) })
	version, err := t.agent.Engine.books.commitOnce(ctx, fence, writes)
	if err != nil || version == 0 { // it is not known what is there now
		t.stale = true
		return err
	}
	if state != nil {
		t.told.state, t.told.version, t.told.known = *state, version, true
	}
	for name, o := range boxes {
		if o == nil {
			delete(t.told.boxes, name)
			continue
		}
		t.told.boxes[name] = box{*o, version}
		if wake := t.wakes[name]; wake != nil {
			select {
			case wake <- struct{}{}:
			default: // it is awake
			}
		}
	}
	return nil
}

// courier delivers the events of one notifier until ctx ends.
func (t *teller) courier(ctx context.Context, fence ledger.Fence, name string) {
	wake := make(chan struct{}, 1)
	t.mu.Lock()
	t.wakes[name] = wake
	t.mu.Unlock()
	for ctx.Err() == nil {
		rest := t.round(ctx, fence, name)
		timer := time.NewTimer(rest)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// round tries what is due for one notifier, and returns how long to rest then.
func (t *teller) round(ctx context.Context, fence ledger.Fence, name string) time.Duration {
	t.mu.Lock()
	err := t.refresh(ctx)
	due, next := t.told.boxes[name].Due(t.now())
	t.mu.Unlock()
	n, known := notifierOf(t.agent.Keeper.State().Policy, name)
	if err != nil || !known {
		return courierRests
	}
	for _, w := range due {
		if ctx.Err() != nil {
			return 0
		}
		err := t.post(ctx, n, w.Event)
		if ctx.Err() != nil {
			return 0 // who leads next tries it again
		}
		if err := t.note(ctx, fence, name, w.ID, err); err != nil {
			t.logger.Warn("an event may be delivered twice, for its delivery could not be noted", "notifier", name, "event_id", w.ID, "error", err)
			return courierRests / 10
		}
	}
	if len(due) > 0 {
		return 0 // behind them there may be others
	}
	if !next.IsZero() {
		return min(courierRests, max(0, next.Sub(t.now())))
	}
	return courierRests
}

// note writes down what became of an attempt.
func (t *teller) note(ctx context.Context, fence ledger.Fence, name, id string, failed error) error {
	result := "ok"
	if failed != nil {
		result = "failed"
		t.logger.Warn("event not delivered, it is tried again", "notifier", name, "event_id", id, "error", failed)
	}
	t.agent.metrics.Notified(name, result)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.refresh(ctx); err != nil {
		return err
	}
	before, there := t.told.boxes[name]
	if !there {
		return nil // the notifier is gone
	}
	after := before.Delivered(id)
	if failed != nil {
		after = before.Failed(id, failed.Error(), t.now(), t.random())
	}
	return t.write(ctx, fence, nil, map[string]*notice.Outbox{name: &after})
}

// post makes one attempt.
func (t *teller) post(ctx context.Context, n budget.Notifier, e notice.Event) error {
	body, err := e.CloudEvent(t.source)
	if err != nil {
		return fmt.Errorf("encode the event: %w", err)
	}
	m := webhook.Message{ID: e.ID, URL: n.URL, Body: body}
	if n.SecretEnv != "" {
		if m.Secret = t.secret(n.SecretEnv); m.Secret == "" {
			return errors.New("the agent's environment has no " + n.SecretEnv + ", which is to sign its events")
		}
	}
	return t.poster.Send(ctx, m)
}
