package gate

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// uiPage is what the fake Nomad answers, and addition what the gate adds to it.
const (
	uiPage   = "<html><head><title>Nomad</title></head><body></body></html>"
	addition = "<script></script>"
)

func editForTest(page []byte, policies []string) ([]byte, bool) {
	before, after, ok := strings.Cut(string(page), "</head>")
	return []byte(before + addition + "</head>" + after), ok && len(policies) == 0
}

func zipped(text string) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return out.String()
}

func unzipped(t *testing.T, text string) string {
	t.Helper()
	r, err := gzip.NewReader(strings.NewReader(text))
	must.NoError(t, err)
	plain, err := io.ReadAll(r)
	must.NoError(t, err)
	return string(plain)
}

// pageRig is a gate that edits pages, in front of a Nomad whose every page is body.
func pageRig(t *testing.T, body string, header ...string) *rig {
	r := newRig(t, func(c *Config) { c.EditPage = editForTest })
	r.nomad.special = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/ui/") {
			return false
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		h.Set("Accept-Ranges", "bytes")
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		h.Set("X-Asked", r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("If-None-Match")+r.Header.Get("If-Modified-Since")+r.Header.Get("Range"))
		_, _ = io.WriteString(w, body)
		return true
	}
	return r
}

const asPage = "text/html,application/xhtml+xml,*/*;q=0.8"

func TestPage_isEditedForABrowser(t *testing.T) {
	t.Parallel()
	edited := strings.Replace(uiPage, "</head>", addition+"</head>", 1)
	r := pageRig(t, uiPage, "Vary", "Accept-Encoding")
	a := r.do(t, "GET", "/ui/jobs/a%2Fb@default?region=global", "", "Accept", asPage)
	must.Eq(t, http.StatusOK, a.status)
	must.Eq(t, edited, a.body)
	must.Eq(t, strconv.Itoa(len(edited)), a.header.Get("Content-Length"))
	must.Eq(t, []string{"Accept-Encoding", "Accept"}, a.header.Values("Vary"))
	must.Eq(t, "no-cache", a.header.Get("Cache-Control"))
	must.Eq(t, "GET /ui/jobs/a%2Fb@default?region=global", a.header.Get("X-Asked"))
	for _, gone := range []string{"Last-Modified", "Accept-Ranges"} {
		must.Eq(t, "", a.header.Get(gone))
	}
	tag := a.header.Get("Etag")
	must.StrHasPrefix(t, `W/"`, tag)

	// What the browser has is asked for anew, whatever it says about Nomad's own page.
	for _, have := range []string{tag, strings.TrimPrefix(tag, "W/"), `"x", ` + tag, "*"} {
		again := r.do(t, "GET", "/ui/", "", "Accept", asPage, "If-None-Match", have, "If-Modified-Since", "Mon, 02 Jan 2096 15:04:05 GMT", "Range", "bytes=0-3")
		must.Eq(t, http.StatusNotModified, again.status, must.Sprint(have))
		must.Eq(t, "", again.body)
		must.Eq(t, tag, again.header.Get("Etag"))
		must.Eq(t, "", again.header.Get("Content-Length"))
		must.Eq(t, "GET /ui/", again.header.Get("X-Asked"))
	}
	other := r.do(t, "GET", "/ui/", "", "Accept", asPage, "If-None-Match", `W/"other"`, "If-Modified-Since", "Mon, 02 Jan 2096 15:04:05 GMT", "Range", "bytes=0-3")
	must.Eq(t, http.StatusOK, other.status)
	must.Eq(t, edited, other.body)

	head := r.do(t, "HEAD", "/ui/", "", "Accept", asPage)
	must.Eq(t, http.StatusOK, head.status)
	must.Eq(t, "", head.body)
	for _, name := range []string{"Content-Length", "Etag", "Vary", "Content-Type", "Cache-Control"} {
		must.Eq(t, a.header.Values(name), head.header.Values(name), must.Sprint(name))
	}
}

func TestPage_isPackedAsItCame(t *testing.T) {
	t.Parallel()
	r := pageRig(t, zipped(uiPage), "Content-Encoding", "gzip", "Cache-Control", "max-age=5", "Etag", `"nomads"`)
	a := r.do(t, "GET", "/ui/", "", "Accept", asPage, "Accept-Encoding", "gzip")
	must.Eq(t, "gzip", a.header.Get("Content-Encoding"))
	must.Eq(t, strings.Replace(uiPage, "</head>", addition+"</head>", 1), unzipped(t, a.body))
	must.Eq(t, strconv.Itoa(len(a.body)), a.header.Get("Content-Length"))
	must.Eq(t, "max-age=5", a.header.Get("Cache-Control"))
	must.NotEq(t, `"nomads"`, a.header.Get("Etag"))
	plain := pageRig(t, uiPage).do(t, "GET", "/ui/", "", "Accept", asPage)
	must.Eq(t, plain.header.Get("Etag"), a.header.Get("Etag"), must.Sprint("one page, one tag"))
}

