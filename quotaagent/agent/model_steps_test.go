package agent

import (
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// modelStep is one kind of step and how often it is taken.
type modelStep struct {
	name   string
	weight int
	take   func(m *model, a *modelAgent)
}

func modelStepKinds() []modelStep {
	return []modelStep{
		{"submit", 22, (*model).submit},
		{"settle a submission", 8, (*model).settleOne},
		{"plan", 2, (*model).plan},
		{"schedule", 14, func(m *model, _ *modelAgent) { m.schedule() }},
		{"end", 7, func(m *model, _ *modelAgent) { m.endOne() }},
		{"meter", 16, func(m *model, _ *modelAgent) { m.meter(m.agents[m.leader]) }},
		{"deposed meter", 2, (*model).meter},
		{"news", 6, func(m *model, _ *modelAgent) { m.news(m.agents[m.leader]) }},
		{"time", 14, func(m *model, _ *modelAgent) { m.passTime() }},
		{"clock", 2, (*model).stepClock},
		{"leader", 2, func(m *model, _ *modelAgent) { m.changeLeader() }},
		{"restart", 2, func(m *model, a *modelAgent) { m.start(a) }},
		{"edit", 3, func(m *model, a *modelAgent) { m.edit(a) }},
		{"nomad", 1, func(m *model, _ *modelAgent) { m.world.down = !m.world.down && m.rng.IntN(2) == 0 }},
		{"store", 1, func(m *model, a *modelAgent) { m.withoutStore(a) }},
		{"stop a job", 2, func(m *model, _ *modelAgent) { m.stopJob() }},
		{"collect", 2, func(m *model, _ *modelAgent) { m.collect() }},
		{"ask for tokens", 7, (*model).askTokens},
		{"end a request for tokens", 5, (*model).endTokens},
	}
}

// run takes so many steps, checks after each, and ends the day.
func (m *model) run(steps int) {
	kinds := modelStepKinds()
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for range steps {
		m.steps++
		n := m.rng.IntN(total)
		i := 0
		for ; n >= kinds[i].weight; i++ {
			n -= kinds[i].weight
		}
		a := m.alive()
		m.note("%s (%s)", kinds[i].name, a.name)
		m.harm(a)
		if m.rng.IntN(4) == 0 {
			m.harm(m.agents[m.leader])
		}
		kinds[i].take(m, a)
		for _, a := range m.agents {
			a.store.faults = modelFaults{}
			if a.store.dead && m.rng.IntN(3) > 0 {
				m.note("%s is started again", a.name)
				m.start(a)
			}
		}
		if l := m.agents[m.leader]; l.store.dead || l.fence != m.fence {
			m.changeLeader()
		}
		m.check()
	}
	m.endDay()
}

// alive is some agent that runs; if there is none, one is started.
func (m *model) alive() *modelAgent {
	for _, i := range m.rng.Perm(len(m.agents)) {
		if !m.agents[i].store.dead {
			return m.agents[i]
		}
	}
	a := m.agents[m.rng.IntN(len(m.agents))]
	m.start(a)
	return a
}

// harm draws what goes wrong for an agent in this step: mostly nothing.
func (m *model) harm(a *modelAgent) {
	if m.rng.IntN(4) > 0 {
		return
	}
	f := modelFaults{}
	soon := func() int { return 1 + m.rng.IntN(12) }
	switch m.rng.IntN(4) {
	case 0:
		f.die, f.wrote = soon(), m.rng.IntN(2) == 0
	case 1:
		f.lose, f.arrived = soon(), m.rng.IntN(2) == 0
	default:
		f.interleave = soon()
		f.other = func() { m.interleaved(a) }
	}
	a.store.faults = f
}

// interleaved has another agent act in the middle of what one does.
func (m *model) interleaved(of *modelAgent) {
	var others []*modelAgent
	for _, a := range m.agents {
		if a != of && !a.store.dead {
			others = append(others, a)
		}
	}
	if len(others) == 0 {
		return
	}
	a := others[m.rng.IntN(len(others))]
	m.note("meanwhile %s acts", a.name)
	switch m.rng.IntN(5) {
	case 0, 1:
		m.submit(a)
	case 2:
		m.settleOne(a)
	case 3:
		if of == m.agents[m.leader] {
			m.changeLeader()
		}
		m.meter(m.agents[m.leader])
	default:
		m.meter(a)
	}
}

func (m *model) draw() (namespace, id, submitter string, spec modelSpec) {
	namespace = []string{"nlp", "nlp", "vision", "serving"}[m.rng.IntN(4)]
	id = []string{"train", "eval/2", "sweep"}[m.rng.IntN(3)]
	submitter = []string{"ada", "bob"}[m.rng.IntN(2)]
	if j := m.world.jobs[jobKey(namespace, id)]; j != nil && m.rng.IntN(4) == 0 {
		return namespace, id, j.submitter, j.spec
	}
	spec = modelSpec{kind: api.JobTypeBatch, count: 1 + m.rng.IntN(3), gpus: 1 + m.rng.IntN(2), class: []string{"", "a", "b"}[m.rng.IntN(3)],
		runtime: time.Duration(1+m.rng.Int64N(7200)) * time.Second, reschedules: m.rng.IntN(3)}
	if namespace == "serving" && !m.strict {
		spec.kind, spec.reschedules, spec.runtime = api.JobTypeService, 0, 0
	}
	if m.rng.IntN(12) == 0 {
		spec.count = 0
	}
	return namespace, id, submitter, spec
}

// submit is one submission through an agent, with every way in which it can go on.
func (m *model) submit(a *modelAgent) {
	namespace, id, submitter, spec := m.draw()
	s := m.world.submission(namespace, id, submitter, spec)
	nested := a.store.admitting
	a.store.admitting = a.limits
	v, err := a.Engine.Admit(m.ctx, s)
	a.store.admitting = nested
	switch {
	case err != nil:
		m.note("submission of %s/%s %+v: %v", namespace, id, spec, err)
		return
	case v.Denied:
		m.denials++
		m.note("submission of %s/%s %+v: %s", namespace, id, spec, v.Reason)
		return
	}
	settle := v.Settle
	if settle == nil {
		return
	}
	t := &modelTicket{agent: a, store: a.store, submission: s, spec: spec, settle: settle, asStored: v.AsStored}
	how := m.rng.IntN(100)
	refused := how >= 55 && how < 65
	if reaches := how < 73 || how >= 78 && how < 88; reaches && !refused {
		refused = !m.register(t)
	}
	switch {
	case refused:
		m.answer(t, gate.Outcome{Known: true}, "refused")
	case how < 55:
		m.answer(t, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: t.index}, "accepted")
	case how < 73:
		m.answer(t, gate.Outcome{}, "registered, answer lost")
	case how < 78:
		m.answer(t, gate.Outcome{}, "lost on the way")
	case how < 88:
		m.tickets = append(m.tickets, t)
		m.note("submission of %s/%s %+v: registered at %d, answer to come", namespace, id, spec, t.index)
	default:
		m.tickets = append(m.tickets, t)
		m.note("submission of %s/%s %+v: on its way", namespace, id, spec)
	}
}

