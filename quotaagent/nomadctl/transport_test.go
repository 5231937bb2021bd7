package nomadctl_test

import (
	"compress/gzip"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/nomadctl"
)

func TestNoAnswerIsAskedForCompressed(t *testing.T) {
	for _, row := range []struct {
		name string
		wrap func(http.RoundTripper) http.RoundTripper
		want string
	}{
		{"as Nomad's client asks", func(next http.RoundTripper) http.RoundTripper { return next }, "gzip"},
		{"as an agent asks", nomadctl.Uncompressed, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			asked, token := "", ""
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked, token = r.Header.Get("Accept-Encoding"), r.Header.Get("X-Nomad-Token")
				if !strings.Contains(asked, "gzip") {
					_, _ = w.Write([]byte(`"127.0.0.1:4647"`))
					return
				}
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				_, _ = z.Write([]byte(`"127.0.0.1:4647"`))
				_ = z.Close()
			}))
			t.Cleanup(server.Close)
			transport := &http.Transport{DisableCompression: true}
			t.Cleanup(transport.CloseIdleConnections)
			client, err := api.NewClient(&api.Config{Address: server.URL, SecretID: "s3cret", HttpClient: &http.Client{Transport: row.wrap(transport)}})
			must.NoError(t, err)
			leader, err := client.Status().Leader()
			must.NoError(t, err)
			must.Eq(t, "127.0.0.1:4647", leader)
			must.Eq(t, row.want, asked)
			must.Eq(t, "s3cret", token)
		})
	}
}

type recorder struct{ last *http.Request }

func (r *recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	r.last = q
	return nil, http.ErrServerClosed
}

func TestARequestIsLeftAsItIs(t *testing.T) {
	next := &recorder{}
	request := httptest.NewRequest(http.MethodGet, "/v1/jobs", nil)
	request.Header.Set("Accept-Encoding", "gzip")
	request.Header.Set("X-Nomad-Token", "s3cret")
	_, err := nomadctl.Uncompressed(next).RoundTrip(request) //nolint:bodyclose // there is none
	must.ErrorIs(t, err, http.ErrServerClosed)
	must.Eq(t, "gzip", request.Header.Get("Accept-Encoding"))
	must.Eq(t, http.Header{"X-Nomad-Token": {"s3cret"}}, next.last.Header)
}
