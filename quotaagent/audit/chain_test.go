package audit

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// The canonical form and the hash are for ever: a release that computes another
// one cannot verify what an older one wrote.
func TestTheHashIsForEver(t *testing.T) {
	t.Parallel()
	first, head := Head{}.Append(Record{AtMS: 1773144000000, Kind: "policy.applied", Actor: "11111111-root", Names: []string{"type:management"},
		Subject: "1", Text: "a <b> & c \"d\" é"})
	must.Eq(t, `{"actor":"11111111-root","at_ms":1773144000000,"kind":"policy.applied","names":["type:management"],"seq":1,"subject":"1","text":"a <b> & c \"d\" é"}`,
		string(first.Canonical()))
	must.Eq(t, "d61b2b4779944484530d789e2fec982ddded6c75c0122851a9b2d86b781005ac", first.Hash)
	second, head := head.Append(Record{AtMS: 1773144000001, Kind: "run.opened", Actor: "x", Text: "t"})
	must.Eq(t, first.Hash, second.Prev)
	must.Eq(t, Head{Seq: 2, Hash: second.Hash}, head)
}

func genRecord() *rapid.Generator[Record] {
	return rapid.Custom(func(t *rapid.T) Record {
		text := rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) }) // not only UTF-8
		return Record{Actor: text.Draw(t, "actor"), AtMS: rapid.Int64().Draw(t, "at"), Budget: rapid.String().Draw(t, "budget"),
			Kind: rapid.String().Draw(t, "kind"), Names: rapid.SliceOfN(text, 0, 3).Draw(t, "names"),
			Notify: rapid.SliceOfN(rapid.String(), 0, 2).Draw(t, "notify"), Subject: rapid.String().Draw(t, "subject"), Text: text.Draw(t, "text")}
	})
}

func chainOf(records []Record) []Record {
	var head Head
	out := make([]Record, len(records))
	for i, r := range records {
		out[i], head = head.Append(r)
	}
	return out
}

func reread(t *rapid.T, records []Record) []Record {
	text, err := json.Marshal(records)
	must.NoError(t, err)
	var out []Record
	must.NoError(t, json.Unmarshal(text, &out))
	return out
}

// I7: a chain verifies, also from its middle and after it was stored.
func TestInvariantI7_AChainVerifies(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		records := reread(rt, chainOf(rapid.SliceOfN(genRecord(), 1, 12).Draw(rt, "records")))
		head, err := Head{}.Verify(records)
		must.NoError(rt, err)
		must.Eq(rt, uint64(len(records)), head.Seq)
		from := rapid.IntRange(0, len(records)-1).Draw(rt, "from")
		middle, err := Before(records[from]).Verify(records[from:])
		must.NoError(rt, err)
		must.Eq(rt, head, middle)
	})
}

// I7: whatever is changed, left out, doubled or swapped, the chain does not end in the
// same head, and the break is found at or before the place of it.
func TestInvariantI7_NothingCanBeChangedUnseen(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		records := chainOf(rapid.SliceOfN(genRecord(), 3, 12).Draw(rt, "records"))
		good, err := Head{}.Verify(records)
		must.NoError(rt, err)
		i := rapid.IntRange(0, len(records)-2).Draw(rt, "i")
		switch rapid.SampledFrom([]string{"text", "time", "names", "gone", "twice", "swapped", "rewritten"}).Draw(rt, "how") {
		case "text":
			records[i].Text += "!"
		case "time":
			records[i].AtMS++
		case "names":
			records[i].Names = append([]string{"role:root"}, records[i].Names...)
		case "gone":
			records = append(records[:i:i], records[i+1:]...)
		case "twice":
			records = append(records[:i+1:i+1], records[i:]...)
		case "swapped":
			records[i], records[i+1] = records[i+1], records[i]
		case "rewritten": // with a hash that fits, by somebody who cannot change the rest
			records[i].Text += "!"
			records[i].Hash = records[i].Sum()
		}
		head, err := Head{}.Verify(records)
		must.NotEq(rt, good, head)
		var broken *BrokenError
		must.True(rt, errors.As(err, &broken))
		must.LessEq(rt, uint64(i+2), broken.Seq)
	})
}
