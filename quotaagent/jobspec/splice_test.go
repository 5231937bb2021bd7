package jobspec

import (
	"encoding/json"
	"testing"

	"github.com/shoenig/test/must"
)

func TestSpliceText(t *testing.T) {
	t.Parallel()
	add := func(old string) string { return old + "+" }
	for name, c := range map[string]struct{ object, want string }{
		"empty text":             {`{"Warnings":""}`, `{"Warnings":"+"}`},
		"every byte stays":       {"{ \"A\" : [ 1.50,{\"Warnings\":\"no\"}] ,\n\"Warnings\":\"a\\u003c\" , \"Z\":null }\n", "{ \"A\" : [ 1.50,{\"Warnings\":\"no\"}] ,\n\"Warnings\":\"a<+\" , \"Z\":null }\n"},
		"brackets in texts":      {`{"D":{"x":"}]\"{"},"Warnings":"w"}`, `{"D":{"x":"}]\"{"},"Warnings":"w+"}`},
		"not there":              {`{"A":1}`, ""},
		"only further down":      {`{"A":{"Warnings":"x"}}`, ""},
		"twice":                  {`{"Warnings":"x","Warnings":"y"}`, ""},
		"no text":                {`{"Warnings":null}`, ""},
		"a key that may be it":   {`{"Warn\u0069ngs":"x","Warnings":"y"}`, ""},
		"no object":              {`["Warnings"]`, ""},
		"empty":                  {``, ""},
		"cut":                    {`{"Warnings":"x"`, ""},
		"something behind it":    {`{"Warnings":"x"} {}`, ""},
		"an object without keys": {`{}`, ""},
	} {
		got, ok := SpliceText([]byte(c.object), "Warnings", add)
		must.Eq(t, c.want != "", ok, must.Sprint(name))
		must.Eq(t, c.want, string(got), must.Sprint(name))
	}
}

// FuzzSpliceText compares with what encoding/json makes of the same object.
func FuzzSpliceText(f *testing.F) {
	for _, seed := range []string{`{"Warnings":""}`, `{"A":[1,{"b":"}"}],"Warnings":"x\"y","Z":-1e5}`, `{"Warnings":"x","Warnings":"y"}`, `{"a":{"Warnings":"n"},"Warnings":"m"}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := SpliceText([]byte(text), "Warnings", func(old string) string { return old + "<&>" })
		if !ok || !json.Valid([]byte(text)) {
			return
		}
		var before, after map[string]json.RawMessage
		must.NoError(t, json.Unmarshal([]byte(text), &before))
		must.NoError(t, json.Unmarshal(got, &after), must.Sprint(string(got)))
		var was, is string
		must.NoError(t, json.Unmarshal(before["Warnings"], &was))
		must.NoError(t, json.Unmarshal(after["Warnings"], &is))
		must.EqOp(t, was+"<&>", is)
		delete(before, "Warnings")
		delete(after, "Warnings")
		must.Eq(t, before, after)
	})
}

func TestLocate_severalAtOnce(t *testing.T) {
	t.Parallel()
	for object, want := range map[string][2]string{
		`{"Diff":{"Index":1,"Warnings":"x"},"Index": 17 ,"Warnings":"w"}`: {"17", `"w"`},
		`{"Warnings":"w","Index":18}`:                                     {"18", `"w"`},
		`{"Warnings":"w"}`:                                                {"", `"w"`},
		`{"Index":1,"Index":2,"Warnings":"w"}`:                            {"", ""},
		`{"Index":1,"Warnings":"w"`:                                       {"", ""},
		`{"Index":1,"Warnings":"w"}x`:                                     {"", ""},
		`{"\u0041":1,"Index":1,"Warnings":"w"}`:                           {"", ""},
		`[]`:                                                              {"", ""},
		``:                                                                {"", ""},
	} {
		at := Locate([]byte(object), "Index", "Warnings")
		for i, text := range want {
			must.EqOp(t, text != "", at[i].Known(), must.Sprint(object))
			must.EqOp(t, text, object[at[i].begin:at[i].end], must.Sprint(object))
		}
	}
	n, ok := Locate([]byte(`{"Index":17}`), "Index")[0].Uint([]byte(`{"Index":17}`))
	must.True(t, ok)
	must.EqOp(t, 17, n)
	for _, object := range []string{`{}`, `{"Index":-1}`, `{"Index":1.5}`, `{"Index":"1"}`, `{"Index":null}`} {
		_, ok := Locate([]byte(object), "Index")[0].Uint([]byte(object))
		must.False(t, ok, must.Sprint(object))
	}
}
