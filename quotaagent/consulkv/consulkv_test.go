package consulkv_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/internal/consultest"
	"github.com/nomad-governor/governor/quotaagent/consulkv"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/ledger/storetest"
	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, config consulkv.Config) *consulkv.Store {
	store, err := consulkv.New(config, hclog.NewNullLogger())
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, store.Close()) })
	return store
}

func TestContract(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	var stores atomic.Int64
	storetest.Run(t, func(t *testing.T) storetest.Store {
		prefix := fmt.Sprintf("contract-%d/governor", stores.Add(1))
		return open(t, consulkv.Config{Address: server.Addr, Prefix: prefix})
	})
}

func BenchmarkCommit(b *testing.B) {
	server := consultest.Start(b)
	storetest.BenchmarkCommit(b, open(b, consulkv.Config{Address: server.Addr}))
}

var someWrite = []ledger.Write{{Key: "hold/1", Value: []byte("h")}}

// mustBeUnavailable makes every kind of call and wants each to end in time.
func mustBeUnavailable(t *testing.T, store *consulkv.Store, limit time.Duration) {
	t.Helper()
	calls := map[string]func() error{
		"read":  func() error { _, err := store.Read(t.Context(), "hold/1"); return err },
		"list":  func() error { _, _, err := store.List(t.Context(), ""); return err },
		"write": func() error { return store.Commit(t.Context(), ledger.Fence{}, someWrite) },
		"check": func() error { return store.Commit(t.Context(), ledger.Fence{}, []ledger.Write{{Key: "absent"}}) },
		"who":   func() error { _, err := store.Leader(t.Context()); return err },
	}
	for name, call := range calls {
		start := time.Now()
		err := call()
		must.ErrorIs(t, err, ledger.ErrUnavailable, must.Sprint(name))
		must.False(t, errors.Is(err, ledger.ErrConflict), must.Sprint(name))
		must.Less(t, limit, time.Since(start), must.Sprint(name))
	}
}

func await[T any](t *testing.T, limit time.Duration, what string, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(limit):
		t.Fatalf("not within %v: %s", limit, what)
		panic("unreachable")
	}
}

// lead campaigns until the test ends, and tells of the begin and end of terms.
func lead(t *testing.T, store *consulkv.Store) (gained, lost <-chan ledger.Fence) {
	ctx, cancel := context.WithCancel(t.Context())
	begun, ended, done := make(chan ledger.Fence, 16), make(chan ledger.Fence, 16), make(chan struct{})
	go func() {
		defer close(done)
		store.Lead(ctx, "one", func(ctx context.Context, fence ledger.Fence) {
			begun <- fence
			<-ctx.Done()
			ended <- fence
		})
	}()
	t.Cleanup(func() {
		cancel()
		await(t, 30*time.Second, "Lead to return", done)
	})
	return begun, ended
}

func TestAnOutageIsReportedInTimeAndSurvived(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	store := open(t, consulkv.Config{Address: server.Addr, Timeout: 2 * time.Second})
	must.NoError(t, store.Commit(t.Context(), ledger.Fence{}, []ledger.Write{{Key: "hold/kept", Value: []byte("k")}}))
	gained, lost := lead(t, store)
	fence := await(t, 5*time.Second, "the first term", gained)

	server.Stop()
	mustBeUnavailable(t, store, 3*time.Second)
	_, err := store.Watch(t.Context(), "", 1)
	must.ErrorIs(t, err, ledger.ErrUnavailable)
	must.Eq(t, fence, await(t, 12*time.Second, "the leader to step down after its TTL", lost))

	server.Start()
	next := await(t, 5*time.Second, "leadership to be regained, not after the old session's TTL", gained)
	must.NotEq(t, fence, next)
	must.ErrorIs(t, store.Commit(t.Context(), fence, someWrite), ledger.ErrConflict)
	must.NoError(t, store.Commit(t.Context(), next, someWrite))
	records, err := store.Read(t.Context(), "hold/kept", "hold/1")
	must.NoError(t, err)
	must.Eq(t, "k", string(records[0].Value))
	must.Eq(t, "h", string(records[1].Value))
}

func TestAFrozenServerIsUnavailableAndAShortFreezeKeepsTheLeader(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	store := open(t, consulkv.Config{Address: server.Addr, Timeout: 500 * time.Millisecond})
	gained, lost := lead(t, store)
	fence := await(t, 5*time.Second, "the first term", gained)

	server.Pause()
	mustBeUnavailable(t, store, 2*time.Second)
	server.Resume()
	must.Wait(t, wait.InitialSuccess(wait.Timeout(5*time.Second), wait.ErrorFunc(func() error {
		return store.Commit(t.Context(), fence, []ledger.Write{{Key: "run/absent"}})
	})))
	select {
	case <-lost:
		t.Fatal("a freeze shorter than the TTL ended the term")
	case <-time.After(4 * time.Second): // more than a third of the TTL: it renews again
	}
	must.NoError(t, store.Commit(t.Context(), fence, []ledger.Write{{Key: "run/absent"}}))
}

