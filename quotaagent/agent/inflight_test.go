package agent

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
)

func TestInFlightWaitsForWhatItCounts(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	f := newInFlight(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-leave
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}()
	<-entered
	must.Eq(t, 1, f.wait(10*time.Millisecond))
	late := httptest.NewRecorder()
	f.ServeHTTP(late, httptest.NewRequest(http.MethodGet, "/", nil))
	must.Eq(t, http.StatusServiceUnavailable, late.Code)
	close(leave)
	<-done
	<-f.idle
}

// A request that is on its way to Nomad finishes, with the store still open,
// after its stream was cut.
func TestAStoppingAgentLetsRequestsSettle(t *testing.T) {
	t.Parallel()
	store := openStore(t)
	n := newNomad(time.Now)
	a := New(Options{Name: "stopping", Store: &kept{Store: store}, Nomad: n, Placer: &fakePlacer{}, Logger: hclog.NewNullLogger(), Now: time.Now})
	entered, settled := make(chan struct{}), make(chan error, 1)
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done() // cut
		_, err := a.Engine.books.readHold(context.WithoutCancel(r.Context()), holdKey("default", "train"))
		settled <- err
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, listener, handler) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	go func() {
		resp, err := client.Get("http://" + listener.Addr().String())
		if err == nil {
			_ = resp.Body.Close()
		}
	}()
	<-entered
	cancel()
	must.NoError(t, <-done)
	must.NoError(t, <-settled)
}

// Streams are cut after a while, whatever their method; what changes something gets
// its answer.
func TestAStoppingAgentCutsReadsAndAnswersWrites(t *testing.T) {
	t.Parallel()
	a := New(Options{Name: "stopping", Store: &kept{Store: openStore(t)}, Nomad: newNomad(time.Now), Placer: &fakePlacer{}, Logger: hclog.NewNullLogger(),
		Now: time.Now})
	var reads, writes sync.WaitGroup
	entered := make(chan struct{}, 4)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		if r.Header.Get("Reads") != "" {
			defer reads.Done()
			<-r.Context().Done()
			return
		}
		reads.Wait() // until all reads are cut
		if r.Context().Err() == nil {
			w.WriteHeader(http.StatusAccepted)
		}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, listener, handler) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	send := func(method, path, reads string) int {
		r, err := http.NewRequest(method, "http://"+listener.Addr().String()+path, nil)
		must.NoError(t, err)
		r.Header.Set("Reads", reads)
		response, err := client.Do(r)
		if err != nil {
			return 0
		}
		must.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	reads.Add(3)
	for _, one := range [...][2]string{{"GET", "/v1/event/stream"}, {"POST", "/v1/jobs/statuses"}, {"GET", "/ui/"}} {
		go send(one[0], one[1], "yes")
	}
	for range 3 {
		<-entered
	}
	answered := make(chan int, 1)
	writes.Go(func() { answered <- send("POST", "/v1/jobs", "") })
	<-entered
	cancel()
	select {
	case code := <-answered:
		must.Eq(t, http.StatusAccepted, code)
	case <-time.After(drainWithin + 10*time.Second):
		t.Fatal("a submission was not answered")
	}
	must.NoError(t, <-done)
	writes.Wait()
}

// kept is a store that the test closes itself.
type kept struct{ Store }

func (k *kept) Close() error { return nil }
