package agent

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
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

// kept is a store that the test closes itself.
type kept struct{ Store }

func (k *kept) Close() error { return nil }
