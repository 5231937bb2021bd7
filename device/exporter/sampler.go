package exporter

import (
	"context"
	"sync"
	"time"

	"github.com/nomad-governor/governor/device/exporter/metrics"
)

// samplePeriod is the least time between two samplings.
const samplePeriod = time.Second

// sampler shares snapshots between scrapes.
type sampler struct {
	take    func(context.Context) metrics.Snapshot
	now     func() time.Time
	timeout time.Duration

	mu      sync.Mutex
	latest  metrics.Snapshot
	began   time.Time     // when the latest sampling did; zero before the first
	running chan struct{} // closed when the sampling under way ends; nil when none is
	wg      sync.WaitGroup
}

// snapshot returns the latest snapshot, or a new one when that is too old. life
// ends the sampling, which other scrapes may wait for; ctx ends the wait.
func (s *sampler) snapshot(life, ctx context.Context) (metrics.Snapshot, error) {
	s.mu.Lock()
	age := s.now().Sub(s.began)
	if s.running == nil && (s.began.IsZero() || age >= samplePeriod || age < 0) {
		s.began = s.now()
		s.running = make(chan struct{})
		s.wg.Add(1)
		go s.sample(life, s.running)
	}
	running, latest := s.running, s.latest
	s.mu.Unlock()
	if running == nil {
		return latest, nil
	}
	select {
	case <-running:
	case <-ctx.Done():
		return metrics.Snapshot{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest, nil
}

// sample takes one snapshot, with the one before for rates.
func (s *sampler) sample(life context.Context, done chan struct{}) {
	defer s.wg.Done()
	ctx, cancel := context.WithTimeout(life, s.timeout)
	defer cancel()
	next := s.take(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	next.Before = metrics.Before{At: s.latest.At, Samples: s.latest.Samples}
	if next.At.Equal(s.latest.At) { // nothing new was sampled: the rates stay
		next.Before = s.latest.Before
	}
	s.latest, s.running = next, nil
	close(done)
}
