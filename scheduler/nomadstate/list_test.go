package nomadstate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// thing has texts in which brackets and quotes mean nothing.
type thing struct {
	ID   string
	Text string
	Tags map[string][]string
}

func things() *rapid.Generator[*thing] {
	text := rapid.StringOf(rapid.SampledFrom([]rune(`ab"\[]{},: 	é`)))
	return rapid.Custom(func(t *rapid.T) *thing {
		return &thing{ID: fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "id")), Text: text.Draw(t, "text"),
			Tags: rapid.MapOfN(text, rapid.SliceOfN(text, 0, 2), 0, 2).Draw(t, "tags")}
	})
}

// A list read again and again says each time what it says, and shares what has not
// changed since the last time.
func TestAListIsWhatItSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := newList[thing]()
		now := []*thing{}
		for range rapid.IntRange(1, 6).Draw(t, "readings") {
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				if at := rapid.IntRange(0, len(now)).Draw(t, "at"); at < len(now) && rapid.Bool().Draw(t, "gone") {
					now = slices.Delete(slices.Clone(now), at, at+1)
				} else {
					now = slices.Insert(slices.Clone(now), at, things().Draw(t, "thing"))
				}
			}
			text, err := json.Marshal(now)
			must.NoError(t, err)
			if rapid.Bool().Draw(t, "indented") {
				text, err = json.MarshalIndent(now, " ", "\t")
				must.NoError(t, err)
			}
			text = append(text, '\n')
			got, err := l.parse(text)
			must.NoError(t, err)
			var want []*thing
			must.NoError(t, json.Unmarshal(text, &want))
			must.Eq(t, want, got)
			again, err := l.parse(text)
			must.NoError(t, err)
			must.True(t, slices.Equal(got, again), must.Sprint("nothing changed"))
			cut := rapid.IntRange(0, len(bytes.TrimRight(text, "\n"))-1).Draw(t, "cut")
			_, err = l.parse(text[:cut])
			must.Error(t, err, must.Sprintf("%s", text[:cut]))
			kept, err := l.parse(text)
			must.NoError(t, err)
			must.True(t, slices.Equal(got, kept), must.Sprint("a list that cannot be read says nothing of what there is"))
		}
	})
}

func TestListsThatAreNone(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                     "unexpected EOF",
		" \n":                  "unexpected EOF",
		"[":                    "unexpected EOF",
		`[{"ID": "a"}`:         "unexpected EOF",
		`[{"ID": "a"},`:        "unexpected EOF",
		`[{"ID": "a]}`:         "unexpected EOF",
		`{"ID": "a"}`:          "is no list",
		`"a"`:                  "is no list",
		`[{"ID": "a"}, ]`:      "unexpected end of JSON input",
		`[{"ID": 1}]`:          "cannot unmarshal number",
		`[{"ID": "a"} {"b"}]`:  "invalid character",
		`[{"ID": "a" "b"}]`:    "invalid character",
		`[{"ID": "a"}}, "b"]`:  "unexpected end of JSON input",
		`[, {"ID": "a"}]`:      "unexpected end of JSON input",
		`[{"ID": "a"}, "b\"]`:  "unexpected EOF",
		`[{"ID": "a"}, "b\\"]`: "cannot unmarshal string",
	} {
		_, err := newList[thing]().parse([]byte(text))
		must.ErrorContains(t, err, want, must.Sprint(text))
	}
	for _, text := range []string{"null", " null", "[]", "[ ]", "[null]"} {
		got, err := newList[thing]().parse([]byte(text))
		must.NoError(t, err)
		must.Len(t, 0, got)
	}
}

// FuzzEachElement holds the elements against encoding/json's.
func FuzzEachElement(f *testing.F) {
	for _, text := range []string{`[]`, `[1, "a]", {"b": [2, "\"}"]}, null]`, "null", `["\\", [[]]]`, ` [ true ] `} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var want []json.RawMessage
		if json.Unmarshal(text, &want) != nil {
			return
		}
		i := 0
		must.NoError(t, eachElement(text, func(element []byte) error {
			must.Less(t, len(want), i)
			must.Eq(t, strings.TrimSpace(string(want[i])), string(element))
			i++
			return nil
		}))
		must.Len(t, i, want)
	})
}

// BenchmarkList is a list of a thousand nodes of which one has changed since the last
// time, beside one that is decoded as a whole.
func BenchmarkList(b *testing.B) {
	nodes := make([]*api.NodeListStub, 1000)
	for i := range nodes {
		topology := strings.Repeat("0123456789abcdef", 20)
		devices := &api.NodeDeviceResource{Vendor: "nvidia", Type: "gpu", Name: "H100", Attributes: map[string]*api.Attribute{"topology": {StringVal: &topology}}}
		for j := range 8 {
			devices.Instances = append(devices.Instances, &api.NodeDevice{ID: fmt.Sprintf("GPU-%d-%d", i, j), Healthy: true})
		}
		nodes[i] = &api.NodeListStub{ID: fmt.Sprint(i), Name: fmt.Sprint("node-", i), NodeResources: &api.NodeResources{Devices: []*api.NodeDeviceResource{devices}}}
	}
	texts := make([][]byte, 2)
	for i := range texts {
		nodes[500].Status = fmt.Sprint(i)
		text, err := json.Marshal(nodes)
		must.NoError(b, err)
		texts[i] = text
	}
	b.Run("one changed", func(b *testing.B) {
		l := newList[api.NodeListStub]()
		for i := 0; b.Loop(); i++ {
			if got, err := l.parse(texts[i%2]); err != nil || len(got) != len(nodes) {
				b.Fatal(err)
			}
		}
	})
	b.Run("decoded as a whole", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			var got []*api.NodeListStub
			if err := json.Unmarshal(texts[i%2], &got); err != nil {
				b.Fatal(err)
			}
		}
	})
}
