package agent

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/nomad-governor/governor/quotaagent/gate"
)

// inFlight counts the requests that a handler is answering. http.Server does
// not wait for those whose connection it cut or handed over.
type inFlight struct {
	next   http.Handler
	mu     sync.Mutex
	count  int
	closed bool
	idle   chan struct{} // closed when closed and count is 0
	// reading ends with cut: reads may go on for as long as they like, as streams and
	// blocking queries do.
	reading context.Context
	cut     context.CancelFunc
}

func newInFlight(next http.Handler) *inFlight {
	f := &inFlight{next: next, idle: make(chan struct{})}
	f.reading, f.cut = context.WithCancel(context.Background())
	return f
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
	if r.Context().Value(cutWithReads{}) == nil && onlyReads(r) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(f.reading, cancel)()
		r = r.WithContext(ctx)
	}
	f.next.ServeHTTP(w, r)
}

// cutWithReads is in a context that ends with cut anyway.
type cutWithReads struct{}

// reads is the context of requests that only read.
func (f *inFlight) reads() context.Context { return context.WithValue(f.reading, cutWithReads{}, true) }

// onlyReads reports whether nothing is lost when a request is cut, also where it reads
// with another method than GET, as the UI's blocking queries do.
func onlyReads(r *http.Request) bool {
	switch gate.Classify(r.Method, r.URL.Path).Kind {
	case gate.RouteRead:
		return true
	case gate.RouteOutside:
		return r.Method == http.MethodGet || r.Method == http.MethodHead
	}
	return false
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
