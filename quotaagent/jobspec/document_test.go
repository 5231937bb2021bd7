package jobspec

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

func TestParse_keepsEveryByteOutsideWhiteSpace(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ in, want string }{
		"numbers keep their spelling":        {`[1.0, 1e3 ,-0,12345678901234567890]`, `[1.0,1e3,-0,12345678901234567890]`},
		"strings keep their escapes":         {`"a\u0041\/<&é "`, `"a\u0041\/<&é "`},
		"keys keep their escapes and order":  {`{"\u0062":1,"a" : 2}`, `{"\u0062":1,"a":2}`},
		"white space in strings is kept":     {"{ \"a b\" :\n\" c \" }", `{"a b":" c "}`},
		"empty containers":                   {` { "a" : [ ] , "b" : { } } `, `{"a":[],"b":{}}`},
		"literals":                           {`[ true , false,null ]`, `[true,false,null]`},
		"broken UTF-8 is kept as it is":      {"\"\xff\"", "\"\xff\""},
		"a string that looks like structure": {`"}],\"{[\\"`, `"}],\"{[\\"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc, err := Parse([]byte(tc.in), SubmissionLimits)
			must.NoError(t, err)
			must.EqOp(t, tc.want, string(doc.Encode()))
		})
	}
}

func TestParse_refusesWithThePlace(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ in, want string }{
		"a syntax error":              {"{\n  \"a\": x\n}", "invalid JSON at line 2, column 8: invalid character 'x' looking for beginning of value"},
		"trailing bytes":              {"{} {}", "invalid JSON at line 1, column 4: invalid character '{' after top-level value"},
		"a document that stops":       {"{\"a\":\n[1", "invalid JSON at line 2, column 3: unexpected end of JSON input"},
		"nothing":                     {"", "invalid JSON at line 1, column 1: unexpected end of JSON input"},
		"deep nesting":                {strings.Repeat("[", 201) + strings.Repeat("]", 201), "invalid JSON at line 1, column 201: objects and arrays nest deeper than 200 levels"},
		"a duplicate at the top":      {`{"a":1,"a":2}`, `duplicate key "a" in the top-level object`},
		"a duplicate behind escapes":  {`{"a":1,"\u0061":2}`, `duplicate key "a" in the top-level object`},
		"a duplicate deep inside":     {`{"Job":{"TaskGroups":[{},{"Env":{"x":1,"x":2}}]}}`, `duplicate key "x" in Job.TaskGroups[1].Env`},
		"a duplicate in unknown data": {`{"Future":[{"x":1,"x":1}]}`, `duplicate key "x" in Future[0]`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(tc.in), SubmissionLimits)
			must.ErrorContains(t, err, tc.want)
		})
	}
}

func TestParse_limitsTheNumberOfValues(t *testing.T) {
	t.Parallel()
	limits := Limits{Depth: 10, Values: 4}
	_, err := Parse([]byte(`[1,2,3]`), limits)
	must.NoError(t, err)
	_, err = Parse([]byte(`[1,2,3,4]`), limits)
	must.ErrorContains(t, err, "the document has more than 4 values")
}

func TestParse_nestingUpToTheLimitIsAccepted(t *testing.T) {
	t.Parallel()
	_, err := Parse([]byte(strings.Repeat("[", 200)+strings.Repeat("]", 200)), SubmissionLimits)
	must.NoError(t, err)
}

func TestCheckKeys_refusesWhatNomadWouldMerge(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ in, want string }{
		"two jobs": {
			`{"Job":{"ID":"a"},"job":{"ID":"b"}}`,
			`keys "Job" and "job" in the top-level object differ only in case: Nomad reads both into the same field and merges them; remove one of the two`,
		},
		"a count twice":        {`{"Job":{"TaskGroups":[{"Count":1,"COUNT":9}]}}`, `keys "Count" and "COUNT" in Job.TaskGroups[0]`},
		"a long s":             {`{"Job":{"TaskGroups":[],"Taskgroup` + "\u017f" + `":[]}}`, "keys \"TaskGroups\" and \"Taskgroup\u017f\" in Job"},
		"a Kelvin sign":        {`{"Job":{"TaskGroups":[{"Tasks":[{"KillTimeout":1,"` + "\u212a" + `illTimeout":2}]}]}}`, "in Job.TaskGroups[0].Tasks[0]"},
		"behind a folded key":  {`{"JOB":{"taskgroups":[{"Count":1,"count":9}]}}`, `keys "Count" and "count" in JOB.taskgroups[0]`},
		"an embedded struct":   {`{"Job":{},"Namespace":"a","namespace":"b"}`, `keys "Namespace" and "namespace" in the top-level object`},
		"two unknown fields":   {`{"Job":{"Future":1,"future":2}}`, `keys "Future" and "future" in Job`},
		"a struct in a map":    {`{"Job":{"TaskGroups":[{"Volumes":{"v":{"Source":"a","source":"b"}}}]}}`, `in Job.TaskGroups[0].Volumes.v`},
		"a device block twice": {`{"Job":{"TaskGroups":[{"Tasks":[{"Resources":{"Devices":[{"Name":"cpu","name":"gpu"}]}}]}]}}`, `Resources.Devices[0]`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc, err := Parse([]byte(tc.in), SubmissionLimits)
			must.NoError(t, err)
			err = doc.CheckKeys(reflect.TypeFor[api.JobRegisterRequest]())
			must.ErrorContains(t, err, tc.want)
			var key *KeyError
			must.True(t, errors.As(err, &key))
		})
	}
}

// Nomad's own UI sends "meta": {} beside "Meta". What is forwarded is what encoding/json
// makes of both, for Nomad as for us.
func TestCheckKeys_removesAKeyThatSaysNothing(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"Job":{"Meta":{"a":"b"},"ID":"x","meta":{}}}`:    `{"Job":{"Meta":{"a":"b"},"ID":"x"}}`,
		`{"Job":{"meta":{},"Meta":{"a":"b"}}}`:             `{"Job":{"Meta":{"a":"b"}}}`,
		`{"Job":{"Meta":null,"meta":{}}}`:                  `{"Job":{"meta":{}}}`,
		`{"Job":{"Meta":{},"meta":null}}`:                  `{"Job":{"meta":null}}`,
		`{"Job":{"Update":{"MaxParallel":3},"update":{}}}`: `{"Job":{"Update":{"MaxParallel":3}}}`,
		`{"Job":{"Meta":{"a":"b"},"meta":null}}`:           "",
		`{"Job":{"Meta":{"a":"b"},"meta":{"c":"d"}}}`:      "",
		`{"Job":{"ID":"a","id":"b"}}`:                      "",
		`{"Job":{"TaskGroups":[],"taskgroups":[]}}`:        "",
		`{"Job":{"Future":{},"future":{}}}`:                "",
		`{"Job":{"Meta":{"a":"b"},"Meta":{}}}`:             "",
	} {
		doc, err := Parse([]byte(text), SubmissionLimits)
		if err == nil {
			err = doc.CheckKeys(reflect.TypeFor[api.JobRegisterRequest]())
		}
		if want == "" {
			must.Error(t, err, must.Sprint(text))
			continue
		}
		must.NoError(t, err, must.Sprint(text))
		must.EqOp(t, want, string(doc.Encode()))
		var theirs, ours api.JobRegisterRequest
		must.NoError(t, json.Unmarshal([]byte(text), &theirs))
		must.NoError(t, json.Unmarshal(doc.Encode(), &ours))
		must.Eq(t, theirs, ours, must.Sprint(text))
	}
}

