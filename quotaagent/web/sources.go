package web

import (
	"context"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/nomad-governor/governor/quotaagent/audit"
	"github.com/nomad-governor/governor/quotaagent/report"
)

// door says who makes a request. Its errors are Problems.
type door interface {
	Enter(r *http.Request) (Viewer, error)
}

// books are the budgets and the jobs.
type books interface {
	Overview(ctx context.Context) (*Overview, error)
	Job(ctx context.Context, namespace, id string) (JobDetail, error)
	Overrides(ctx context.Context) ([]Override, error)
}

// past is what happened.
type past interface {
	Statement(ctx context.Context, q report.Query) (report.Statement, error)
	Receipts(ctx context.Context, namespace, job string, limit int) ([]report.Receipt, error)
	Decisions(ctx context.Context, limit int) (Decisions, error)
	// Decision is nil where no agent has one with that ID.
	Decision(ctx context.Context, id string) (*DecisionDetail, error)
	Forecast(ctx context.Context) (Forecast, error)
}

// rules are the budgets as written.
type rules interface {
	// Budget is nil where there is none of that path.
	Budget(path string) *Detail
	Policy() Policy
	Revisions(ctx context.Context) ([]Revision, error)
}

// cluster is the map of the GPUs.
type cluster interface {
	Map(ctx context.Context) (*Cluster, error)
}

// auditLog is what people and rules did.
type auditLog interface {
	// Records are those from a number on, or the latest for 0; last is the number of the
	// last one that there is.
	Records(ctx context.Context, from uint64) (records []audit.Record, last uint64, err error)
}

const (
	// sharedFor is how old may be what pages share, and forecastFor how old a forecast.
	sharedFor   = time.Second
	forecastFor = 30 * time.Second
	// readWithin bounds one reading, and idleShare how many times as long as the last one
	// took it is left alone: a large ledger is read less often.
	readWithin = 10 * time.Second
	idleShare  = 10
)

// outage is since when something does not work.
type outage struct {
	mu   sync.Mutex
	from time.Time
}

// note says whether it fails now.
func (o *outage) note(fails bool, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !fails:
		o.from = time.Time{}
	case o.from.IsZero():
		o.from = now
	}
}

// since is when it began, zero while all is well.
func (o *outage) since() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.from
}

// shared is something that many pages show: it is read once for all that ask within a
// while, and no more than once at the same time. It also knows since when it cannot be.
type shared[T any] struct {
	read func(ctx context.Context) (T, error)
	age  time.Duration
	now  func() time.Time

	// outage is since when it cannot be read.
	outage outage

	group singleflight.Group
	mu    sync.Mutex
	value T
	at    time.Time
	took  time.Duration
}

func newShared[T any](age time.Duration, now func() time.Time, read func(ctx context.Context) (T, error)) *shared[T] {
	return &shared[T]{read: read, age: age, now: now}
}

// get is the value, not older than its age, or than ten times what it took to read.
func (s *shared[T]) get(ctx context.Context) (T, error) {
	s.mu.Lock()
	value, fresh := s.value, !s.at.IsZero() && s.now().Sub(s.at) < max(s.age, idleShare*s.took)
	s.mu.Unlock()
	if fresh {
		return value, nil
	}
	// Whoever reads does it for others too, who are still there when its client is not.
	v, err, _ := s.group.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readWithin)
		defer cancel()
		at := s.now()
		value, err := s.read(ctx)
		s.outage.note(err != nil, at)
		if err != nil {
			return value, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.value, s.at, s.took = value, at, s.now().Sub(at)
		return value, nil
	})
	if err != nil {
		var none T
		return none, err
	}
	return v.(T), nil
}

// since is when it could not be read for the first time, zero if it can.
func (s *shared[T]) since() time.Time { return s.outage.since() }
