package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/quotaagent/nomadevents"
	"github.com/shoenig/test/must"
)

// The agent's documented token may not read agents: only among several regions it
// would have to.
func TestTheRegionIsAskedOfWhoMayBeAsked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		regions, self string
		want, err     string
	}{
		"one region":                    {regions: `["eu"]`, want: "eu"},
		"several, and agents are read":  {regions: `["eu", "us"]`, self: `{"config": {"Region": "us"}}`, want: "us"},
		"several, and they are not":     {regions: `["eu", "us"]`, err: "Permission denied"},
		"an agent that names no region": {regions: `["eu", "us"]`, self: `{"config": {}}`, err: "names no region"},
		"Nomad has no leader yet":       {err: "ask nomad for its regions"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if how := r.Header.Get("Accept-Encoding"); how != "" {
					t.Errorf("the agent asks Nomad for %s answers, which are dear to it", how)
				}
				answer := map[string]string{"/v1/regions": c.regions, "/v1/agent/self": c.self}[r.URL.Path]
				if answer == "" {
					http.Error(w, "Permission denied", http.StatusForbidden)
					return
				}
				_, _ = w.Write([]byte(answer))
			}))
			t.Cleanup(server.Close)
			client, err := nomadClient(&agentconfig.Nomad{Address: server.URL}, nomadevents.NewClock(time.Now), hclog.NewNullLogger())
			must.NoError(t, err)
			got, err := askRegion(t.Context(), client)
			if c.err != "" {
				must.ErrorContains(t, err, c.err)
				return
			}
			must.NoError(t, err)
			must.Eq(t, c.want, got)
		})
	}
}
