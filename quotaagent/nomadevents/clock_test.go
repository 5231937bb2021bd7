package nomadevents

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

func TestAClockAheadOfNomadsIsNoticed(t *testing.T) {
	t.Parallel()
	date := "Tue, 10 Mar 2026 12:00:00 GMT"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = []string{date}
		if date == "" {
			w.Header()["Date"] = nil
		}
		_, _ = w.Write([]byte("[]"))
	}))
	t.Cleanup(server.Close)
	noon := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	at := noon
	clock := NewClock(func() time.Time { return at })
	must.Eq(t, 0, clock.Ahead())
	nomad, err := api.NewClient(&api.Config{Address: server.URL, HttpClient: &http.Client{Transport: clock.Watch(http.DefaultTransport)}})
	must.NoError(t, err)
	client := New(nomad, clock)
	for _, c := range []struct {
		date        string
		ours, ahead time.Duration
	}{
		{date, 0, 0},
		{date, time.Second - time.Millisecond, 0}, // Nomad's clock may show as much
		{date, 70 * time.Second, 69 * time.Second},
		{"", time.Second, 69 * time.Second}, // the answer does not say
		{"soon", time.Second, 69 * time.Second},
		{date, -time.Hour, 0},
	} {
		date, at = c.date, noon.Add(c.ours)
		_, err := client.Snapshot(t.Context())
		must.NoError(t, err)
		must.Eq(t, c.ahead, client.Ahead(), must.Sprint(c))
	}
	must.Eq(t, 0, New(nomad, nil).Ahead())
}
