package ledger_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/nomad-governor/governor/internal/quantity"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// uuid has the entropy of a real one, which is what does not compress.
func uuid(r *rand.Rand) string {
	a, b := r.Uint64(), r.Uint64()
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", a>>32, a>>16&0xffff, a&0xffff, b>>48, b&0xffffffffffff)
}

// crowd is a hold with so many running allocations of one GPU each, and what was
// just posted for each of them in its outbox.
func crowd(n int) ledger.Hold {
	r := rand.New(rand.NewPCG(1, 2))
	h := ledger.Hold{ID: "h-0123456789abcdef", Namespace: "research-nlp", JobID: "sweep", Budget: "acme/research/nlp", State: ledger.Active,
		Posted: ledger.Usage{Cost: 12}}
	var entries []ledger.Entry
	for i := range n {
		alloc, gpu := uuid(r), "GPU-"+uuid(r)
		start := int64(1_780_000_000_000) + r.Int64N(600_000)
		h.Tracks = append(h.Tracks, ledger.Track{Alloc: alloc, Name: fmt.Sprintf("sweep.g[%d]", i), Group: "g", CreateIndex: 1000 + uint64(i/16),
			StartMS: start, MarkMS: 1_780_000_700_000, GPUs: []ledger.TrackGPUs{{Class: "h100", IDs: []string{gpu}, PerGPUHour: 2_900_000}}})
		entries = append(entries, ledger.Entry{Key: "u/" + alloc + "/h100/1780000670000", Kind: "usage", Budget: h.Budget, Namespace: h.Namespace,
			JobID: h.JobID, HoldID: h.ID, Alloc: alloc, Class: "h100", GPUs: []string{gpu}, FromMS: 1_780_000_670_000, ToMS: 1_780_000_700_000,
			GPUTime: 30_000, Cost: 24_166, RateCard: "onprem-2026h2"})
	}
	return h.PutOut(entries)
}

func TestLargeDocumentsAreStoredCompressedAndSmallOnesReadable(t *testing.T) {
	t.Parallel()
	small, err := ledger.EncodeHold(crowd(2))
	must.NoError(t, err)
	must.Eq(t, byte('{'), small[0])
	for name, h := range map[string]ledger.Hold{"none": crowd(0), "one": crowd(1), "hundred": crowd(100), "all run": crowd(5000), "all end": ended(crowd(5000))} {
		value, err := ledger.EncodeHold(h)
		must.NoError(t, err)
		again, err := ledger.EncodeHold(h)
		must.NoError(t, err)
		must.Eq(t, value, again, must.Sprint("equal documents have equal bytes"))
		back, err := ledger.DecodeHold(value)
		must.NoError(t, err)
		must.Eq(t, len(h.Tracks), len(back.Tracks))
		must.Eq(t, h.Entries(), append([]ledger.Entry{}, back.Entries()...), must.Sprint(name))
		must.Less(t, valueInConsul, len(value), must.Sprint(name))
	}
}

// ended is a hold of which all allocations were just posted to their end.
func ended(h ledger.Hold) ledger.Hold {
	for _, t := range h.Tracks {
		h.Finished = append(h.Finished, t.Alloc)
	}
	h.Tracks = nil
	return h
}

// valueInConsul is the largest value that fits into one transaction of Consul: it
// goes there in base64, beside the balances.
const valueInConsul = 370 << 10

func TestBrokenDocumentsAreErrors(t *testing.T) {
	t.Parallel()
	whole, err := ledger.EncodeHold(crowd(1000))
	must.NoError(t, err)
	for name, value := range map[string][]byte{
		"half of it":    whole[:len(whole)/2],
		"no gzip":       {1, 2, 3},
		"the mark only": {1},
		"changed":       append(bytes.Clone(whole[:len(whole)-5]), 0, 0, 0, 0, 0),
		"not a hold":    []byte(`[1]`),
	} {
		_, err := ledger.DecodeHold(value)
		must.ErrorContains(t, err, "decode hold", must.Sprint(name))
	}
	_, err = ledger.Decode[ledger.Remains]([]byte{1})
	must.ErrorContains(t, err, "decode ledger.Remains")
	_, err = ledger.DecodeBalance([]byte{1})
	must.ErrorContains(t, err, "decode balance")
}

func TestAnOutboxGivesBackTheEntriesThatWerePutIn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := ledger.Hold{ID: "h-1", Namespace: "default", JobID: "job", Budget: "a/b", Accessor: "me"}
		some := rapid.SampledFrom([]string{"", "h-1", "default", "job", "a/b", "me", "other"})
		entries := make([]ledger.Entry, rapid.IntRange(0, 4).Draw(t, "entries"))
		for i := range entries {
			entries[i] = ledger.Entry{Key: fmt.Sprint(i), Kind: "usage", Budget: some.Draw(t, "budget"), Namespace: "default", JobID: "job",
				HoldID: some.Draw(t, "hold"), Run: some.Draw(t, "run"), Submitter: some.Draw(t, "submitter"),
				Tokens: map[budget.TokenKind]quantity.Amount{"input": 7}}
		}
		out := h.PutOut(entries[:len(entries)/2]).PutOut(entries[len(entries)/2:])
		out.Budget, out.Accessor = "c", "you" // a resubmission meanwhile
		value, err := ledger.EncodeHold(out)
		must.NoError(t, err)
		back, err := ledger.DecodeHold(value)
		must.NoError(t, err)
		must.Eq(t, entries, append([]ledger.Entry{}, back.Entries()...))
		must.SliceEmpty(t, back.Sent().Entries())
		must.SliceEmpty(t, h.Outbox)
	})
}

func FuzzDecodeHold(f *testing.F) {
	for _, n := range []int{0, 2, 200} {
		value, err := ledger.EncodeHold(crowd(n))
		must.NoError(f, err)
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		h, err := ledger.DecodeHold(value)
		if err != nil {
			return
		}
		again, err := ledger.EncodeHold(h)
		must.NoError(t, err)
		back, err := ledger.DecodeHold(again)
		must.NoError(t, err)
		third, err := ledger.EncodeHold(back)
		must.NoError(t, err)
		must.Eq(t, again, third)
	})
}
