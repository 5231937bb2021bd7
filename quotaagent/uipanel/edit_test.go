package uipanel_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/uipanel"
)

// nomadPage is the page of Nomad 1.11.3's UI, in short.
const nomadPage = `<!DOCTYPE html>
<!--
 not the </head>
-->
<html>
  <head>
    <meta charset="utf-8">
    <title>Nomad</title>
<meta name="nomad-ui/config/environment" content="%7B%22modulePrefix%22%3A%22nomad-ui%22%7D" />
    <script>var text = "</head>"; if (1 < 2) {}</script>
    <link rel="stylesheet" href="/ui/assets/vendor.css">
  </head>
  <body>
    <script src="/ui/assets/nomad-ui.js"></script>
  </body>
</html>
`

// nomadPolicy is what Nomad sends with it by default.
const nomadPolicy = "default-src 'none'; connect-src *; img-src 'self' data:; script-src 'self'; style-src 'self' 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'"

func TestEdit_addsOneScriptAtTheEndOfTheHead(t *testing.T) {
	t.Parallel()
	edited, ok := uipanel.Edit([]byte(nomadPage), []string{nomadPolicy})
	must.True(t, ok)
	must.Eq(t, strings.Replace(nomadPage, "  </head>\n  <body>", "  "+uipanel.Tag+"</head>\n  <body>", 1), string(edited))

	_, ok = uipanel.Edit([]byte(strings.ToUpper(strings.ReplaceAll(nomadPage, "nomad-ui/config/environment", "NOMAD-UI/config/ENVIRONMENT"))), nil)
	must.True(t, ok, must.Sprint("names of elements have no case"))
}

func TestEdit_leavesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	swap := func(old, with string) string { return strings.Replace(nomadPage, old, with, 1) }
	for name, page := range map[string]string{
		"nothing":              "",
		"another page":         swap("nomad-ui/config", "other/config"),
		"no end of the head":   swap("  </head>\n  <body>", "  <body>"),
		"no head":              swap("<head>", ""),
		"the setting is later": strings.Replace(swap("<meta name=\"nomad-ui/config/environment\"", "<meta name=\"x\""), "<body>", `<body><meta name="nomad-ui/config/environment">`, 1),
		"an open comment":      swap("-->", "--"),
		"an open script":       swap("{}</script>", "{}"),
		"a policy of its own":  swap(`<meta charset="utf-8">`, `<meta http-equiv=" Content-Security-Policy" content="x">`),
		"a template":           swap(`<meta charset="utf-8">`, `<template>`),
		"binary":               "\x1f\x8b\x08\x00\x00",
	} {
		_, ok := uipanel.Edit([]byte(page), []string{nomadPolicy})
		must.False(t, ok, must.Sprint(name))
	}
}

func TestEdit_asksThePolicyOfThePage(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]bool{
		"":                   true,
		nomadPolicy:          true,
		"default-src *":      true,
		"default-src 'SELF'": true,
		"img-src 'none'":     true,
		"default-src 'none'": false,
		"script-src 'none'":  false,
		"script-src https://cdn.example; default-src 'self'":             false,
		"script-src 'self'; script-src 'none'":                           true,
		"script-src 'none'; script-src 'self'":                           false,
		"script-src 'self'; script-src-elem 'none'":                      false,
		"script-src 'self' 'nonce-x' 'strict-dynamic'":                   false,
		"style-src 'unsafe-inline'":                                      false,
		"connect-src https://nomad.example":                              false,
		"sandbox allow-scripts":                                          false,
		"default-src 'self'; require-trusted-types-for 'script'":         false,
		nomadPolicy + ", script-src 'none'":                              false,
		"default-src 'self'; report-uri /csp; upgrade-insecure-requests": true,
	} {
		_, ok := uipanel.Edit([]byte(nomadPage), []string{policy})
		must.Eq(t, want, ok, must.Sprint(policy))
		_, ok = uipanel.Edit([]byte(nomadPage), []string{nomadPolicy, policy})
		must.Eq(t, want, ok, must.Sprint("beside Nomad's:", policy))
	}
}

// FuzzEdit: without the tag an edited page is the page that came.
func FuzzEdit(f *testing.F) {
	f.Add([]byte(nomadPage), nomadPolicy)
	f.Add([]byte(strings.ReplaceAll(nomadPage, "</head>", "</head x=\"</head>\">")), "default-src 'self'")
	f.Add([]byte("<head><meta name=nomad-ui/config/environment></head>"), "")
	f.Add([]byte("<!--<head><meta name=nomad-ui/config/environment></head>"), ";;, ,script-src")
	f.Fuzz(func(t *testing.T, page []byte, policy string) {
		before := bytes.Clone(page)
		edited, ok := uipanel.Edit(page, []string{policy})
		must.Eq(t, before, page, must.Sprint("the page that came is not changed"))
		if !ok {
			return
		}
		at := len(edited) - len(page)
		must.Eq(t, len(uipanel.Tag), at)
		found := false
		for i := range len(page) + 1 {
			if bytes.HasPrefix(edited[i:], []byte(uipanel.Tag)) && bytes.Equal(slices.Concat(edited[:i], edited[i+at:]), page) {
				found = true
				must.True(t, bytes.HasPrefix(bytes.ToLower(page[i:]), []byte("</head")))
				break
			}
		}
		must.True(t, found)
	})
}

func TestHandler_servesTheFiles(t *testing.T) {
	t.Parallel()
	must.Nil(t, uipanel.Handler("/governor/v1/status"))
	for path, kind := range map[string]string{uipanel.ScriptPath: "text/javascript; charset=utf-8", uipanel.StylePath: "text/css; charset=utf-8"} {
		ask := func(method, tag string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(method, path, nil)
			if tag != "" {
				r.Header.Set("If-None-Match", tag)
			}
			w := httptest.NewRecorder()
			uipanel.Handler(path).ServeHTTP(w, r)
			return w
		}
		first := ask("GET", "")
		must.Eq(t, http.StatusOK, first.Code)
		must.Eq(t, kind, first.Header().Get("Content-Type"))
		must.Eq(t, "nosniff", first.Header().Get("X-Content-Type-Options"))
		must.StrNotContains(t, first.Body.String(), "innerHTML")
		must.Eq(t, http.StatusNotModified, ask("GET", first.Header().Get("Etag")).Code)
		must.Eq(t, http.StatusOK, ask("GET", `"other"`).Code)
		head := ask("HEAD", "")
		must.Eq(t, first.Header(), head.Header())
		must.Eq(t, "", head.Body.String())
		must.Eq(t, http.StatusMethodNotAllowed, ask("PUT", "").Code)
	}
}