// register is the gate's and Nomad's part; false means that the job is not any more
// what it was decided about as, and everything of it would start again.
func (m *model) register(t *modelTicket) bool {
	ask := t.submission.Ask
	if t.asStored {
		if now := m.world.stored(ask.Namespace, ask.JobID); now == nil || *now.JobModifyIndex != *t.submission.Stored.JobModifyIndex {
			return false
		}
	}
	t.index, t.registered = m.world.register(ask.Namespace, ask.JobID, t.submission.Identity.Accessor, t.spec), true
	return true
}

func (m *model) answer(t *modelTicket, o gate.Outcome, word string) {
	m.note("submission of %s/%s %+v by %s: %s %d", t.submission.Ask.Namespace, t.submission.Ask.JobID, t.spec, t.agent.name, word, t.index)
	t.settle(m.ctx, o)
}

// settleOne brings one submission that is on its way to its end.
func (m *model) settleOne(*modelAgent) {
	if len(m.tickets) == 0 {
		return
	}
	i := m.rng.IntN(len(m.tickets))
	t := m.tickets[i]
	m.tickets = slices.Delete(m.tickets, i, i+1)
	if !t.registered {
		if m.rng.IntN(3) == 0 || !m.register(t) {
			m.answer(t, gate.Outcome{Known: true}, "refused late")
			return
		}
	}
	if m.rng.IntN(6) == 0 {
		m.answer(t, gate.Outcome{}, "late answer lost")
		return
	}
	m.answer(t, gate.Outcome{Known: true, Accepted: true, JobModifyIndex: t.index}, "accepted late")
}

// plan asks what would be decided. It must not write.
func (m *model) plan(a *modelAgent) {
	namespace, id, submitter, spec := m.draw()
	s := m.world.submission(namespace, id, submitter, spec)
	s.Kind = gate.Plan
	a.store.faults.interleave = 0
	before := m.dump()
	_, err := a.Engine.Admit(m.ctx, s)
	if err == nil && a.store.faults.interleave <= 0 {
		m.require(slices.EqualFunc(before, m.dump(), func(a, b ledger.Record) bool { return a.Key == b.Key && a.Version == b.Version }), "a plan wrote")
	}
}

func (m *model) schedule() {
	for range 1 + m.rng.IntN(3) {
		if a := m.world.schedule(); a != nil {
			m.note("%s starts (%s/%s, %d %s)", a.ID, a.Namespace, a.Name, len(a.gpus), a.class)
		}
	}
}

func (m *model) endOne() {
	live := m.world.live()
	if len(live) == 0 {
		return
	}
	a := live[m.rng.IntN(len(live))]
	complete := a.stopping || m.rng.IntN(2) == 0
	m.note("%s ends, complete %v", a.ID, complete)
	m.world.end(a, complete)
}