func TestCheckKeys_allowsCaseInMaps(t *testing.T) {
	t.Parallel()
	in := `{"Job":{"Meta":{"a":"1","A":"2"},"TaskGroups":[{"Meta":{"k":"1","K":"2"},"Tasks":[{"Env":{"HTTP_PROXY":"a",` +
		`"http_proxy":"b"},"Config":{"x":{"y":1,"Y":2},"X":[{"z":1,"Z":2}]}}]}]}}`
	for _, target := range []reflect.Type{
		reflect.TypeFor[api.JobRegisterRequest](), reflect.TypeFor[*api.JobPlanRequest](), reflect.TypeFor[api.JobValidateRequest](),
	} {
		doc, err := Parse([]byte(in), SubmissionLimits)
		must.NoError(t, err)
		must.NoError(t, doc.CheckKeys(target))
	}
}

func TestDocument_editsFieldsInAnyCase(t *testing.T) {
	t.Parallel()
	doc, err := Parse([]byte(`{"secretid":"s","n":null,"x":1.50}`), SubmissionLimits)
	must.NoError(t, err)
	must.True(t, doc.Has("SecretID"))
	must.False(t, doc.Has("N"))
	must.EqOp(t, "s", doc.Text("SecretID"))
	must.EqOp(t, "", doc.Text("X"))
	doc.SetText("SecretID", "")
	doc.SetText("Warnings", "a<b>&\n")
	doc.SetBool("Flag", true)
	doc.SetUint("Index", 1<<63)
	must.NoError(t, doc.AppendText("N", "one"))
	must.NoError(t, doc.AppendText("N", "two"))
	must.ErrorContains(t, doc.AppendText("x", "one"), "x is not a list")
	must.EqOp(t, `{"secretid":"","n":["one","two"],"x":1.50,"Warnings":"a<b>&\n","Flag":true,"Index":9223372036854775808}`,
		string(doc.Encode()))
}

