package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"golang.org/x/sync/errgroup"
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
	// lookRetry is when it is asked again where it could not answer, has answered by what
	// was before what it has told, or what follows from its answer could not be written.
	// Each time after that it is twice as long, up to lookUnheard.
	lookRetry = 2 * time.Second
	// lookUnheard is the longest pause as long as no events come, and for what no event
	// tells: that it is not known whether a submission has arrived, and time passes.
	lookUnheard = 15 * time.Second
	// looksMost is how many jobs are asked about in one tick at most. Of those of which
	// nothing is new that are one in routineLooks, and routineLooksMin where these are few.
	looksMost       = 200
	routineLooks    = 150
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

// lookedAt notes that Nomad has answered about the job of a hold.
func (m *Meter) lookedAt(h heldAt) {
	now, key := m.now(), h.JobKey()
	l := m.looks[key]
	switch {
	case l.version != h.version:
		l = look{version: h.version, at: now, wait: lookFirst}
	case !now.Before(m.lookDue(h, l)):
		l.at, l.wait = now, min(lookGrowth*l.wait, lookAtMost)
	default: // because of news, which do not make others more certain
		l.at = now
	}
	m.looks[key] = l
}

// retry is when to ask again about a job, whether or not something of it runs.
type retry struct {
	at   time.Time
	wait time.Duration
}

// askAgain has a job asked about again soon.
func (m *Meter) askAgain(key string) {
	now, r := m.now(), m.retries[key]
	if now.Before(r.at) {
		return // it was asked about before its time
	}
	r.wait = min(max(2*r.wait, lookRetry), lookUnheard)
	r.at = now.Add(r.wait)
	m.retries[key] = r
}

// answered notes that Nomad has answered about the job of a hold, and whether what follows
// from that is done. An answer that is older than what Nomad has told of the job is asked
// for again, and believed at last: what was told may be of another past.
func (m *Meter) answered(h heldAt, job nomadevents.Job, err error) {
	key := h.JobKey()
	if err != nil || job.Exists && job.ChangedIndex < m.told[key] && m.retries[key].wait < lookUnheard {
		m.askAgain(key)
		return
	}
	delete(m.retries, key)
	delete(m.told, key)
}

// doubtAll has all jobs asked about once: also those of which something runs, which may have
// been changed around the gate. One that waits for its turn keeps it.
func (m *Meter) doubtAll() {
	clear(m.looks)
	for _, h := range m.open {
		_, live := earliestMark(h.Hold)
		if _, waits := m.unheard[h.JobKey()]; live && !waits {
			m.unheard[h.JobKey()] = m.now()
		}
	}
}

// unheardDue are jobs of which something runs, and whose changes may have been missed: so
// many that all have their turn while routineLooks ticks last, those first whose turn came
// first. One that is being submitted waits until that is settled.
func (m *Meter) unheardDue() []heldAt {
	if len(m.unheard) == 0 {
		return nil
	}
	var due []waited
	for _, h := range m.open {
		at, unheard := m.unheard[h.JobKey()]
		if _, live := earliestMark(h.Hold); unheard && !live {
			delete(m.unheard, h.JobKey()) // all of these are asked about
		} else if unheard && h.Pending == nil && !m.now().Before(at) {
			due = append(due, waited{h, at})
		}
	}
	slices.SortStableFunc(due, func(a, b waited) int { return a.since.Compare(b.since) })
	holds := make([]heldAt, min(len(due), max(routineLooksMin, len(m.open)/routineLooks+1)))
	for i := range holds {
		holds[i] = due[i].heldAt
	}
	return holds
}

// askUnheard asks whether jobs were changed around the gate while nobody told it.
func (m *Meter) askUnheard(ctx context.Context) error {
	holds := m.unheardDue()
	jobs, errs := make([]nomadevents.Job, len(holds)), make([]error, len(holds))
	var asking errgroup.Group
	asking.SetLimit(askers())
	begin := time.Now()
	for i, h := range holds {
		asking.Go(func() error {
			if errs[i] = errNoTime; time.Since(begin) < askJobsWithin {
				jobs[i], errs[i] = m.nomad.Job(ctx, h.Namespace, h.JobID)
			}
			return nil
		})
	}
	_ = asking.Wait() // the errors are those of the jobs
	var failed []error
	for i, h := range holds {
		switch {
		case errors.Is(errs[i], errNoTime):
		case errs[i] != nil:
			m.unheard[h.JobKey()] = m.now().Add(lookRetry)
			failed = append(failed, errs[i])
		default:
			delete(m.unheard, h.JobKey())
			if outOfBand(*h.Hold, jobs[i]) {
				m.duties.change(h.Namespace, h.JobID)
			}
		}
	}
	return joinSome(failed)
}

// errNoTime means that there was no time to ask about a job in this tick.
var errNoTime = errors.New("no time left in this tick")

// comesBack reports whether it is time to ask whether a service that is dead has come back.
func (m *Meter) comesBack(h heldAt, l look) bool {
	dead, known := m.dead[h.JobKey()]
	return known && dead.hold == h.ID && m.now().Sub(dead.since) >= deadFor && l.at.Before(dead.since.Add(deadFor))
}

// doubtful reports whether Nomad must tell what became of a submission: who made it has
// not said so in time, or has, and something else was heard of the job meanwhile.
func (m *Meter) doubtful(h heldAt) bool {
	key := h.JobKey()
	young := m.young[key]
	if h.Pending == nil {
		delete(m.young, key)
		return young
	}
	age := m.now().Sub(time.UnixMilli(admittedMS(h)))
	return age > doubtAfter || young && age.Abs() >= leaveFor
}

// rota chooses the jobs that are asked about in a tick.
type rota struct {
	m *Meter
	// offered is how many there are, urgent are those of which something is new, and
	// routine the others that are due, both with when they became so.
	offered         int
	urgent, routine []waited
}

type waited struct {
	heldAt
	since time.Time
}

func (m *Meter) newRota() *rota { return &rota{m: m} }

// offer takes in a hold that may have to be asked about: nothing of it runs, or nobody
// knows, or the last question was in vain.
func (r *rota) offer(h heldAt) {
	r.offered++
	m, key := r.m, h.JobKey()
	l, known := m.looks[key]
	if known && l.noted && l.version != h.version && h.Pending == nil && len(h.Former) == 0 {
		l.version, l.noted = h.version, false
		m.looks[key] = l
	}
	again, vain := m.retries[key]
	if vain {
		if !m.now().Before(again.at) {
			r.urgent = append(r.urgent, waited{h, again.at})
		}
		return
	}
	due := m.lookDue(h, l)
	late := !m.now().Before(due)
	switch {
	case !known, l.version != h.version, m.comesBack(h, l), late && untold(h):
		r.urgent = append(r.urgent, waited{h, l.at})
	case late:
		r.routine = append(r.routine, waited{h, due})
	}
}

// close returns the chosen, the urgent ones first, each in the order in which they became
// due. Of the others there are so many that all have their turn in time and that it does not
// show.
func (r *rota) close() []heldAt {
	share := max(routineLooksMin, r.offered/routineLooks+1)
	if !r.m.heard() {
		share = looksMost
	}
	var chosen []heldAt
	take := func(from []waited, n int) {
		slices.SortStableFunc(from, func(a, b waited) int { return a.since.Compare(b.since) })
		for _, w := range from[:max(0, min(len(from), n))] {
			chosen = append(chosen, w.heldAt)
		}
	}
	take(r.urgent, looksMost)
	take(r.routine, min(share, looksMost-len(chosen)))
	return chosen
}
