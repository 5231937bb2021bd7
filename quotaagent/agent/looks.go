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
	// tells: it starts, changes, or is dead when an evaluation ends. This is for what
	// may have been missed without a sign.
	lookFirst  = 15 * time.Second
	lookGrowth = 4
	lookAtMost = 5 * time.Minute
	// lookRetry is when it is asked again about one where it could not answer.
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

// lookDue is when it is time to ask again about the job of a hold, as long as nothing is
// heard of it.
func (m *Meter) lookDue(h heldAt, l look) time.Time {
	if m.streams.Load() && h.Pending == nil && h.Guessed == 0 {
		return l.at.Add(l.wait)
	}
	return l.at.Add(min(l.wait, lookUnheard))
}

// lookedAt notes that Nomad was asked about the job of a hold, and whether that has failed.
func (m *Meter) lookedAt(h heldAt, err error) {
	l := m.looks[h.JobKey()]
	switch now := m.now(); {
	case l.version != h.version:
		l = look{version: h.version, at: now, wait: lookFirst}
		if err != nil {
			l.wait = lookRetry
		}
	case !now.Before(m.lookDue(h, l)):
		l.at, l.wait = now, min(lookGrowth*l.wait, lookAtMost)
	default: // because of news, which do not make others more certain
		l.at = now
	}
	m.looks[h.JobKey()] = l
}

// doubtful reports whether Nomad must tell what became of a submission: who made it has
// not said so in time.
func (m *Meter) doubtful(h heldAt) bool {
	key := h.JobKey()
	if h.Pending == nil {
		delete(m.young, key)
		return false
	}
	age := time.Duration(m.now().UnixMilli()-admittedMS(h)) * time.Millisecond
	return age > doubtAfter || m.young[key] && age >= leaveFor
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
	m, now := r.m, r.m.now()
	key := h.JobKey()
	l, known := m.looks[key]
	if known && l.noted && l.version != h.version {
		l.version, l.noted = h.version, false
		m.looks[key] = l
	}
	dead, isDead := m.dead[key]
	switch due := m.lookDue(h, l); {
	case !known || l.version != h.version,
		isDead && dead.hold == h.ID && now.Sub(dead.since) >= deadFor && l.at.Before(dead.since.Add(deadFor)):
		if len(r.urgent) < looksMost {
			r.urgent = append(r.urgent, h)
		}
	case !now.Before(due):
		r.routine = append(r.routine, waited{h, due})
	}
}

// close returns the chosen, the urgent ones first. Of the others those come that are due
// for longest, so many that all have their turn in time and that it does not show.
func (r *rota) close() []heldAt {
	share := max(routineLooksMin, r.offered/routineLooks+1)
	if !r.m.streams.Load() {
		share = looksMost
	}
	slices.SortStableFunc(r.routine, func(a, b waited) int { return cmp.Compare(a.since.UnixNano(), b.since.UnixNano()) })
	chosen := r.urgent
	for _, w := range r.routine[:max(0, min(len(r.routine), share, looksMost-len(chosen)))] {
		chosen = append(chosen, w.heldAt)
	}
	return chosen
}
