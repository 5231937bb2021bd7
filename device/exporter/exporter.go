package exporter

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/device/exporter/metrics"
)

// DefaultAddress is where dcgm-exporter listens too, but on this host only.
const DefaultAddress = "127.0.0.1:9400"

// Limits of the server.
const (
	scrapesMax     = 16
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	closeTimeout   = 3 * time.Second
	headerBytesMax = 16 << 10
	// scrapeTimeout is Prometheus' own default.
	scrapeTimeout = 10 * time.Second
	// sampleTimeout is longer: the next scrape may profit.
	sampleTimeout = 30 * time.Second
)

// Options is what a server needs.
type Options struct {
	// Snapshot says what is known now; the exporter fills in Before. It
	// returns soon after its context ends, with what it has.
	Snapshot func(context.Context) metrics.Snapshot
	Logger   hclog.Logger
	Now      func() time.Time
	// ScrapeTimeout is how long a scrape waits for a snapshot; 0 for ten
	// seconds.
	ScrapeTimeout time.Duration
}

// Listen listens on an address with a port; an empty one is DefaultAddress.
func Listen(address string) (net.Listener, error) {
	address = cmp.Or(address, DefaultAddress)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("the metrics address is %q; it must be an address and a port, such as %q: %w", address, DefaultAddress, err)
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || (number == 0 && port != "0") {
		return nil, fmt.Errorf("the metrics address is %q, whose port is not a number from 0 to 65535; write it such as %q", address, DefaultAddress)
	}
	if host != "" && host != "localhost" && net.ParseIP(host) == nil {
		return nil, fmt.Errorf("the metrics address is %q, whose host is neither an IP address nor localhost; write it such as %q", address, DefaultAddress)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for scrapes (is another exporter there? set another address): %w", err)
	}
	return listener, nil
}

// Serve answers scrapes until ctx ends, and returns when none is under way any
// more. It closes the listener.
func Serve(ctx context.Context, listener net.Listener, o Options) error {
	s := &server{options: o, places: make(chan struct{}, scrapesMax),
		sampler: sampler{take: o.Snapshot, now: o.Now, timeout: sampleTimeout}}
	s.options.ScrapeTimeout = cmp.Or(o.ScrapeTimeout, scrapeTimeout)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) { s.metrics(ctx, w, r) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "nomad-device-gpu: the metrics are at /metrics")
	})
	web := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout,
		WriteTimeout: s.options.ScrapeTimeout + readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytesMax,
		ErrorLog: o.Logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})}
	if !local(listener.Addr()) {
		o.Logger.Warn("metrics are served beyond this host, without authentication", "address", listener.Addr())
	} else {
		o.Logger.Info("metrics are served", "address", listener.Addr())
	}
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(listener) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if web.Shutdown(closing) != nil {
			_ = web.Close() // those that still wait are cut off
		}
		err = <-ended
	}
	for range scrapesMax { // when it has all places, no scrape is under way
		s.places <- struct{}{}
	}
	s.sampler.wg.Wait()
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// local reports whether only this host can reach an address.
func local(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

type server struct {
	options Options
	places  chan struct{} // one for each scrape under way
	sampler sampler
}

// metrics answers one scrape. A sampling lives as long as the server, not as
// the scrape that began it.
func (s *server) metrics(life context.Context, w http.ResponseWriter, r *http.Request) {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		refuse(w, "too many scrapes at once")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.options.ScrapeTimeout)
	defer cancel()
	snapshot, err := s.sampler.snapshot(life, ctx)
	if err != nil {
		refuse(w, "the GPUs could not be sampled in time")
		return
	}
	var page bytes.Buffer
	if err := metrics.Write(&page, snapshot); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(page.Len()))
	if r.Method != http.MethodHead {
		_, _ = w.Write(page.Bytes())
	}
}

// refuse says that a later scrape may succeed.
func refuse(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, why, http.StatusServiceUnavailable)
}
