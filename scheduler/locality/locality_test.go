package locality_test

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/scheduler/locality"
)

const gib = int64(1) << 30

var (
	now   = time.UnixMilli(1_790_000_000_000)
	rates = locality.Rates{Fetch: gib, Disk: 4 * gib, Memory: 20 * gib}
)

func TestWhatAJobSays(t *testing.T) {
	t.Parallel()
	wants, err := locality.ParseWants("llama-3-70b=140GiB, kv-chat , a/b:c@1=1 kB")
	must.NoError(t, err)
	must.Eq(t, []locality.Want{{Name: "a/b:c@1", Bytes: 1000}, {Name: "kv-chat"}, {Name: "llama-3-70b", Bytes: 140 * gib}}, wants)
	for text, wrong := range map[string]string{
		"":                    `"" is no name of state: it has up to 128 letters`,
		"a,,b":                `"" is no name of state`,
		"a=":                  `size of a: "" is no size: write it as 140GiB`,
		"a=much":              `size of a: "much" is no size`,
		"a=-5GB":              `size of a: "-5GB" is no size`,
		"a=99999999999999TiB": "is no size",
		"a, a=5GB":            "a is named twice",
		"a b":                 `"a b" is no name of state`,
	} {
		_, err := locality.ParseWants(text)
		must.ErrorContains(t, err, wrong, must.Sprint(text))
	}
}

func FuzzParseWants(f *testing.F) {
	f.Add("llama-3-70b=140GiB, kv-chat")
	f.Fuzz(func(t *testing.T, text string) {
		wants, err := locality.ParseWants(text)
		if err != nil {
			return
		}
		l := locality.Know(nil, now).Loading(wants, "n", locality.Rates{Fetch: 1, Disk: 1, Memory: 1})
		must.Len(t, len(wants), l.Parts)
		must.GreaterEq(t, 0, l.Takes)
	})
}

func TestWhatANodeLoads(t *testing.T) {
	t.Parallel()
	assets := []locality.Asset{
		{Name: "weights", Node: "a", Bytes: 140 * gib, Tier: locality.Disk},
		{Name: "weights", Node: "b", Bytes: 141 * gib, Tier: locality.Disk, UntilMS: now.UnixMilli()},
		{Name: "kv", Node: "a", Bytes: 8 * gib, Tier: locality.Disk},
		{Name: "kv", Node: "a", Bytes: 8 * gib, Tier: locality.Memory, UntilMS: now.UnixMilli() + 1},
		{Name: "kv", Node: "b", Bytes: 8 * gib, Tier: locality.GPU},
	}
	wants := []locality.Want{{Name: "kv"}, {Name: "other"}, {Name: "weights"}}
	known := locality.Know(assets, now)
	on := func(node string) locality.Loading { return known.Loading(wants, node, rates) }
	for node, want := range map[string]string{
		"a": "weights (140 GiB) is read from disk in about 35s, kv (8.0 GiB) is read from memory in about 1s, other (size not known) is fetched",
		"b": "weights (140 GiB) is fetched in about 2m20s, kv (8.0 GiB) is in its GPUs, other (size not known) is fetched",
		"c": "weights (140 GiB) is fetched in about 2m20s, kv (8.0 GiB) is fetched in about 8s, other (size not known) is fetched",
	} {
		must.Eq(t, want, on(node).String())
	}
	must.Eq(t, 35*time.Second+400*time.Millisecond, on("a").Takes)
	must.Eq(t, "0s", locality.About(0))
	must.Eq(t, "1s", locality.About(time.Millisecond))
	must.Eq(t, "11m", locality.About(10*time.Minute+40*time.Second))
	must.Eq(t, "2h5m", locality.About(2*time.Hour+5*time.Minute))
}

// TestNearerIsNeverSlower is that one more asset never makes a node load longer, that
// what the job says of a size is what counts, and that the order of assets does not.
func TestNearerIsNeverSlower(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		asset := rapid.Custom(func(t *rapid.T) locality.Asset {
			return locality.Asset{Name: rapid.SampledFrom([]string{"w", "kv"}).Draw(t, "name"), Node: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node"),
				Bytes: 5 * gib, Tier: rapid.SampledFrom(locality.Tiers()).Draw(t, "tier"), UntilMS: now.UnixMilli() + rapid.Int64Range(-1, 1).Draw(t, "until")}
		})
		assets := rapid.SliceOfN(asset, 0, 6).Draw(t, "assets")
		r := locality.Rates{Fetch: rapid.Int64Range(1, gib).Draw(t, "fetch"), Disk: gib, Memory: 2 * gib}
		wants := []locality.Want{{Name: "kv", Bytes: 3 * gib}, {Name: "w", Bytes: rapid.Int64Range(1, 1<<60).Draw(t, "bytes")}}
		before := locality.Know(assets, now).Loading(wants, "a", r)
		more := append([]locality.Asset{asset.Draw(t, "one more")}, assets...)
		after := locality.Know(more, now).Loading(wants, "a", r)
		must.LessEq(t, before.Takes, after.Takes)
		must.Eq(t, after, locality.Know(append(assets, more[0]), now).Loading(wants, "a", r))
	})
}
