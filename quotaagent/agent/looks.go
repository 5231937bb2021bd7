package agent

import (
	"cmp"
	"slices"
	"time"
)

const (
	// lookFirst is when Nomad is asked again about a job of which nothing runs and of
	// which nothing is heard, after it was first, and lookAtMost the longest pause; each
	// is lookGrowth times the one before. What becomes of such a job the event stream
	// tells: its status is a part of it. This is for what may have been missed without a
	// sign.
	lookFirst  = 15 * time.Second
	lookGrowth = 4
	lookAtMost = 5 * time.Minute
	// lookRetry is when it is asked again after news, which Nomad tells before it answers
	// by them, and where it could not answer.
	lookRetry = 2 * time.Second
	// lookUnheard is the longest pause as long as no events come, and for what no event
	// tells: that it is not known whether a submission has arrived, and time passes.
	lookUnheard = 15 * time.Second
	// looksMost is how many jobs are asked about in one tick at most, and routineLooks of
	// how many of those that have nothing new to them one is.
	looksMost    = 200
	routineLooks = 150
	// routineLooksMin is for how few that does not matter.
	routineLooksMin = 10
)

// look is when to ask Nomad next about a job of which nothing runs.
type look struct {
	version uint64 // of the hold when it was last asked
	at      time.Time
	wait    time.Duration
	// noted says that the hold changes by nothing but the note that it was asked about.
	noted bool
}

// heard reports whether what happens to jobs is told, and nothing was missed.
func (m *Meter) heard() bool { return m.streams.Load() && !m.missed.Load() }

// untold reports whether time alone may change what is to be done about a hold: it is not
// known whether a submission has arrived.
func untold(h heldAt) bool { return h.Pending != nil || h.Guessed > 0 }

// lookDue is when it is time to ask again about the job of a hold, as long as nothing is
// heard of it.
func (m *Meter) lookDue(h heldAt, l look) time.Time {
	if m.heard() && !untold(h) {
		return l.at.Add(l.wait)
	}
	return l.at.Add(min(l.wait, lookUnheard))
}

// lookedAt notes that Nomad was asked about the job of a hold, and whether that, or what
// followed from it, has failed.
func (m *Meter) lookedAt(h heldAt, err error) {
	now, key := m.now(), h.JobKey()
	l := m.looks[key]
	switch {
	case err != nil:
		l = look{version: h.version, at: now, wait: lookRetry}
	case l.version != h.version:
		l = look{version: h.version, at: now, wait: lookFirst}
		if len(h.Slots) > 0 { // it may have ended with what ran last
			l.wait = lookRetry
		}
	case !now.Before(m.lookDue(h, l)):
		l.at, l.wait = now, min(lookGrowth*l.wait, lookAtMost)
	case m.comesBack(h, l):
		l.at = now
	default: // because of news
		l.at, l.wait = now, min(l.wait, lookRetry)
	}
	m.looks[key] = l
}

// comesBack reports whether it is time to ask whether a service that is dead has come back.
func (m *Meter) comesBack(h heldAt, l look) bool {
	dead, known := m.dead[h.JobKey()]
	return known && dead.hold == h.ID && m.now().Sub(dead.since) >= deadFor && l.at.Before(dead.since.Add(deadFor))
}

// doubtful reports whether Nomad must tell what became of a submission: who made it has
// not said so in time.
func (m *Meter) doubtful(h heldAt) bool {
	key := h.JobKey()
	if h.Pending == nil {
		delete(m.young, key)
		return false
	}
	age := m.now().Sub(time.UnixMilli(admittedMS(h)))
	return age > doubtAfter || m.young[key] && age.Abs() >= leaveFor
}

// rota chooses the jobs that are asked about in a tick.
type rota struct {
	m *Meter
	// offered is how many there are, urgent are those of which something is new, and
	// routine the others that are due, with when they became so.
	offered int
	urgent  []heldAt
	routine []waited
}

type waited struct {
	heldAt
	since time.Time
}

func (m *Meter) newRota() *rota { return &rota{m: m} }

// offer takes in a hold of which nothing runs, or of which nobody knows.
func (r *rota) offer(h heldAt) {
	r.offered++
	m, key := r.m, h.JobKey()
	l, known := m.looks[key]
	if known && l.noted && l.version != h.version && h.Pending == nil && len(h.Former) == 0 {
		l.version, l.noted = h.version, false
		m.looks[key] = l
	}
	due := m.lookDue(h, l)
	late := !m.now().Before(due)
	switch {
	case !known, l.version != h.version, m.comesBack(h, l), late && untold(h):
		if len(r.urgent) < looksMost {
			r.urgent = append(r.urgent, h)
		}
	case late:
		r.routine = append(r.routine, waited{h, due})
	}
}

// close returns the chosen, the urgent ones first. Of the others those come that are due
// for longest, so many that all have their turn in time and that it does not show.
func (r *rota) close() []heldAt {
	share := max(routineLooksMin, r.offered/routineLooks+1)
	if !r.m.heard() {
		share = looksMost
	}
	slices.SortStableFunc(r.routine, func(a, b waited) int { return cmp.Compare(a.since.UnixNano(), b.since.UnixNano()) })
	chosen := r.urgent
	for _, w := range r.routine[:max(0, min(len(r.routine), share, looksMost-len(chosen)))] {
		chosen = append(chosen, w.heldAt)
	}
	return chosen
}