// meter has an agent do all the leader's work that is due now. One that is not
// the leader any more must not write anything: its fence is old.
func (m *model) meter(a *modelAgent) {
	if a.store.dead || a.fence == (ledger.Fence{}) {
		return
	}
	err := a.Meter.reconcile(m.ctx, a.fence)
	if err == nil {
		a.told = m.world.oldNews + len(m.world.news)
	}
	a.Meter.looks = map[string]look{}
	a.Meter.holdsChanged.Store(true)
	if e := a.Meter.tick(m.ctx, a.fence); err == nil {
		err = e
	}
	for len(a.Meter.facts) > 0 {
		if e := a.Meter.handle(m.ctx, a.fence, a.Meter.drain(<-a.Meter.facts)); err == nil {
			err = e
		}
	}
	if err != nil {
		m.note("meter of %s: %v", a.name, err)
	}
	m.sweepTokens(a)
}

// news delivers one of the latest events, perhaps late or twice, after all that came
// before it: a stream has an order, and one that breaks makes the agent miss all that
// comes until it has read a snapshot.
func (m *model) news(a *modelAgent) {
	if len(m.world.news) == 0 || a.store.dead || a.fence == (ledger.Fence{}) {
		return
	}
	last := m.rng.IntN(len(m.world.news))
	first := last
	if unknown := a.told - m.world.oldNews; unknown < 0 {
		a.Meter.missed.Store(true)
	} else if unknown < last {
		first = unknown
	}
	var facts []fact
	for _, alloc := range m.world.news[first : last+1] {
		m.note("news of %s, ended %v", alloc.ID, alloc.Terminal)
		facts = append(facts, fact{alloc: &alloc})
	}
	a.told = max(a.told, m.world.oldNews+last+1)
	if err := a.Meter.handle(m.ctx, a.fence, facts); err != nil {
		m.note("news: %v", err)
	}
}

// passTime lets time pass. Every agent reads the budgets before, as it would
// within a second; and so are submissions answered before much time passes.
func (m *model) passTime() {
	spans := []time.Duration{time.Second, 30 * time.Second, 10 * time.Minute, time.Hour, 5 * time.Hour}
	d := time.Duration(m.rng.Int64N(int64(spans[m.rng.IntN(len(spans))]/time.Millisecond))) * time.Millisecond
	m.settleBefore(d)
	for _, a := range m.agents {
		m.load(a)
	}
	m.settleBefore(d) // somebody may have acted meanwhile
	m.world.advance(d)
	m.note("%v pass", d)
}

// settleBefore answers all submissions when much time is to pass: no registration
// takes as long as the agents wait for one.
func (m *model) settleBefore(d time.Duration) {
	for d > 20*time.Second && len(m.tickets) > 0 {
		m.settleOne(nil)
	}
}

// stepClock sets the clock of an agent, forward or back.
func (m *model) stepClock(a *modelAgent) {
	a.skew = m.smallSkew()
	if m.rng.IntN(4) == 0 {
		a.skew *= 20
	}
	m.note("clock of %s: %v", a.name, a.skew)
}

func (m *model) changeLeader() {
	if m.rng.IntN(2) == 0 {
		m.agents[m.leader].Meter.end()
	}
	for _, i := range m.rng.Perm(len(m.agents)) {
		if i != m.leader && !m.agents[i].store.dead {
			m.elect(i)
			m.note("%s leads", m.agents[i].name)
			return
		}
	}
	if m.agents[m.leader].store.dead {
		m.start(m.agents[m.leader])
	}
	m.elect(m.leader)
}

// edit changes a limit, or adds prices for later. Only one agent has read it when
// the next step begins.
func (m *model) edit(a *modelAgent) {
	next := m.policy.clone()
	lowered := false
	if !m.strict && m.rng.IntN(3) == 0 {
		next.addCard(m.rng, m.world.at)
	} else {
		lowered = next.scale(m.rng)
	}
	if m.strict && lowered {
		return
	}
	m.write(next)
	m.load(a)
}

// withoutStore has an agent do something while the store does not answer.
func (m *model) withoutStore(a *modelAgent) {
	m.storeDown = true
	defer func() { m.storeDown = false }()
	if m.rng.IntN(2) == 0 {
		m.submit(a)
		return
	}
	m.meter(m.agents[m.leader])
}

func (m *model) stopJob() {
	keys := slices.Sorted(maps.Keys(m.world.jobs))
	if len(keys) == 0 {
		return
	}
	j := m.world.jobs[keys[m.rng.IntN(len(keys))]]
	if !m.strict && m.rng.IntN(4) == 0 {
		m.note("%s/%s is purged", j.namespace, j.id)
		m.world.purge(j)
		return
	}
	m.note("%s/%s is stopped", j.namespace, j.id)
	m.world.stop(j)
}

// collect is Nomad's garbage collection: of what the ledger has seen to its end,
// and now and then, as after hours without an agent, of what it has not.
func (m *model) collect() {
	unseen := !m.strict && m.rng.IntN(4) == 0
	seen := m.finished()
	m.world.collect(func(a *modelAlloc) bool {
		if seen[a.ID] {
			return false
		}
		a.unseen = a.unseen || unseen
		return !unseen
	})
}