// operate sends one request to the API, as an operator would with curl.
func operate(t *testing.T, method, url, token, body string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	must.NoError(t, err)
	request.Header.Set("X-Consul-Token", token)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	must.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must.NoError(t, err)
	must.Eq(t, http.StatusOK, response.StatusCode, must.Sprint(string(text)))
	return string(text)
}

func TestALeaderWhoseLockIsTakenAwayStopsAtOnce(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	store := open(t, consulkv.Config{Address: server.Addr})
	gained, lost := lead(t, store)
	cases := []struct{ name, method, path string }{
		{"the session is destroyed", http.MethodPut, "/v1/session/destroy/%s"},
		{"the lock is released", http.MethodPut, "/v1/kv/governor/leader?release=%s"},
		{"the lock is deleted", http.MethodDelete, "/v1/kv/governor/leader?%s"},
	}
	for _, c := range cases {
		fence := await(t, 5*time.Second, "a term before "+c.name, gained)
		operate(t, c.method, "http://"+server.Addr+fmt.Sprintf(c.path, fence.Session), "", "")
		must.Eq(t, fence, await(t, 5*time.Second, "the end of the term after "+c.name, lost))
		must.ErrorIs(t, store.Commit(t.Context(), fence, someWrite), ledger.ErrConflict, must.Sprint(c.name))
	}
	await(t, 5*time.Second, "a last term", gained)
}

func TestAnExternalEditWakesAWatch(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	store := open(t, consulkv.Config{Address: server.Addr})
	_, index, err := store.List(t.Context(), "policy/")
	must.NoError(t, err)
	woken := make(chan error, 1)
	go func() {
		_, err := store.Watch(t.Context(), "policy/", index)
		woken <- err
	}()
	operate(t, http.MethodPut, "http://"+server.Addr+"/v1/kv/governor/policy/a.hcl", "", "text")
	must.NoError(t, await(t, time.Second, "the watch to see an operator's edit", woken))
	records, _, err := store.List(t.Context(), "policy/")
	must.NoError(t, err)
	must.Eq(t, "text", string(records[0].Value))
	records[0].Value = []byte("next")
	must.NoError(t, store.Commit(t.Context(), ledger.Fence{}, []ledger.Write{{Key: records[0].Key, Value: records[0].Value, Version: records[0].Version}}))

	now, err := store.Watch(t.Context(), "policy/", index+1000000)
	must.NoError(t, err)
	must.Zero(t, now, must.Sprint("an index from the future restarts the watch"))
}

func TestMissingRightsAreNeitherAbsenceNorConflictNorOutage(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t, `-hcl=acl { enabled = true, default_policy = "deny", tokens { initial_management = "root" } }`)
	root := open(t, consulkv.Config{Address: server.Addr, Token: "root"})
	// The token of the configuration is made just after the election.
	must.Wait(t, wait.InitialSuccess(wait.Timeout(10*time.Second), wait.ErrorFunc(func() error {
		return root.Commit(t.Context(), ledger.Fence{}, []ledger.Write{{Key: "absent"}})
	})))
	must.NoError(t, root.Commit(t.Context(), ledger.Fence{}, someWrite))
	operate(t, http.MethodPut, "http://"+server.Addr+"/v1/acl/policy", "root", `{"Name": "narrow", "Rules": "key \"governor/hold/1\" { policy = \"read\" }"}`)
	operate(t, http.MethodPut, "http://"+server.Addr+"/v1/acl/token", "root",
		`{"SecretID": "11111111-1111-1111-1111-111111111111", "Policies": [{"Name": "narrow"}]}`)
	narrow := open(t, consulkv.Config{Address: server.Addr, Token: "11111111-1111-1111-1111-111111111111"})

	plain := func(err error, text string) {
		t.Helper()
		must.ErrorContains(t, err, text)
		must.False(t, errors.Is(err, ledger.ErrConflict) || errors.Is(err, ledger.ErrUnavailable), must.Sprint(err))
	}
	records, err := narrow.Read(t.Context(), "hold/1")
	must.NoError(t, err)
	must.Eq(t, "h", string(records[0].Value))
	_, err = narrow.Read(t.Context(), "hold/1", "hold/2")
	plain(err, `the token needs key:read below "governor/"`)
	must.NoError(t, root.Commit(t.Context(), ledger.Fence{}, []ledger.Write{{Key: "hold/2", Value: []byte("h")}}))
	_, _, err = narrow.List(t.Context(), "hold/")
	plain(err, `the token needs key:read below "governor/"`)
	plain(narrow.Commit(t.Context(), ledger.Fence{}, []ledger.Write{{Key: "hold/1", Value: []byte("x"), Version: records[0].Version}}), "Permission denied")
	unknown := open(t, consulkv.Config{Address: server.Addr, Token: "22222222-2222-2222-2222-222222222222"})
	plain(unknown.Commit(t.Context(), ledger.Fence{}, someWrite), "ACL not found")
}

