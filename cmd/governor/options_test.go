package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/posener/complete"
	"github.com/shoenig/test/must"
)

// silent is an environment whose output is kept, with an agent at an address.
func silent(address string) (env environment, stdout, stderr *bytes.Buffer) {
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	env = environment{ctx: context.Background(), stdin: strings.NewReader(""), stdout: stdout, stderr: stderr, getenv: func(name string) string {
		if name == envAddress {
			return address
		}
		return ""
	}}
	return env, stdout, stderr
}

// known is what parse says of an option that is not there.
var known = regexp.MustCompile(`there are: (.*)`)

// TestEveryCommandExplainsItself: a line for lists, the usage, all options and no others,
// and examples with options that are there.
func TestEveryCommandExplainsItself(t *testing.T) {
	t.Parallel()
	env, _, _ := silent("")
	for name := range commands(env) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			explained(t, name)
		})
	}
}

func explained(t *testing.T, name string) {
	env, _, stderr := silent("http://127.0.0.1:1")
	made, err := commands(env)[name]()
	must.NoError(t, err)
	c, ok := made.(command)
	must.True(t, ok)
	must.RegexMatch(t, regexp.MustCompile(`^[A-Z][^\n]*[^.\n]$`), c.synopsis)
	must.True(t, strings.HasPrefix(c.help, "Usage: governor "+name))
	if strings.Contains(c.help, "<subcommand>") {
		return
	}
	must.RegexMatch(t, regexp.MustCompile(`(?m)^      \$ ([A-Z_]+=.* )?governor `+name), c.help, must.Sprint("it has no example"))
	var told []string
	for _, o := range optionsOf(c.help) {
		told = append(told, "-"+o.name)
	}
	must.Positive(t, c.Run([]string{"-no-such-option"})) // doctor has a code of its own
	there := []string{}
	if m := known.FindStringSubmatch(stderr.String()); m != nil {
		there = strings.Split(m[1], ", ")
	}
	if slices.Contains(told, "-t") {
		there = append(there, "-t")
	}
	slices.Sort(told)
	slices.Sort(there)
	must.Eq(t, there, append([]string{}, told...), must.Sprint("the options that are there, and those in the help"))
	for _, example := range regexp.MustCompile(`(?m)^      \$ governor `+name+`( .*)?$`).FindAllString(c.help, -1) {
		for _, used := range regexp.MustCompile(` (-[a-z][a-z-]*)`).FindAllStringSubmatch(strings.Split(example, " | ")[0], -1) {
			must.SliceContains(t, told, used[1], must.Sprint(example))
		}
	}
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"decisions": [{"job_id": "train", "gpus": 8, "cost": 12400000, "gpu_ms": 5400000}, {"job_id": "eval", "gpus": 1, "cost": 0, "gpu_ms": 0}]}`))
	}))
	t.Cleanup(server.Close)
	for name, c := range map[string]struct {
		args   []string
		want   string
		failed string
	}{
		"a range":        {[]string{`-t={{range .decisions}}{{.job_id}} {{.gpus}} {{end}}`}, "train 8 eval 1 \n", ""},
		"amounts":        {[]string{"-t", `{{with index .decisions 0}}{{money .cost}} {{hours .gpu_ms}}{{end}}`, "-limit=1"}, "12.40 1.5\n", ""},
		"json":           {[]string{"-limit", "3", `--t={{json (index .decisions 1)}}`}, `{"cost":0,"gpu_ms":0,"gpus":1,"job_id":"eval"}` + "\n", ""},
		"a broken one":   {[]string{`-t={{range`}, "", "the template cannot be read"},
		"no such field":  {[]string{`-t={{range .decisions}}{{.name}}{{end}}`}, "", "the template does not fit what -json prints"},
		"another option": {[]string{`-t={{.}}`, "-x"}, "", "there is no option -x"},
		"no template":    {[]string{"-t"}, "", "there is no option -t"},
	} {
		env, stdout, stderr := silent(server.URL)
		made, err := commands(env)["decision list"]()
		must.NoError(t, err)
		code := made.Run(c.args)
		must.Eq(t, c.want, stdout.String(), must.Sprint(name, stderr.String()))
		must.Eq(t, c.failed != "", code == 1, must.Sprint(name))
		must.StrContains(t, stderr.String(), c.failed, must.Sprint(name))
	}
}

// TestCompletion: options from the help, and names from the agent; nothing where there is
// no agent.
func TestCompletion(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"budgets": []map[string]string{{"path": "acme"}, {"path": "acme/research"}}, "holds": []map[string]string{{"job_id": "train"}}})
	}))
	t.Cleanup(server.Close)
	at := func(address, name string) command {
		env, _, _ := silent(address)
		made, err := commands(env)[name]()
		must.NoError(t, err)
		return made.(command) //nolint:forcetypeassert // all are
	}
	must.Eq(t, []string{"acme", "acme/research"}, at(server.URL, "budget statement").AutocompleteArgs().Predict(complete.Args{}))
	must.Eq(t, []string{"train"}, at(server.URL, "job why").AutocompleteArgs().Predict(complete.Args{}))
	must.Eq(t, []string{"acme", "acme/research"}, at(server.URL, "usage report").AutocompleteFlags()["-budget"].Predict(complete.Args{}))
	must.SliceEmpty(t, at("http://127.0.0.1:1", "budget statement").AutocompleteArgs().Predict(complete.Args{}))
	must.Nil(t, at(server.URL, "version").AutocompleteArgs())
	must.MapContainsKeys(t, at(server.URL, "usage efficiency").AutocompleteFlags(), []string{"-by", "-json", "-t", "-address"})
}

func TestWhatWasProbablyMeant(t *testing.T) {
	t.Parallel()
	names := []string{"budget", "job", "queue", "usage"}
	for name, want := range map[string]string{"bugdet": "budget", "jbo": "", "jobs": "job", "usge": "usage", "nope": "", "x": ""} {
		must.Eq(t, want, nearest(name, names), must.Sprint(name))
	}
}
