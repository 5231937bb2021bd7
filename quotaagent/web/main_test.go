package web_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-governor/governor/quotaagent/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// slowBooks answer when they are let go.
type slowBooks struct {
	*fake
	free chan struct{}
}

// Overview implements web's books.
func (s slowBooks) Overview(ctx context.Context) (*web.Overview, error) {
	<-s.free
	return s.fake.Overview(ctx)
}

// countingDoor tells of everybody who comes in.
type countingDoor struct {
	*fake
	in chan struct{}
}

// Enter implements web's door.
func (d countingDoor) Enter(r *http.Request) (web.Viewer, error) {
	d.in <- struct{}{}
	return d.fake.Enter(r)
}

// No more than some pages are made at once. Who waits for his turn goes when his client
// does, and no goroutine stays behind: TestMain looks.
func TestPagesAreBoundedAndEndWithTheirClients(t *testing.T) {
	t.Parallel()
	f := busy()
	slow, door := slowBooks{f, make(chan struct{})}, countingDoor{f, make(chan struct{}, 100)}
	h := web.New(web.Config{Door: door, Books: slow, Past: f, Rules: f, Cluster: f, Audit: f, Zone: func() *time.Location { return time.UTC }, Now: func() time.Time { return now },
		Failed: func(*http.Request, error) {}})
	ask := func(ctx context.Context) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/governor/jobs", nil))
		return w.Code
	}
	const atOnce = 16
	codes := make(chan int, atOnce)
	var running sync.WaitGroup
	for range atOnce {
		running.Go(func() { codes <- ask(t.Context()) })
	}
	for range atOnce {
		<-door.in
	}
	gone, cut := context.WithCancel(t.Context())
	cut()
	must.EqOp(t, http.StatusServiceUnavailable, ask(gone))
	close(slow.free)
	running.Wait()
	for range atOnce {
		must.EqOp(t, http.StatusOK, <-codes)
	}
	must.EqOp(t, 1, f.reads, must.Sprint("all of them share one reading"))
	must.EqOp(t, http.StatusOK, ask(t.Context()))
}

// A ledger that takes long to read is read less often.
func TestALargeLedgerIsReadLessOften(t *testing.T) {
	t.Parallel()
	f := busy()
	clock := now
	h := web.New(web.Config{Door: f, Books: lateBooks{f, func() { clock = clock.Add(2 * time.Second) }}, Past: f, Rules: f, Cluster: f, Audit: f, Zone: func() *time.Location { return time.UTC },
		Now: func() time.Time { return clock }, Failed: func(*http.Request, error) {}})
	get(h, "/governor/jobs")
	clock = clock.Add(15 * time.Second)
	get(h, "/governor/jobs")
	must.EqOp(t, 1, f.reads)
	clock = clock.Add(5 * time.Second)
	get(h, "/governor/jobs")
	must.EqOp(t, 2, f.reads)
}

// lateBooks take their time.
type lateBooks struct {
	*fake
	wait func()
}

// Overview implements web's books.
func (b lateBooks) Overview(ctx context.Context) (*web.Overview, error) {
	b.wait()
	return b.fake.Overview(ctx)
}
