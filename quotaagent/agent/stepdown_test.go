package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// stepDown asks an agent to give the lead up.
func (s *served) stepDown(t *testing.T, who api.Caller, body string) (status int, answer Handover, text string) {
	t.Helper()
	w := ask(s.Agent, who, http.MethodPost, "/governor/v1/operator/step-down", strings.NewReader(body))
	if w.Code == http.StatusOK {
		must.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	}
	return w.Code, answer, w.Body.String()
}

// candidate has an agent ask for the lead, until the returned function is called.
func (s *served) candidate(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		s.leadership.run(ctx, s.store, s.name, func(ctx context.Context, _ ledger.Fence) { <-ctx.Done() })
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// leads waits until an agent leads.
func (s *served) leads(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); s.leadership.leadsSince().IsZero(); time.Sleep(10 * time.Millisecond) {
		must.True(t, time.Now().Before(end), must.Sprintf("agent %s does not lead", s.name))
	}
}

func TestTheLeaderStepsDownAndAnotherLeads(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := t.TempDir()
	a, b := r.replicaOf(t, "a", filepath.Join(dir, "a.db")), r.replicaOf(t, "b", filepath.Join(dir, "b.db"))
	r.both(a, b)
	status, _, text := b.stepDown(t, root, "{}")
	must.Eq(t, http.StatusConflict, status)
	contains(t, text, "agent b does not lead, and nobody does now")
	a.candidate(t)
	a.leads(t)
	stop := b.candidate(t)

	status, _, text = a.stepDown(t, api.Caller{Accessor: "u", Names: []string{"token:user"}}, "{}")
	must.Eq(t, http.StatusForbidden, status)
	contains(t, text, "to change the leader needs a Nomad management token")
	status, _, text = b.stepDown(t, root, "{}")
	must.Eq(t, http.StatusConflict, status)
	contains(t, text, "agent b does not lead, agent a does: ask that one, with -address="+a.peers.options.Address)
	status, _, text = a.stepDown(t, root, `{"now": true}`)
	must.Eq(t, http.StatusBadRequest, status)
	contains(t, text, `unknown field \"now\"`)
	must.SliceEmpty(t, r.steppedDown(t))
	must.False(t, a.leadership.leadsSince().IsZero(), must.Sprint("nothing has happened so far"))

	status, h, text := a.stepDown(t, root, "{}")
	must.Eq(t, http.StatusOK, status, must.Sprint(text))
	must.Eq(t, []string{"a", "b"}, []string{h.From, h.To})
	must.Less(t, (10 * time.Second).Milliseconds(), h.TookMS, must.Sprint("within the time to live of a session"))
	b.leads(t)
	must.True(t, a.leadership.leadsSince().IsZero())
	must.Eq(t, []string{"root agent a was told to give the lead up"}, r.steppedDown(t))

	// Alone it leads on, unless it is forced; then it stands aside for a time only.
	stop()
	a.down.Store(true)
	b.leadership.aside = 500 * time.Millisecond
	b.candidate(t)
	b.leads(t)
	status, _, text = b.stepDown(t, root, "{}")
	must.Eq(t, http.StatusConflict, status)
	contains(t, text, "agent b leads, and no other agent is known that could: start another one first", "-force")
	status, h, text = b.stepDown(t, root, `{"force": true}`)
	must.Eq(t, http.StatusOK, status, must.Sprint(text))
	must.Eq(t, []string{"b", "b"}, []string{h.From, h.To})
	b.leads(t)
}

// steppedDown are the records of who stepped down for whom.
func (r *rig) steppedDown(t *testing.T) (out []string) {
	t.Helper()
	records, _, err := r.store.List(r.ctx, auditRecordPrefix)
	must.NoError(t, err)
	for _, record := range records {
		var e struct{ Kind, Actor, Text string }
		must.NoError(t, json.Unmarshal(record.Value, &e))
		if e.Kind == "leader.stepped_down" {
			out = append(out, e.Actor+" "+e.Text)
		}
	}
	return out
}

// What cannot be recorded is not done.
func TestNobodyStepsDownUnrecorded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := &unaudited{Store: r.store}
	r.store = s
	a := r.replicaOf(t, "a", filepath.Join(t.TempDir(), "a.db"))
	a.candidate(t)
	a.leads(t)
	since := a.leadership.leadsSince()
	status, _, _ := a.stepDown(t, root, `{"force": true}`)
	must.Eq(t, http.StatusServiceUnavailable, status)
	must.Eq(t, since, a.leadership.leadsSince())
}

// unaudited takes no audit records.
type unaudited struct{ Store }

// Commit implements Store.
func (s *unaudited) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	for _, w := range writes {
		if strings.HasPrefix(w.Key, auditPrefix) {
			return errors.New("the store takes no more")
		}
	}
	return s.Store.Commit(ctx, fence, writes)
}

func TestAgentsKnowEachOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := t.TempDir()
	a, b := r.replicaOf(t, "a", filepath.Join(dir, "a.db")), r.replicaOf(t, "b", filepath.Join(dir, "b.db"))
	a.version, b.version = "1.0.0", "1.1.0"
	a.peers.self.Version, b.peers.self.Version = "1.0.0", "1.1.0"
	r.both(a, b)
	b.candidate(t)
	b.leads(t)
	known := func() AgentsView {
		t.Helper()
		w := get(a.Agent, "/governor/v1/agents")
		must.Eq(t, http.StatusOK, w.Code, must.Sprint(w.Body))
		var v AgentsView
		must.NoError(t, json.Unmarshal(w.Body.Bytes(), &v))
		return v
	}
	v, at := known(), r.clock.now().UTC()
	mark := &HistoryMark{CompleteTo: at, Missing: []string{}}
	must.Eq(t, AgentsView{Time: at, Leader: "b", Outbox: new(0), Notes: []string{}, Agents: []AgentInfo{
		{Name: "a", Address: a.peers.options.Address, Version: "1.0.0", State: AgentAlive, Self: true, Started: &at, Heard: &at, History: mark},
		{Name: "b", Address: b.peers.options.Address, Version: "1.1.0", State: AgentAlive, Leader: true, LeadsSince: &at, Started: &at, Heard: &at, History: mark},
	}}, v)

	b.down.Store(true)
	r.clock.advance(2 * freshWithin)
	a.peers.round(r.ctx)
	v = known()
	must.Eq(t, AgentInfo{Name: "b", Address: b.peers.options.Address, Version: "1.1.0", State: AgentFailed, Leader: true, Heard: &at,
		Error: "it answers 502 Bad Gateway: gone\n"}, v.Agents[1], must.Sprint("who has the lock leads, whether it answers or not"))
	must.Eq(t, (2 * freshWithin).Milliseconds(), v.Agents[0].History.LagMS)
	contains(t, v.Agents[0].History.Missing[0], "agent b at")

	// A leader that the ledger does not know, and an agent that keeps no history.
	v = AgentsView{Leader: "c", Agents: []AgentInfo{{Name: "a", Self: true}}}
	v.markLeader()
	must.Eq(t, AgentInfo{Name: "c", State: AgentUnknown, Leader: true}, v.Agents[1])
	r.start(r.store)
	v = AgentsView{}
	must.NoError(t, json.Unmarshal(get(r.Agent, "/governor/v1/agents").Body.Bytes(), &v))
	must.Eq(t, []string{"this agent keeps no history and so knows no other agents: set data_dir in its configuration"}, v.Notes)
	must.Nil(t, v.Outbox)
}
