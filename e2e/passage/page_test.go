package passage_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/uipanel"
)

// asksForPage reports whether an exchange is a browser's for a page of Nomad's UI: the one
// answer that the gate changes.
func asksForPage(e exchange) bool {
	return strings.HasPrefix(e.target, "/ui/") && slices.Contains(e.header, "Accept: text/html")
}

// samePage compares the page of Nomad's UI with what the gate makes of it: it is that, but
// for one script and the headers that are not true any more.
func samePage(t *testing.T, s sides) {
	ask := func(w *wire, e exchange) reply {
		e.header = append([]string{"Accept: text/html"}, e.header...)
		r, err := w.do(e)
		must.NoError(t, err, must.Sprint(e))
		return r
	}
	own := []string{"Date", "Content-Length", "Etag", "Cache-Control", "Vary", "Last-Modified", "Accept-Ranges"}
	for _, target := range []string{"/ui/", "/ui/jobs/ticking@default?region=global", "/ui/assets/nope.js"} {
		for _, encoding := range []string{"", "Accept-Encoding: gzip", "Accept-Encoding: deflate", "Accept-Encoding: identity;q=0"} {
			e := exchange{method: "GET", target: target}
			if encoding != "" {
				e.header = []string{encoding}
			}
			direct, through := ask(s.direct, e), ask(s.gated, e)
			must.EqOp(t, direct.status, through.status, must.Sprint(e))
			if !strings.Contains(unpacked(through), uipanel.Tag) {
				must.StrHasPrefix(t, "Accept-Encoding: deflate", encoding, must.Sprint("only what cannot be read stays as it is: ", e))
				must.EqOp(t, direct.body, through.body)
				continue
			}
			must.EqOp(t, unpacked(direct), strings.Replace(unpacked(through), uipanel.Tag, "", 1), must.Sprint(e))
			must.EqOp(t, direct.header.Get("Content-Encoding"), through.header.Get("Content-Encoding"), must.Sprint(e))
			tag := through.header.Get("Etag")
			must.NotEq(t, "", tag)

			head := e
			head.method = "HEAD"
			must.Eq(t, through.header.Get("Content-Length"), ask(s.gated, head).header.Get("Content-Length"))
			e.header = append(e.header, "If-None-Match: "+tag)
			must.EqOp(t, 304, ask(s.gated, e).code, must.Sprint(e))
			e.header[len(e.header)-1] = "Range: bytes=0-3"
			must.EqOp(t, 200, ask(s.gated, e).code, must.Sprint(e))

			for _, name := range own {
				direct.header.Del(name)
				through.header.Del(name)
			}
			must.Eq(t, direct.header, through.header, must.Sprint(e))
		}
	}
	must.StrNotContains(t, ask(s.gated, exchange{method: "GET", target: "/ui/favicon.ico"}).body, uipanel.Tag)
}
