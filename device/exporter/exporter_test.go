package exporter_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-governor/governor/device/exporter"
	"github.com/nomad-governor/governor/device/exporter/metrics"
	"github.com/nomad-governor/governor/device/inventory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that tests move.
type clock struct{ nanoseconds atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nanoseconds.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) Now() time.Time { return time.Unix(0, c.nanoseconds.Load()) }

func (c *clock) advance(d time.Duration) { c.nanoseconds.Add(int64(d)) }

// service is an exporter that runs.
type service struct {
	t      *testing.T
	url    string
	stop   context.CancelFunc
	ended  chan error
	client *http.Client
}

// serve starts an exporter, which ends with the test at the latest.
func serve(t *testing.T, o exporter.Options) *service {
	t.Helper()
	listener, err := exporter.Listen("127.0.0.1:0")
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	s := &service{t: t, url: "http://" + listener.Addr().String(), stop: cancel, ended: make(chan error, 1),
		client: &http.Client{Transport: &http.Transport{}}}
	go func() { s.ended <- exporter.Serve(ctx, listener, o) }()
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		cancel()
		must.NoError(t, <-s.ended)
	})
	return s
}

// end stops the exporter and waits for it.
func (s *service) end() {
	s.t.Helper()
	s.stop()
	err := <-s.ended
	must.NoError(s.t, err)
	s.ended <- nil // for the cleanup
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (s *service) get(method, path string) (answer, error) {
	request, err := http.NewRequestWithContext(context.Background(), method, s.url+path, nil)
	if err != nil {
		return answer{}, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(body)}, err
}

func (s *service) scrape() answer {
	s.t.Helper()
	a, err := s.get(http.MethodGet, "/metrics")
	must.NoError(s.t, err)
	return a
}

func TestAScrapeIsAPage(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := serve(t, exporter.Options{Now: c.Now, Snapshot: func(context.Context) metrics.Snapshot {
		return metrics.Snapshot{Hostname: "gpu-01", PluginVersion: "0.2.0"}
	}})
	a := s.scrape()
	must.Eq(t, http.StatusOK, a.status)
	must.Eq(t, "text/plain; version=0.0.4; charset=utf-8", a.header.Get("Content-Type"))
	must.StrContains(t, a.body, `governor_gpu_build_info{Hostname="gpu-01",version="0.2.0"} 1`)
	for name, c := range map[string]struct {
		method, path string
		status       int
		body         string
	}{
		"only the header":  {http.MethodHead, "/metrics", http.StatusOK, ""},
		"a post":           {http.MethodPost, "/metrics", http.StatusMethodNotAllowed, "Method Not Allowed\n"},
		"the root":         {http.MethodGet, "/", http.StatusOK, "nomad-device-gpu: the metrics are at /metrics\n"},
		"an unknown place": {http.MethodGet, "/debug/pprof/", http.StatusNotFound, "404 page not found\n"},
	} {
		got, err := s.get(c.method, c.path)
		must.NoError(t, err, must.Sprint(name))
		must.Eq(t, c.status, got.status, must.Sprint(name))
		must.Eq(t, c.body, got.body, must.Sprint(name))
	}
}

func TestOneSamplingASecondHoweverManyScrapes(t *testing.T) {
	t.Parallel()
	c := newClock()
	var taken atomic.Int64
	s := serve(t, exporter.Options{Now: c.Now, Snapshot: func(context.Context) metrics.Snapshot {
		return metrics.Snapshot{Fingerprints: inventory.Known(taken.Add(1))}
	}})
	for range 5 {
		must.StrContains(t, s.scrape().body, "governor_gpu_fingerprints_total 1\n")
		c.advance(199 * time.Millisecond)
	}
	c.advance(5 * time.Millisecond)
	must.StrContains(t, s.scrape().body, "governor_gpu_fingerprints_total 2\n")
	c.advance(-time.Hour) // a clock that is set back stops nothing
	must.StrContains(t, s.scrape().body, "governor_gpu_fingerprints_total 3\n")
	must.Eq(t, 3, taken.Load())
}

func TestScrapesShareTheSamplingUnderWay(t *testing.T) {
	t.Parallel()
	c := newClock()
	var taken atomic.Int64
	begun, proceed := make(chan struct{}, 16), make(chan struct{})
	s := serve(t, exporter.Options{Now: c.Now, Snapshot: func(context.Context) metrics.Snapshot {
		begun <- struct{}{}
		<-proceed
		return metrics.Snapshot{Fingerprints: inventory.Known(taken.Add(1))}
	}})
	var wg sync.WaitGroup
	bodies := make(chan string, 8)
	scrape := func() { wg.Go(func() { bodies <- s.scrape().body }) }
	scrape()
	<-begun
	c.advance(time.Minute) // one that takes long is not joined by another
	for range 7 {
		scrape()
	}
	close(proceed)
	wg.Wait()
	close(bodies)
	late := 0
	for body := range bodies {
		if strings.Contains(body, "governor_gpu_fingerprints_total 2\n") {
			late++ // came when the first one had ended
			continue
		}
		must.StrContains(t, body, "governor_gpu_fingerprints_total 1\n")
	}
	must.True(t, taken.Load() == 1 || (taken.Load() == 2 && late > 0))
}

func TestRatesAreOverTheSampleBefore(t *testing.T) {
	t.Parallel()
	c := newClock()
	const uuid = "GPU-0"
	fails := atomic.Bool{}
	var last metrics.Snapshot
	s := serve(t, exporter.Options{Now: c.Now, Snapshot: func(context.Context) metrics.Snapshot {
		if fails.Load() {
			return last // what was sampled last
		}
		now := c.Now()
		last = metrics.Snapshot{At: now, Devices: []metrics.Device{{ID: uuid, GPU: uuid}}, Samples: []inventory.Sample{{
			UUID: uuid, NVLinkSentKiB: inventory.Known(now.Unix() * 3_000_000), NVLinkReceivedKiB: inventory.Known(now.Unix() * 4_000_000)}}}
		return last
	}})
	const name = "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL{"
	must.StrNotContains(t, s.scrape().body, name)
	c.advance(15 * time.Second)
	must.StrContains(t, s.scrape().body, name+`gpu="0",UUID="GPU-0"} 7000`)
	must.StrContains(t, s.scrape().body, name+`gpu="0",UUID="GPU-0"} 7000`)
	fails.Store(true)
	c.advance(15 * time.Second)
	must.StrContains(t, s.scrape().body, name+`gpu="0",UUID="GPU-0"} 7000`)
}

func TestAScrapeDoesNotWaitForever(t *testing.T) {
	t.Parallel()
	c := newClock()
	var taken atomic.Int64
	proceed := make(chan struct{})
	s := serve(t, exporter.Options{Now: c.Now, ScrapeTimeout: 20 * time.Millisecond, Snapshot: func(context.Context) metrics.Snapshot {
		<-proceed
		return metrics.Snapshot{Fingerprints: inventory.Known(taken.Add(1))}
	}})
	for range 3 {
		a := s.scrape()
		must.Eq(t, http.StatusServiceUnavailable, a.status)
		must.Eq(t, "1", a.header.Get("Retry-After"))
		must.Eq(t, "the GPUs could not be sampled in time\n", a.body)
		c.advance(time.Minute)
	}
	close(proceed)
	for s.scrape().status != http.StatusOK { // as soon as it has ended
	}
	must.LessEq(t, 2, taken.Load(), must.Sprint("one hung; no others were begun beside it"))
}

func TestTooManyScrapesAreRefused(t *testing.T) {
	t.Parallel()
	proceed := make(chan struct{})
	s := serve(t, exporter.Options{Now: newClock().Now, Snapshot: func(context.Context) metrics.Snapshot {
		<-proceed
		return metrics.Snapshot{}
	}})
	statuses := make(chan int, 64)
	var wg sync.WaitGroup
	for range 17 {
		wg.Go(func() { statuses <- s.scrape().status })
	}
	must.Eq(t, http.StatusServiceUnavailable, <-statuses, must.Sprint("sixteen wait, so the first to be answered is the other one"))
	close(proceed)
	wg.Wait()
	close(statuses)
	for status := range statuses {
		must.Eq(t, http.StatusOK, status)
	}
}

func TestTheEndIsOrderly(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	s := serve(t, exporter.Options{Now: newClock().Now, Snapshot: func(ctx context.Context) metrics.Snapshot {
		close(begun)
		<-ctx.Done() // as a driver that hangs: what is known is returned
		return metrics.Snapshot{PluginVersion: "x"}
	}})
	body := make(chan string, 1)
	go func() { body <- s.scrape().body }()
	<-begun
	s.end()
	must.StrContains(t, <-body, "governor_gpu_build_info", must.Sprint("a scrape under way is answered"))
	_, err := s.get(http.MethodGet, "/metrics")
	must.Error(t, err)
}

func TestServeSaysWhatIsWrongWithItsListener(t *testing.T) {
	t.Parallel()
	listener, err := exporter.Listen("localhost:0")
	must.NoError(t, err)
	must.NoError(t, listener.Close())
	err = exporter.Serve(context.Background(), listener, exporter.Options{Now: newClock().Now, Logger: hclog.NewNullLogger()})
	must.ErrorContains(t, err, "serve metrics: ")
	must.ErrorIs(t, err, net.ErrClosed)
}

// elsewhere is a listener that says that it listens for everybody.
type elsewhere struct{ net.Listener }

func (elsewhere) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero, Port: 9400} }

