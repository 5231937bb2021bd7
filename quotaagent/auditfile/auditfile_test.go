package auditfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nomad-governor/governor/quotaagent/audit"
	"github.com/shoenig/test/must"
)

func chain(n int) []audit.Record {
	var head audit.Head
	out := make([]audit.Record, n)
	for i := range out {
		out[i], head = head.Append(audit.Record{AtMS: int64(i), Kind: "run.opened", Actor: "a", Text: fmt.Sprint("record ", i+1)})
	}
	return out
}

func open(t *testing.T, path string) *File {
	f, err := Open(path)
	must.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestRecordsAreKeptAcrossRestarts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	records := chain(2500)
	f := open(t, path)
	must.NoError(t, f.Keep(t.Context(), records[:1200]))
	must.NoError(t, f.Keep(t.Context(), records[1000:1300]), must.Sprint("what is known is nothing new"))
	must.NoError(t, f.Close())
	f = open(t, path)
	must.Eq(t, uint64(1300), f.Last())
	must.NoError(t, f.Keep(t.Context(), records[1300:]))
	for _, from := range []int{0, 1, 2, 999, 1000, 1001, 1301, 2400, 2500, 2501} {
		got, err := f.Records(t.Context(), uint64(from), 300)
		must.NoError(t, err)
		first := max(0, from-1)
		must.Eq(t, records[first:min(first+300, 2500)], got, must.Sprint(from))
	}
	info, err := os.Stat(path)
	must.NoError(t, err)
	must.Eq(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestWhatDoesNotFollowIsRefused(t *testing.T) {
	t.Parallel()
	f := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	records := chain(10)
	must.NoError(t, f.Keep(t.Context(), records[:3]))

	changed := chain(10)
	changed[4].Text = "something else"
	must.ErrorContains(t, f.Keep(t.Context(), changed[3:6]), "record 5 does not have the hash of its content")
	var fork audit.Head
	var other []audit.Record
	for i := range 4 {
		var r audit.Record
		r, fork = fork.Append(audit.Record{Kind: "run.opened", Text: fmt.Sprint("another ", i)})
		other = append(other, r)
	}
	must.ErrorContains(t, f.Keep(t.Context(), other[3:]), "record 4 does not follow")
	must.Eq(t, uint64(3), f.Last())
	must.NoError(t, f.Keep(t.Context(), records[6:]), must.Sprint("a gap is only a gap"))
	got, err := f.Records(t.Context(), 1, 100)
	must.NoError(t, err)
	must.Eq(t, append(records[:3:3], records[6:]...), got)
}

func TestOpenFindsWhatWasChanged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(text string) string
		says   string
	}{
		"a text":      {func(s string) string { return strings.Replace(s, "record 2", "record 9", 1) }, ":2: audit record 2 does not have the hash"},
		"no record":   {func(s string) string { return strings.Replace(s, "\n{", "\n[", 1) }, ":2 is no audit record"},
		"two swapped": {func(s string) string { l := strings.SplitAfter(s, "\n"); return l[1] + l[0] + l[2] }, ":2: audit record 1 is there twice"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			f := open(t, path)
			must.NoError(t, f.Keep(t.Context(), chain(3)))
			must.NoError(t, f.Close())
			text, err := os.ReadFile(path)
			must.NoError(t, err)
			must.NoError(t, os.WriteFile(path, []byte(c.change(string(text))), 0o600))
			_, err = Open(path)
			must.ErrorContains(t, err, c.says)
		})
	}
}

// A crash in the middle of a write leaves a part of a line behind.
func TestALineThatWasCutIsWrittenAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	records := chain(4)
	f := open(t, path)
	must.NoError(t, f.Keep(t.Context(), records))
	must.NoError(t, f.Close())
	text, err := os.ReadFile(path)
	must.NoError(t, err)
	for cut := len(text) - 1; cut >= 0; cut -= 7 {
		must.NoError(t, os.WriteFile(path, text[:cut], 0o600))
		f := open(t, path)
		must.NoError(t, f.Keep(t.Context(), records))
		got, err := f.Records(t.Context(), 1, 10)
		must.NoError(t, err)
		must.Eq(t, records, got, must.Sprint(cut))
		must.NoError(t, f.Close())
	}
}
