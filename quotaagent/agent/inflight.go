package agent

import (
	"net/http"
	"sync"
	"time"
)

// inFlight counts the requests that a handler is answering. http.Server does
// not wait for those whose connection it cut or handed over.
type inFlight struct {
	next   http.Handler
	mu     sync.Mutex
	count  int
	closed bool
	idle   chan struct{} // closed when closed and count is 0
}

func newInFlight(next http.Handler) *inFlight {
	return &inFlight{next: next, idle: make(chan struct{})}
}

// ServeHTTP implements http.Handler.
func (f *inFlight) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		http.Error(w, "governor: this agent is stopping", http.StatusServiceUnavailable)
		return
	}
	f.count++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.count--
		f.signal()
	}()
	f.next.ServeHTTP(w, r)
}

func (f *inFlight) signal() {
	if f.closed && f.count == 0 {
		close(f.idle)
	}
}

// wait refuses further requests and waits for those in flight, at most for the
// given time. It returns how many are left. Call it once.
func (f *inFlight) wait(atMost time.Duration) int {
	f.mu.Lock()
	f.closed = true
	f.signal()
	f.mu.Unlock()
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-f.idle:
	case <-timer.C:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}