func TestServeWarnsOfAnOpenAddress(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wrap func(net.Listener) net.Listener
		want string
	}{
		"this host": {func(l net.Listener) net.Listener { return l }, "[INFO]  metrics are served: address=127.0.0.1:"},
		"everybody": {func(l net.Listener) net.Listener { return elsewhere{l} }, "[WARN]  metrics are served beyond this host, without authentication: address=0.0.0.0:9400"},
	} {
		listener, err := exporter.Listen("127.0.0.1:0")
		must.NoError(t, err)
		var log strings.Builder
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		must.NoError(t, exporter.Serve(ctx, c.wrap(listener), exporter.Options{Now: newClock().Now,
			Logger: hclog.New(&hclog.LoggerOptions{Output: &log, DisableTime: true})}))
		must.StrHasPrefix(t, c.want, log.String(), must.Sprint(name))
	}
}

func TestListenRefuses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"9400":             `the metrics address is "9400"; it must be an address and a port, such as "127.0.0.1:9400"`,
		"127.0.0.1:http":   "whose port is not a number from 0 to 65535",
		"127.0.0.1:65536":  "whose port is not a number from 0 to 65535",
		"127.0.0.1:00":     "whose port is not a number from 0 to 65535",
		"example.com:9400": "whose host is neither an IP address nor localhost",
	} {
		_, err := exporter.Listen(address)
		must.ErrorContains(t, err, want)
	}
	first, err := exporter.Listen("[::1]:0")
	if err != nil {
		first, err = exporter.Listen("127.0.0.1:0") // a host without IPv6
	}
	must.NoError(t, err)
	defer first.Close()
	_, err = exporter.Listen(first.Addr().String())
	must.ErrorContains(t, err, "listen for scrapes (is another exporter there? set another address)")
}

func BenchmarkScrape(b *testing.B) {
	listener, err := exporter.Listen("127.0.0.1:0")
	must.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	var s metrics.Snapshot
	for i := range 8 {
		uuid := fmt.Sprintf("GPU-%d", i)
		s.Devices = append(s.Devices, metrics.Device{ID: uuid, GPU: uuid, Index: i})
		s.Samples = append(s.Samples, inventory.Sample{UUID: uuid, TemperatureC: inventory.Known[int64](40), MemoryUsedMiB: inventory.Known[int64](1)})
	}
	go func() {
		ended <- exporter.Serve(ctx, listener, exporter.Options{Now: time.Now, Logger: hclog.NewNullLogger(),
			Snapshot: func(context.Context) metrics.Snapshot { return s }})
	}()
	client := &http.Client{Transport: &http.Transport{}}
	for b.Loop() {
		response, err := client.Get("http://" + listener.Addr().String() + "/metrics")
		must.NoError(b, err)
		_, err = io.Copy(io.Discard, response.Body)
		must.NoError(b, err)
		must.NoError(b, response.Body.Close())
	}
	client.CloseIdleConnections()
	cancel()
	must.NoError(b, <-ended)
}
