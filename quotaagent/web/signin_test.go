package web_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/quotaagent/web"
)

// post sends the form of a page.
func post(h http.Handler, path string, form url.Values, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// signedIn is the cookie of who signs in with a token.
func signedIn(t *testing.T, h http.Handler, token string) *http.Cookie {
	t.Helper()
	w := post(h, "/governor/sign-in", url.Values{"token": {token}, "next": {"/governor/jobs?q=x"}})
	must.EqOp(t, http.StatusSeeOther, w.Code, must.Sprint(w.Body.String()))
	must.EqOp(t, "/governor/jobs?q=x", w.Header().Get("Location"))
	must.Len(t, 1, w.Result().Cookies())
	return w.Result().Cookies()[0]
}

func guarded(t *testing.T) (*fake, http.Handler) {
	t.Helper()
	f := busy()
	f.acl = true
	return f, pages(t, f)
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	_, h := guarded(t)
	w := get(h, "/governor/jobs?q=a%20b")
	must.EqOp(t, http.StatusSeeOther, w.Code)
	must.EqOp(t, "/governor/sign-in?next=%2Fgovernor%2Fjobs%3Fq%3Da%2520b", w.Header().Get("Location"))
	golden(t, "sign-in", get(h, "/governor/sign-in?next=/governor/jobs"), http.StatusOK)

	c := signedIn(t, h, "secret-alice")
	must.True(t, c.HttpOnly)
	must.EqOp(t, http.SameSiteStrictMode, c.SameSite)
	must.EqOp(t, "/governor", c.Path)
	must.EqOp(t, 0, c.MaxAge, must.Sprint("it ends with the browser"))
	must.False(t, c.Secure, must.Sprint("this was no TLS"))
	cookie := c.Name + "=" + c.Value
	w = get(h, "/governor/jobs", "Cookie", cookie)
	must.EqOp(t, http.StatusOK, w.Code)
	must.StrContains(t, w.Body.String(), "alice")
	must.StrNotContains(t, w.Body.String(), "secret-alice")
	must.EqOp(t, http.StatusSeeOther, get(h, "/governor/sign-in", "Cookie", cookie).Code, must.Sprint("who is signed in is led on"))

	w = post(h, "/governor/sign-out", nil, "Cookie", cookie)
	must.EqOp(t, http.StatusSeeOther, w.Code)
	must.Negative(t, w.Result().Cookies()[0].MaxAge)

	w = post(h, "/governor/sign-in", url.Values{"token": {"secret-alice"}}, "X-Forwarded-Proto", "https")
	must.True(t, w.Result().Cookies()[0].Secure)
	must.EqOp(t, "/governor/", w.Header().Get("Location"))
}

func TestSignIn_refusals(t *testing.T) {
	t.Parallel()
	_, h := guarded(t)
	for token, want := range map[string]string{"": "Give a token", "nobody": "does not accept this token", "a b": "no spaces", strings.Repeat("x", 3001): "too long"} {
		w := post(h, "/governor/sign-in", url.Values{"token": {token}})
		must.GreaterEq(t, 400, w.Code)
		must.StrContains(t, w.Body.String(), want)
		must.SliceEmpty(t, w.Result().Cookies())
		if token != "" {
			must.StrNotContains(t, w.Body.String(), token)
		}
	}
	// A cookie that Nomad does not accept any more is taken away.
	w := get(h, "/governor/", "Cookie", "governor_token=bm9ib2R5")
	must.EqOp(t, http.StatusSeeOther, w.Code)
	must.Negative(t, w.Result().Cookies()[0].MaxAge)
}

func TestSignIn_otherSites(t *testing.T) {
	t.Parallel()
	_, h := guarded(t)
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}} {
		for _, path := range []string{"/governor/sign-in", "/governor/sign-out"} {
			w := post(h, path, url.Values{"token": {"secret-alice"}}, header...)
			must.EqOp(t, http.StatusForbidden, w.Code)
			must.SliceEmpty(t, w.Result().Cookies())
		}
	}
	for _, next := range []string{"https://evil.example/governor/", "//evil.example/governor/", "/governor\\@evil", "/ui/", "javascript:alert(1)", "/governor/sign-out", "/governor/../ui"} {
		w := post(h, "/governor/sign-in", url.Values{"token": {"secret-alice"}, "next": {next}})
		must.StrHasPrefix(t, "/governor/", w.Header().Get("Location"), must.Sprint(next))
		must.StrNotContains(t, w.Header().Get("Location"), "evil")
	}
}

func TestSomebodySeesOnlyNamespacesThatTheTokenReads(t *testing.T) {
	t.Parallel()
	_, h := guarded(t)
	c := signedIn(t, h, "secret-alice")
	cookie := c.Name + "=" + c.Value
	for _, path := range []string{"", "jobs", "jobs?state=ended", "decisions?plans=1", "topology", "topology/client1", "budgets/acme/serving"} {
		w := get(h, "/governor/"+path, "Cookie", cookie)
		must.EqOp(t, http.StatusOK, w.Code)
		for _, foreign := range []string{"chat", "huge", "around", "/inference/"} {
			if foreign == "around" && path == "" {
				foreign = "default/around" // "Ways around the gate"
			}
			must.StrNotContains(t, w.Body.String(), foreign, must.Sprint(path))
		}
	}
	must.StrContains(t, get(h, "/governor/topology/client1", "Cookie", cookie).Body.String(), "a job of another namespace")
	must.EqOp(t, http.StatusNotFound, get(h, "/governor/jobs/inference/chat", "Cookie", cookie).Code)
	must.EqOp(t, http.StatusOK, get(h, "/governor/decisions/d-3f9c1a0b-3", "Cookie", cookie).Code)
	foreign, none := get(h, "/governor/decisions/d-3f9c1a0b-2", "Cookie", cookie), get(h, "/governor/decisions/d-3f9c1a0b-9", "Cookie", cookie)
	must.EqOp(t, http.StatusNotFound, foreign.Code)
	must.EqOp(t, none.Body.String(), strings.ReplaceAll(foreign.Body.String(), "d-3f9c1a0b-2", "d-3f9c1a0b-9"), must.Sprint("nobody learns that there is one"))
	must.StrContains(t, get(h, "/governor/audit", "Cookie", cookie).Body.String(), "needs a Nomad management token")
	root := signedIn(t, h, "secret-root")
	must.StrContains(t, get(h, "/governor/audit", "Cookie", root.Name+"="+root.Value).Body.String(), "override o-1 counts")
	must.StrContains(t, get(h, "/governor/jobs", "Cookie", root.Name+"="+root.Value).Body.String(), "chat")
}

func TestACookieLetsNobodyWriteToTheAPI(t *testing.T) {
	t.Parallel()
	_, h := guarded(t)
	c := signedIn(t, h, "secret-root")
	for method, want := range map[string]string{"GET": "secret-root", "HEAD": "secret-root", "POST": "", "PUT": "", "DELETE": ""} {
		r := httptest.NewRequest(method, "/governor/v1/policy", nil)
		r.AddCookie(c)
		must.EqOp(t, want, web.ForReading(r).Header.Get("X-Nomad-Token"), must.Sprint(method))
	}
	r := httptest.NewRequest(http.MethodGet, "/governor/v1/policy", nil)
	r.AddCookie(c)
	r.Header.Set("X-Nomad-Token", "own")
	must.EqOp(t, "own", web.ForReading(r).Header.Get("X-Nomad-Token"))
}
