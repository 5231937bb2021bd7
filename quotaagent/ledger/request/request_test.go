package request_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/ledger/request"
	"github.com/shoenig/test/must"
)

func writes(n int) []ledger.Write {
	out := make([]ledger.Write, n)
	for i := range out {
		out[i] = ledger.Write{Key: fmt.Sprintf("k/%03d", i), Value: []byte("v")}
	}
	return out
}

func TestCommitsThatNoStoreTakesAreNamed(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		writes []ledger.Write
		want   string // "" for legal
	}{
		"nothing to write is legal":            {nil, ""},
		"the largest commit is legal":          {writes(ledger.MaxWrites), ""},
		"the largest value is legal":           {[]ledger.Write{{Key: "k", Value: make([]byte, ledger.MaxValue)}}, ""},
		"the longest key is legal":             {[]ledger.Write{{Key: strings.Repeat("k", request.MaxKey)}}, ""},
		"a key below the word leader is legal": {[]ledger.Write{{Key: "leader/x"}}, ""},
		"one write too many":                   {writes(ledger.MaxWrites + 1), "commit of 64 writes: at most 63 are possible, split it"},
		"a key written twice":                  {[]ledger.Write{{Key: "a"}, {Key: "b"}, {Key: "a"}}, `commit: key "a" is written twice, merge the writes`},
		"an empty key":                         {[]ledger.Write{{Key: ""}}, "commit: a key is empty"},
		"a value one byte too large": {
			[]ledger.Write{{Key: "k", Value: make([]byte, ledger.MaxValue+1)}},
			`commit: value of key "k" has 524289 bytes, at most 524288 are possible`,
		},
		"a check alone is legal": {[]ledger.Write{{Key: "k", Version: 7, Check: true}}, ""},
		"a check with a value": {
			[]ledger.Write{{Key: "k", Value: []byte("v"), Check: true}},
			`commit: key "k" is only to be checked and has a value: leave one of them out`,
		},
		"a key checked and written": {
			[]ledger.Write{{Key: "k", Check: true}, {Key: "k", Value: []byte("v")}},
			`commit: key "k" is written twice, merge the writes`,
		},
		"the leader's lock":       {[]ledger.Write{{Key: "leader"}}, `commit: key "leader" is the leader's lock, not a record`},
		"a leading slash":         {[]ledger.Write{{Key: "/a"}}, `commit: key "/a" begins with a slash, leave it out`},
		"a trailing space":        {[]ledger.Write{{Key: "a "}}, `commit: key "a " begins or ends with a space`},
		"broken UTF-8":            {[]ledger.Write{{Key: "a\xff"}}, `commit: key "a\xff" has characters that are not printable UTF-8`},
		"a NUL in the key":        {[]ledger.Write{{Key: "a\x00b"}}, `commit: key "a\x00b" has characters that are not printable UTF-8`},
		"a line break in the key": {[]ledger.Write{{Key: "a\nb"}}, `commit: key "a\nb" has characters that are not printable UTF-8`},
		"a key far too long":      {[]ledger.Write{{Key: strings.Repeat("k", 1025)}}, `commit: key "` + strings.Repeat("k", 40) + `"... has 1025 bytes, at most 1024 are possible`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := request.CheckCommit(c.writes)
			if c.want == "" {
				must.NoError(t, err)
				return
			}
			must.EqError(t, err, c.want)
		})
	}
}

func TestReadsAndPrefixesFollowTheSameRules(t *testing.T) {
	t.Parallel()
	keys := strings.Split(strings.Repeat("k ", request.MaxReads+1)+"k", " ")
	must.NoError(t, request.CheckRead(keys[:request.MaxReads]))
	must.EqError(t, request.CheckRead(keys[:request.MaxReads+1]), "read of 65 keys: at most 64 can be read as one consistent view")
	must.EqError(t, request.CheckRead([]string{"a", ""}), "read: a key is empty")
	must.EqError(t, request.CheckRead([]string{"leader"}), `read: key "leader" is the leader's lock, not a record`)
	must.NoError(t, request.CheckPrefix(""))
	must.NoError(t, request.CheckPrefix("leader"))
	must.EqError(t, request.CheckPrefix("/a"), `prefix "/a" begins with a slash, leave it out`)
}
