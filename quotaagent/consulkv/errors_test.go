package consulkv

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

func TestOnlyALostComparisonIsAConflict(t *testing.T) {
	t.Parallel()
	ops := api.TxnOps{
		kv(api.KVCheckSession, "g/leader"), kv(api.KVCAS, "g/a"), kv(api.KVCheckNotExists, "g/b"),
		kv(api.KVCheckIndex, "g/c"), kv(api.KVDelete, "g/c"),
	}
	cases := map[string]struct {
		index    int
		what     string
		conflict bool
	}{
		"a session that is another's":             {0, `failed session check for key "g/leader", current session "x" != "y"`, true},
		"a lock that nobody holds":                {0, `failed to check session, key "g/leader" doesn't exist`, true},
		"a version that differs":                  {1, `failed to set key "g/a", index is stale`, true},
		"a key that exists":                       {2, `key "g/b" exists`, true},
		"a deleted key whose version differs":     {3, `failed index check for key "g/c", current modify index 7 != 8`, true},
		"a deleted key that is gone":              {3, `failed to check index, key "g/c" doesn't exist`, true},
		"a comparison of another key":             {1, `failed to set key "g/b", index is stale`, false},
		"a comparison at another operation":       {2, `failed to set key "g/a", index is stale`, false},
		"a missing permission":                    {1, `Permission denied: token with AccessorID 'x' lacks permission 'key:write' on "g/a"`, false},
		"an error of Consul's own":                {1, `failed kvs lookup: corrupt`, false},
		"a text at an operation that cannot lose": {4, `key "g/c" exists`, false},
		"an operation that was not asked for":     {9, `key "g/b" exists`, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := verdict(ops, api.TxnErrors{{OpIndex: c.index, What: c.what}})
			must.Eq(t, c.conflict, errors.Is(err, ledger.ErrConflict))
			must.ErrorContains(t, err, c.what)
			must.False(t, errors.Is(err, ledger.ErrUnavailable))
		})
	}
	mixed := api.TxnErrors{{OpIndex: 1, What: `failed to set key "g/a", index is stale`}, {OpIndex: 2, What: "Permission denied"}}
	must.False(t, errors.Is(verdict(ops, mixed), ledger.ErrConflict))
}

func TestWhateverMayPassIsUnavailable(t *testing.T) {
	t.Parallel()
	status := func(code int) error {
		return fmt.Errorf("outer: %w", &url.Error{Op: "Put", URL: "u", Err: api.StatusError{Code: code, Body: "text"}})
	}
	cases := map[string]struct {
		err         error
		unavailable bool
	}{
		"a connection cut":    {io.ErrUnexpectedEOF, true},
		"no cluster leader":   {status(http.StatusInternalServerError), true},
		"a rate limit":        {status(http.StatusTooManyRequests), true},
		"a proxy's timeout":   {status(http.StatusGatewayTimeout), true},
		"a permission denied": {status(http.StatusForbidden), false},
		"a body too large":    {status(http.StatusRequestEntityTooLarge), false},
		"a bad request":       {status(http.StatusBadRequest), false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := classify(c.err)
			must.Eq(t, c.unavailable, errors.Is(err, ledger.ErrUnavailable))
			must.ErrorIs(t, err, c.err)
		})
	}
}

func TestAnIndexNeverGoesBackwardsOrToZeroUnnoticed(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ index, now, want uint64 }{
		"the first query":           {0, 7, 7},
		"a change":                  {7, 9, 9},
		"no change":                 {7, 7, 7},
		"a restored snapshot":       {7, 3, 0},
		"an index lost altogether":  {7, 0, 0},
		"a server without an index": {0, 0, 1},
	}
	for name, c := range cases {
		must.Eq(t, c.want, nextIndex(c.index, c.now), must.Sprint(name))
	}
}

// A server may break in ways that a real one cannot be made to: each answer
// must end as the right kind of error, never as success.
func TestBrokenAnswersAreErrors(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		code        int
		body        string
		unavailable bool
	}{
		"no cluster leader":           {500, "No cluster leader", true},
		"a rate limit":                {429, "retry later", true},
		"half a document":             {200, `{"Results": [{"KV"`, true},
		"rolled back without a word":  {409, `{"Results": null, "Errors": null}`, false},
		"a path that does not exist":  {404, "404 page not found", true},
		"no rights":                   {403, "Permission denied", false},
		"the answer to another query": {200, `{"Results": [{"KV": {"Key": "other"}}]}`, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if how := r.Header.Get("Accept-Encoding"); how != "" {
					t.Errorf("Consul is asked for %s answers, which are dear to it", how)
				}
				w.WriteHeader(c.code)
				_, _ = io.WriteString(w, c.body)
			}))
			t.Cleanup(server.Close)
			store, err := New(Config{Address: server.URL}, hclog.NewNullLogger())
			must.NoError(t, err)
			t.Cleanup(func() { must.NoError(t, store.Close()) })
			_, err = store.Read(t.Context(), "hold/1")
			must.Error(t, err)
			must.Eq(t, c.unavailable, errors.Is(err, ledger.ErrUnavailable), must.Sprint(err))
			must.False(t, errors.Is(err, ledger.ErrConflict))
		})
	}
}
