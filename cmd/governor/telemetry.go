package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Limits of the server of metrics. A scrape is answered from memory.
const (
	scrapeTimeout     = 10 * time.Second
	scrapeIdle        = 2 * time.Minute
	scrapeHeaderBytes = 16 << 10
	scrapeCloseWithin = time.Second
)

// serveMetrics serves the metrics, and nothing else, on an address of its own until
// stop is called; "" for none. Whoever reaches it may read them.
func serveMetrics(bind string, metrics http.Handler, logger hclog.Logger) (stop func(), err error) {
	if bind == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", bind)
	if err != nil {
		return nil, fmt.Errorf("listen on telemetry.metrics_bind: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: scrapeTimeout, ReadTimeout: scrapeTimeout, WriteTimeout: scrapeTimeout,
		IdleTimeout: scrapeIdle, MaxHeaderBytes: scrapeHeaderBytes,
		ErrorLog: logger.Named("metrics").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})}
	logger.Info("metrics are served without authentication", "address", listener.Addr().String(), "path", "/metrics")
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("metrics are not served any more", "error", err)
		}
	})
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeCloseWithin)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		running.Wait()
	}, nil
}