func TestTheShippedPolicyIsEnoughAndNoMore(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t, `-hcl=acl { enabled = true, default_policy = "deny", tokens { initial_management = "root" } }`)
	root := open(t, consulkv.Config{Address: server.Addr, Token: "root", Prefix: "other/"})
	must.Wait(t, wait.InitialSuccess(wait.Timeout(10*time.Second), wait.ErrorFunc(func() error {
		return root.Commit(t.Context(), ledger.Fence{}, someWrite)
	})))
	rules, err := os.ReadFile(filepath.Join("..", "..", "jobs", "acl", "governor-agent.consul.hcl"))
	must.NoError(t, err)
	policy, err := json.Marshal(map[string]string{"Name": "governor", "Rules": string(rules)})
	must.NoError(t, err)
	operate(t, http.MethodPut, "http://"+server.Addr+"/v1/acl/policy", "root", string(policy))
	const token = "33333333-3333-3333-3333-333333333333"
	operate(t, http.MethodPut, "http://"+server.Addr+"/v1/acl/token", "root", `{"SecretID": "`+token+`", "Policies": [{"Name": "governor"}]}`)

	agent := open(t, consulkv.Config{Address: server.Addr, Token: token})
	must.NoError(t, agent.Commit(t.Context(), ledger.Fence{}, someWrite))
	records, _, err := agent.List(t.Context(), "hold/")
	must.NoError(t, err)
	must.Len(t, 1, records)
	ctx, resign := context.WithCancel(t.Context())
	agent.Lead(ctx, "one", func(_ context.Context, fence ledger.Fence) {
		must.NoError(t, agent.Commit(t.Context(), fence, []ledger.Write{{Key: "hold/2", Value: []byte("h")}}))
		resign()
	})
	must.Error(t, ctx.Err(), must.Sprint("it led"))
	elsewhere := open(t, consulkv.Config{Address: server.Addr, Token: token, Prefix: "other/"})
	_, err = elsewhere.Read(t.Context(), "hold/1")
	must.ErrorContains(t, err, "the token needs key:read")
	must.Error(t, elsewhere.Commit(t.Context(), ledger.Fence{}, []ledger.Write{{Key: "hold/3", Value: []byte("h")}}))
}

func TestACommitTooLargeForConsulSaysSo(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	store := open(t, consulkv.Config{Address: server.Addr})
	err := store.Commit(t.Context(), ledger.Fence{}, []ledger.Write{{Key: "policy/big", Value: make([]byte, ledger.MaxValue)}})
	must.ErrorContains(t, err, "larger than this consul takes, split it or raise txn_max_req_len")
	must.False(t, errors.Is(err, ledger.ErrConflict) || errors.Is(err, ledger.ErrUnavailable))
}

func TestWrongSettingsAreNamed(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		config consulkv.Config
		want   string
	}{
		"a prefix with a leading slash": {consulkv.Config{Prefix: "/governor"}, `consul prefix "/governor" begins with a slash`},
		"a negative timeout":            {consulkv.Config{Timeout: -time.Second}, "must not be negative"},
		"a missing CA file":             {consulkv.Config{TLS: consulkv.TLS{CAFile: "/missing/ca.pem"}}, "/missing/ca.pem"},
		"an unknown scheme":             {consulkv.Config{Address: "ftp://127.0.0.1"}, "Unknown protocol scheme: ftp"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := consulkv.New(c.config, hclog.NewNullLogger())
			must.ErrorContains(t, err, c.want)
		})
	}
}

func TestServerSaysWhatItIs(t *testing.T) {
	t.Parallel()
	name, version, err := open(t, consulkv.Config{Address: consultest.Start(t).Addr}).Server(t.Context())
	must.NoError(t, err)
	must.Eq(t, "consul", name)
	must.RegexMatch(t, regexp.MustCompile(`^1\.[0-9]+\.[0-9]+`), version)

	forbidding := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "Permission denied: lacks permission 'agent:read'", http.StatusForbidden)
	}))
	t.Cleanup(forbidding.Close)
	_, _, err = open(t, consulkv.Config{Address: forbidding.URL}).Server(t.Context())
	must.EqError(t, err, "the agent's Consul token may not read agents (agent:read)")
	forbidding.Close()
	_, _, err = open(t, consulkv.Config{Address: forbidding.URL}).Server(t.Context())
	must.ErrorIs(t, err, ledger.ErrUnavailable)
}
