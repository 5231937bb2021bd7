package agent

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestWhoManagesMayLookIntoAnAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.configuration, r.version = map[string]any{"name": "test"}, "1.2.3"
	r.clock.advance(time.Minute)
	answer := ask(r.Agent, root, http.MethodGet, "/governor/v1/operator/debug", nil)
	must.Eq(t, http.StatusOK, answer.Code)
	var v DebugView
	must.NoError(t, json.Unmarshal(answer.Body.Bytes(), &v))
	must.Eq(t, map[string]any{"name": "test"}, v.Configuration)
	must.Eq(t, "1.2.3", v.Agent.Version)
	must.Eq(t, time.Minute.Milliseconds(), v.Process.UptimeMS)
	must.Eq(t, runtime.Version(), v.Process.Go)
	must.Positive(t, v.Process.HeapBytes)
	must.Eq(t, "sqlite", v.Ledger.Server)
	must.StrHasPrefix(t, "3.", v.Ledger.Version)

	answer = ask(r.Agent, root, http.MethodGet, "/governor/v1/operator/profile/goroutine", nil)
	must.StrHasPrefix(t, "goroutine profile: total ", answer.Body.String())
	answer = ask(r.Agent, root, http.MethodGet, "/governor/v1/operator/profile/heap", nil)
	_, err := gzip.NewReader(bytes.NewReader(answer.Body.Bytes()))
	must.NoError(t, err)
	answer = ask(r.Agent, root, http.MethodGet, "/governor/v1/operator/profile/cmdline", nil)
	must.Eq(t, http.StatusNotFound, answer.Code)
	contains(t, answer.Body.String(), `there is no profile \"cmdline\"; there are: goroutine, heap`)

	for _, path := range []string{"debug", "profile/heap", "profile/goroutine", "profile/cmdline"} {
		answer = get(r.Agent, "/governor/v1/operator/"+path)
		must.Eq(t, http.StatusForbidden, answer.Code, must.Sprint(path))
		contains(t, answer.Body.String(), "to look into an agent needs a Nomad management token")
	}
}