func TestPage_othersStayAsTheyAre(t *testing.T) {
	t.Parallel()
	large := uiPage + strings.Repeat("x", pageMax)
	for name, test := range map[string]struct {
		body   string
		header []string
	}{
		"not understood":             {body: "<html>"},
		"a policy against it":        {uiPage, []string{"Content-Security-Policy", "script-src 'none'"}},
		"no HTML":                    {uiPage, []string{"Content-Type", "text/plain"}},
		"another character set":      {uiPage, []string{"Content-Type", "text/html; charset=utf-16"}},
		"another encoding":           {uiPage, []string{"Content-Encoding", "br"}},
		"no gzip":                    {uiPage, []string{"Content-Encoding", "gzip"}},
		"gzip that breaks off":       {zipped(uiPage)[:20], []string{"Content-Encoding", "gzip"}},
		"a small text of a huge one": {zipped(large), []string{"Content-Encoding", "gzip"}},
		"too large":                  {body: large},
		"too large, of known length": {large, []string{"Content-Length", strconv.Itoa(len(large))}},
	} {
		r := pageRig(t, test.body, test.header...)
		for _, method := range []string{"GET", "HEAD"} {
			ask := func(accept string) got {
				return r.do(t, method, "/ui/", "", "Accept", accept, "Accept-Encoding", "gzip")
			}
			page, plain := ask(asPage), ask("*/*") // what no browser asks for goes another way
			must.Eq(t, plain.status, page.status, must.Sprint(name))
			must.Eq(t, plain.body, page.body, must.Sprint(name))
			if method == "GET" {
				must.Eq(t, test.body, page.body, must.Sprint(name))
			}
			for _, h := range []http.Header{plain.header, page.header} {
				h.Del("Date")
				h.Del("X-Asked")
			}
			must.Eq(t, plain.header, page.header, must.Sprint(name, method))
		}
	}
}

func TestPage_isNoneWhereNobodyAsksForOne(t *testing.T) {
	t.Parallel()
	r := pageRig(t, uiPage)
	for name, test := range map[string][]string{
		"a script":       {"GET", "/ui/", "Accept", "*/*"},
		"nothing said":   {"GET", "/ui/"},
		"refused":        {"GET", "/ui/", "Accept", "text/html;q=0, */*"},
		"another method": {"POST", "/ui/", "Accept", asPage},
		"an upgrade":     {"GET", "/ui/", "Accept", asPage, "Connection", "upgrade", "Upgrade", "websocket"},
	} {
		must.Eq(t, uiPage, r.do(t, test[0], test[1], "", test[2:]...).body, must.Sprint(name))
	}
	off := newRig(t)
	off.nomad.special = r.nomad.special
	must.Eq(t, uiPage, off.do(t, "GET", "/ui/", "", "Accept", asPage).body)
	failed := pageRig(t, uiPage)
	failed.nomad.Close()
	must.Eq(t, http.StatusBadGateway, failed.do(t, "GET", "/ui/", "", "Accept", asPage).status)
	redirected := newRig(t, func(c *Config) { c.EditPage = editForTest })
	redirected.nomad.special = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "/ui/", http.StatusMovedPermanently)
		return true
	}
	a := redirected.do(t, "GET", "/ui/index.html", "", "Accept", asPage)
	must.Eq(t, http.StatusMovedPermanently, a.status)
	must.Eq(t, "", a.header.Get("Etag"))
}

func TestPage_thatBreaksOffIsNoWholeOne(t *testing.T) {
	t.Parallel()
	address := rawNomad(t, func(_ int, c net.Conn, reader *bufio.Reader) {
		_, _ = http.ReadRequest(reader)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 200\r\n\r\n"+uiPage)
	})
	r := newRig(t, func(c *Config) {
		nomad := *c.Nomad
		nomad.Host = address
		c.Nomad, c.EditPage = &nomad, editForTest
	})
	request, err := http.NewRequest(http.MethodGet, r.gate.URL+"/ui/", nil)
	must.NoError(t, err)
	request.Header.Set("Accept", asPage)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return // nothing of it was sent yet
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must.Error(t, err)
	must.StrNotContains(t, string(body), addition)
}
