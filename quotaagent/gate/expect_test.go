package gate

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// Nomad says "100 Continue" late, when the gate has given up waiting for it, or at once.
func TestTellOnce(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]time.Duration{"late": 300 * time.Millisecond, "at once": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nomad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(late)
				_, _ = io.Copy(w, r.Body)
			}))
			t.Cleanup(nomad.Close)
			target, err := url.Parse(nomad.URL)
			must.NoError(t, err)
			transport := &http.Transport{ExpectContinueTimeout: 100 * time.Millisecond}
			t.Cleanup(transport.CloseIdleConnections)
			proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { proxy.ServeHTTP(tellOnce(w, r)) }))
			t.Cleanup(front.Close)
			c, err := net.Dial("tcp", front.Listener.Addr().String())
			must.NoError(t, err)
			t.Cleanup(func() { _ = c.Close() })
			_, err = io.WriteString(c, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\nhello")
			must.NoError(t, err)
			answer, err := io.ReadAll(c)
			must.NoError(t, err)
			must.Eq(t, 1, strings.Count(string(answer), "100 Continue"), must.Sprint(string(answer)))
			must.StrHasSuffix(t, "hello", string(answer))
		})
	}
}
