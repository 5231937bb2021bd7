package browser_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/browser"
)

// serve answers every request with one page.
func serve(t *testing.T, page string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(page))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// icon keeps the browser from asking for a favicon, which would be an error.
const icon = `<link rel="icon" href="data:,">`

func TestVisitSeesTextsSelectorsAndErrors(t *testing.T) {
	t.Parallel()
	good := serve(t, `<html><head><title>Good</title>`+icon+`</head><body><p id="late"></p>
		<script>setTimeout(() => { document.getElementById("late").innerText = "all is well" }, 300)</script></body></html>`)
	bad := serve(t, `<html><head>`+icon+`</head><body>broken<script>console.error("it broke")</script></body></html>`)
	png := filepath.Join(t.TempDir(), "shots", "good.png")

	form := serve(t, `<html><head>`+icon+`</head><body><input id="in"><button onclick="document.getElementById('out').innerText = 'got ' + document.getElementById('in').value">go</button><p id="out"></p></body></html>`)
	_, err := browser.Visit(t.Context(), browser.Plan{Pages: []browser.Page{{URL: form, PNG: png,
		Steps: []browser.Step{{Click: "#in", Insert: "a text"}, {Click: "button"}}, Texts: []string{"got a text"}}}})
	must.NoError(t, err)

	seen, err := browser.Visit(t.Context(), browser.Plan{Pages: []browser.Page{
		{URL: good, PNG: png, Texts: []string{"all is well"}, Selectors: []string{"p#late"}},
	}})
	must.NoError(t, err)
	must.Len(t, 1, seen)
	must.Eq(t, "Good", seen[0].Title)
	picture, err := os.ReadFile(png)
	must.NoError(t, err)
	must.StrHasPrefix(t, "\x89PNG", string(picture))

	_, err = browser.Visit(t.Context(), browser.Plan{Pages: []browser.Page{
		{URL: bad, PNG: png, Absent: []string{"broken"}},
	}})
	must.ErrorContains(t, err, "console error: it broke")
	must.ErrorContains(t, err, `shows "broken"`)

	_, err = browser.Visit(t.Context(), browser.Plan{
		Pages:        []browser.Page{{URL: bad, PNG: png}},
		IgnoreErrors: []string{"^it broke"},
	})
	must.NoError(t, err)
}
