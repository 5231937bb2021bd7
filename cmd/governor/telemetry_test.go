package main

import (
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
)

// freeAddress is a loopback address on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func TestMetricsHaveAnAddressOfTheirOwn(t *testing.T) {
	t.Parallel()
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "governor_leader 1\n") })
	bind := freeAddress(t)
	stop, err := serveMetrics(bind, page, hclog.NewNullLogger())
	must.NoError(t, err)
	_, err = serveMetrics(bind, page, hclog.NewNullLogger())
	must.ErrorContains(t, err, "listen on telemetry.metrics_bind: ")
	get := func(method, path string) int {
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+bind+path, nil)
		must.NoError(t, err)
		request.Close = true
		response, err := http.DefaultClient.Do(request)
		must.NoError(t, err)
		defer response.Body.Close()
		return response.StatusCode
	}
	must.Eq(t, http.StatusOK, get(http.MethodGet, "/metrics"))
	must.Eq(t, http.StatusMethodNotAllowed, get(http.MethodPost, "/metrics"))
	must.Eq(t, http.StatusNotFound, get(http.MethodGet, "/v1/jobs"))
	stop()
	_, err = net.Dial("tcp", bind)
	must.Error(t, err)
	stop, err = serveMetrics("", page, hclog.NewNullLogger())
	must.NoError(t, err)
	stop()
}