func TestParseRegister_refusesWhatHasNoJob(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ in, want string }{
		"no job":           {`{}`, "a job must be specified"},
		"a null job":       {`{"Job":null}`, "a job must be specified"},
		"no id":            {`{"Job":{}}`, "a job must have a valid ID"},
		"an empty id":      {`{"Job":{"ID":""}}`, "a job must have a valid ID"},
		"a list":           {`[]`, "the request body must be a JSON object"},
		"a wrong type":     {`{"Job":{"ID":3}}`, "cannot unmarshal number"},
		"a null group":     {`{"Job":{"ID":"a","TaskGroups":[null]}}`, "entry Job.TaskGroups[0] is null; remove it"},
		"a null task":      {`{"Job":{"ID":"a","TaskGroups":[{"Tasks":[null]}]}}`, "entry Job.TaskGroups[0].Tasks[0] is null"},
		"a null device":    {`{"Job":{"ID":"a","TaskGroups":[{"Tasks":[{"Resources":{"Devices":[null]}}]}]}}`, "Resources.Devices[0] is null"},
		"a null service":   {`{"Job":{"ID":"a","TaskGroups":[{"Services":[null]}]}}`, "Services[0] is null"},
		"two equal groups": {`{"Job":{"ID":"a","TaskGroups":[{"Name":"g"},{"Name":"g"}]}}`, `two groups named "g"`},
		"two equal tasks":  {`{"Job":{"ID":"a","TaskGroups":[{"Tasks":[{"Name":"t"},{"Name":"t"}]}]}}`, `two tasks named "t"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := ParseRegister([]byte(tc.in))
			must.ErrorContains(t, err, tc.want)
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,2.0,"x",null,true],"b":{}}`, "{\"a\":1,\"a\":2}", `[[[]]]`, `"\ud800"`, "\"\xff\"", `{"`, ``, `1 2`, `-`, `{"a":{"b":{"c":1}}} `,
	} {
		f.Add([]byte(s))
	}
	f.Add([]byte(`{"a":[1E1000]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := Parse(data, SubmissionLimits)
		valid := json.Valid(data)
		if err != nil {
			var key *KeyError
			if valid && !errors.As(err, &key) && !strings.Contains(err.Error(), "nest deeper") {
				t.Fatalf("encoding/json accepts what Parse refuses: %v", err)
			}
			if errors.As(err, &key) && !hasDuplicate(data) {
				t.Fatalf("no duplicate in %q: %v", data, err)
			}
			return
		}
		if !valid {
			t.Fatalf("Parse accepts what encoding/json refuses: %q", data)
		}
		if hasDuplicate(data) {
			t.Fatalf("duplicate key not found in %q", data)
		}
		var compact bytes.Buffer
		must.NoError(t, json.Compact(&compact, data))
		must.EqOp(t, compact.String(), string(doc.Encode()))
		var got, want any
		// A number may be too large for a float64: then both refuse it.
		must.EqOp(t, json.Unmarshal(data, &want) == nil, doc.Decode(&got) == nil)
		must.Eq(t, want, got)
	})
}

// hasDuplicate is the oracle: the decoder's own token stream.
func hasDuplicate(data []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	type frame struct {
		keys  map[string]bool
		isKey bool
	}
	var stack []*frame
	for {
		token, err := dec.Token()
		if err != nil {
			return false
		}
		top := (*frame)(nil)
		if len(stack) > 0 {
			top = stack[len(stack)-1]
		}
		if key, ok := token.(string); ok && top != nil && top.keys != nil && top.isKey {
			if top.keys[key] {
				return true
			}
			top.keys[key] = true
			top.isKey = false
			continue
		}
		if top != nil && token != json.Delim('}') && token != json.Delim(']') {
			top.isKey = true
		}
		switch token {
		case json.Delim('{'):
			stack = append(stack, &frame{keys: map[string]bool{}, isKey: true})
		case json.Delim('['):
			stack = append(stack, &frame{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		}
	}
}

func FuzzFoldKey(f *testing.F) {
	f.Add("Job", "job")
	f.Add("Tasks", "ta\u017fks")
	f.Add("KillTimeout", "\u212aillTimeout")
	f.Fuzz(func(t *testing.T, a, b string) {
		// A struct that has a field of the first name reads the second key
		// exactly if both fold to the same string.
		typ, ok := structWith(a)
		if !ok {
			return
		}
		v := reflect.New(typ)
		raw, err := json.Marshal(map[string]int{b: 7})
		must.NoError(t, err)
		must.NoError(t, json.Unmarshal(raw, v.Interface()))
		var key string
		must.NoError(t, json.Unmarshal(encodeString(b), &key)) // as the decoder sees it
		must.EqOp(t, foldKey(a) == foldKey(key), v.Elem().Field(0).Int() == 7)
	})
}

// structWith makes a struct with one field called name in JSON; ok is false
// for names that a tag cannot hold.
func structWith(name string) (reflect.Type, bool) {
	if name == "" || name == "-" || strings.ContainsFunc(name, func(r rune) bool {
		return r == '"' || r == '\\' || r == '`' || r == ',' || r < ' ' || r == 0xfffd || r > 0x7e && r != 0x17f && r != 0x212a
	}) {
		return nil, false
	}
	return reflect.StructOf([]reflect.StructField{{
		Name: "F", Type: reflect.TypeFor[int](), Tag: reflect.StructTag(`json:"` + name + `"`),
	}}), true
}
