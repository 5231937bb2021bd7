package web

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"
)

const (
	// cookieName is the cookie with the token of who signed in.
	cookieName = "governor_token"
	// tokenMax bounds a token, in bytes: browsers keep cookies of up to 4096. The tokens of
	// workloads are the longest, about a thousand.
	tokenMax    = 3000
	formMax     = 16 << 10
	tokenHeader = "X-Nomad-Token"
)

// withToken puts the token of the cookie where the token of a request is. One that is
// there already counts.
func withToken(r *http.Request) *http.Request {
	token := readToken(r)
	if token == "" || r.Header.Get(tokenHeader) != "" || r.Header.Get("Authorization") != "" {
		return r
	}
	out := r.Clone(r.Context())
	out.Header.Set(tokenHeader, token)
	return out
}

// ForReading lets somebody who signed in read what the API answers with a link: it gives
// a request that only reads the token of its cookie. All others stay as they are, so that
// no other site can have a browser change anything.
func ForReading(r *http.Request) *http.Request {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return r
	}
	return withToken(r)
}

// readToken is the token of the cookie, "" for none.
func readToken(r *http.Request) string {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return ""
	}
	token, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil || checkToken(string(token)) != "" {
		return ""
	}
	return string(token)
}

// checkToken says what is wrong with a token that cannot be one.
func checkToken(token string) string {
	switch {
	case token == "":
		return "Give a token: its secret ID, as Nomad shows it when the token is made."
	case len(token) > tokenMax:
		return "This is too long for a token of Nomad."
	case strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }):
		return "A token of Nomad has no spaces or special characters."
	}
	return ""
}

func cookie(r *http.Request, value string, age int) *http.Cookie {
	return &http.Cookie{Name: cookieName, Value: value, Path: strings.TrimSuffix(Prefix, "/"), HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https", MaxAge: age}
}

func forget(w http.ResponseWriter, r *http.Request) { http.SetCookie(w, cookie(r, "", -1)) }

// signInData is what the form shows.
type signInData struct{ Next, Wrong string }

// askToken shows the form, or leads on who needs none.
func (h *Handler) askToken(w http.ResponseWriter, r *http.Request) {
	next := nextOf(r.URL.Query().Get("next"))
	if _, err := h.enter(r); err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	h.form(w, r, http.StatusOK, signInData{Next: next})
}

func (h *Handler) form(w http.ResponseWriter, r *http.Request, status int, data signInData) {
	h.write(w, r, status, nil, view{template: "sign-in", title: "Sign in", data: data, still: true})
}

// nextOf is where to go after signing in: a page of this site, whatever is asked for.
func nextOf(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(path.Clean(u.Path)+"/", Prefix) || strings.ContainsAny(text, "\\\r\n") || strings.HasPrefix(u.Path, Prefix+"sign-") {
		return Prefix
	}
	return u.RequestURI()
}

// signIn has Nomad look at a token, and keeps it in a cookie.
func (h *Handler) signIn(w http.ResponseWriter, r *http.Request) {
	if err := h.crossing.Check(r); err != nil {
		h.fail(w, r, nil, problem(http.StatusForbidden, "This form was sent from another site. Open the page here and sign in again."))
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, formMax)
	if err := r.ParseForm(); err != nil {
		h.fail(w, r, nil, problem(http.StatusBadRequest, "The form cannot be read."))
		return
	}
	token, next := strings.TrimSpace(r.PostForm.Get("token")), nextOf(r.PostForm.Get("next"))
	if wrong := checkToken(token); wrong != "" {
		h.form(w, r, http.StatusUnprocessableEntity, signInData{next, wrong})
		return
	}
	asked := r.Clone(r.Context())
	asked.Header.Del("Authorization")
	asked.Header.Set(tokenHeader, token)
	_, err := h.enter(asked)
	var p *Problem
	switch {
	case errors.As(err, &p) && p.Status == http.StatusForbidden:
		h.form(w, r, http.StatusForbidden, signInData{next, "Nomad does not accept this token. It may have expired, or be of another cluster."})
	case err != nil:
		h.fail(w, r, nil, err)
	default:
		http.SetCookie(w, cookie(r, base64.RawURLEncoding.EncodeToString([]byte(token)), 0))
		http.Redirect(w, r, next, http.StatusSeeOther)
	}
}

// signOut forgets the token.
func (h *Handler) signOut(w http.ResponseWriter, r *http.Request) {
	if err := h.crossing.Check(r); err != nil {
		h.fail(w, r, nil, problem(http.StatusForbidden, "This form was sent from another site."))
		return
	}
	forget(w, r)
	http.Redirect(w, r, Prefix+"sign-in", http.StatusSeeOther)
}
