package nic

import (
	"sync"
	"time"

	"github.com/nomad-governor/governor/device/inventory"
)

// within is how long a reading of the NICs is waited for. It takes a fraction of a
// millisecond; a driver whose firmware does not answer takes minutes.
const within = time.Second

// Source reads the NICs of a host again and again, beside the GPUs, which must not wait
// for them. Methods may be called from several goroutines.
type Source struct {
	read   func(gpus []string) []inventory.NIC
	within time.Duration

	mu      sync.Mutex
	last    []inventory.NIC
	running chan struct{} // closed at the end of the reading under way; nil without one
}

// NewSource reads the NICs of a host.
func NewSource(h Host) *Source { return &Source{read: h.Read, within: within} }

// Read is Host.Read; where that does not answer in time, what it said last. There is one
// reading at a time at most, however long it takes.
func (s *Source) Read(gpus []string) []inventory.NIC {
	done := s.begin(gpus)
	timer := time.NewTimer(s.within)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// begin begins a reading, unless one is under way.
func (s *Source) begin(gpus []string) (done chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		return s.running
	}
	done = make(chan struct{})
	s.running = done
	go func() {
		nics := s.read(gpus)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last, s.running = nics, nil
		close(done)
	}()
	return done
}
