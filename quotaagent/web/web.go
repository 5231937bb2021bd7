package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Prefix is where the pages are.
const Prefix = "/governor/"

const (
	// rendering is how many pages are made at once, and renderWithin how long one may take,
	// waiting included.
	rendering    = 16
	renderWithin = 15 * time.Second
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed assets/*
var assetFiles embed.FS

// Config is what the pages are made from.
type Config struct {
	Door    door
	Books   books
	Past    past
	Rules   rules
	Cluster cluster
	Audit   auditLog
	// Zone is that of the policy: times are told in it.
	Zone func() *time.Location
	Now  func() time.Time
	// Failed is told of errors that their reader must not see, such as an address.
	Failed func(r *http.Request, err error)
	// Version of this build.
	Version string
}

// Handler serves the pages. Use New.
type Handler struct {
	Config
	mux       *http.ServeMux
	templates map[string]*template.Template
	assets    map[string]asset
	slots     chan struct{}
	crossing  *http.CrossOriginProtection

	// outage is since when nobody can be let in, because Nomad does not answer.
	outage   outage
	overview *shared[*Overview]
	cluster  *shared[*Cluster]
	forecast *shared[Forecast]
	decided  *shared[Decisions]
}

// New prepares the pages.
func New(c Config) *Handler {
	h := &Handler{Config: c, mux: http.NewServeMux(), assets: readAssets(), slots: make(chan struct{}, rendering), crossing: http.NewCrossOriginProtection(),
		overview: newShared(sharedFor, c.Now, c.Books.Overview), cluster: newShared(sharedFor, c.Now, c.Cluster.Map), forecast: newShared(forecastFor, c.Now, c.Past.Forecast)}
	h.decided = newShared(sharedFor, c.Now, func(ctx context.Context) (Decisions, error) { return c.Past.Decisions(ctx, decisionsRead) })
	h.templates = h.readTemplates()
	for path, p := range map[string]func(*visit) (view, error){
		"{$}": h.home, "budgets": h.budgets, "budgets/{path...}": h.statement, "jobs": h.jobs, "jobs/{namespace}/{job}": h.job,
		"topology": h.topology, "topology/{node}": h.node, "decisions": h.decisions, "decisions/{id}": h.decision, "audit": h.audit,
		"policy": h.policy, "policy/files/{file...}": h.policyFile,
	} {
		h.mux.HandleFunc("GET "+Prefix+path, func(w http.ResponseWriter, r *http.Request) { h.show(w, r, p) })
	}
	h.mux.HandleFunc("GET "+Prefix+"sign-in", h.askToken)
	h.mux.HandleFunc("POST "+Prefix+"sign-in", h.signIn)
	h.mux.HandleFunc("POST "+Prefix+"sign-out", h.signOut)
	h.mux.HandleFunc("GET "+Prefix+"assets/{name}", h.serveAsset)
	h.mux.HandleFunc(Prefix, h.notThere)
	return h
}

// visit is one request for a page.
type visit struct {
	*http.Request
	viewer Viewer
}

// query is a parameter of the address.
func (v *visit) query(name string) string { return strings.TrimSpace(v.URL.Query().Get(name)) }

// view is what a page shows: the template of its main part, and the data for it.
type view struct {
	template string
	// title of the page; section is the entry of the menu that it belongs to.
	title, section string
	crumbs         []crumb
	data           any
	// still says that it does not change by itself.
	still bool
}

// crumb is a page above.
type crumb struct{ Text, Link string }

// frame is what surrounds the main part of a page.
type frame struct {
	Title, Section, Version string
	Crumbs                  []crumb
	Viewer                  *Viewer
	Live                    bool
	Main                    template.HTML
	CSS, JS                 string
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	ctx, cancel := context.WithTimeout(r.Context(), renderWithin)
	defer cancel()
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		header.Set("Retry-After", "5")
		http.Error(w, "Too many pages are asked for at once; try again in a moment.", http.StatusServiceUnavailable)
		return
	}
	h.mux.ServeHTTP(w, withToken(r.WithContext(ctx)))
}

// show answers with one page, for who may see it.
func (h *Handler) show(w http.ResponseWriter, r *http.Request, page func(*visit) (view, error)) {
	viewer, err := h.enter(r)
	if err != nil {
		h.turnAway(w, r, err)
		return
	}
	v, err := page(&visit{Request: r, viewer: viewer})
	if err != nil {
		h.fail(w, r, &viewer, err)
		return
	}
	h.write(w, r, http.StatusOK, &viewer, v)
}

// enter asks who makes a request, and remembers since when that cannot be told.
func (h *Handler) enter(r *http.Request) (Viewer, error) {
	v, err := h.Door.Enter(r)
	var p *Problem
	h.outage.note(errors.As(err, &p) && p.Status >= http.StatusInternalServerError, h.Now())
	return v, err
}

// turnAway asks for a token where that would help.
func (h *Handler) turnAway(w http.ResponseWriter, r *http.Request, err error) {
	var p *Problem
	if errors.As(err, &p) && p.Status == http.StatusForbidden {
		if readToken(r) != "" {
			forget(w, r)
		}
		http.Redirect(w, r, Prefix+"sign-in?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
		return
	}
	h.fail(w, r, nil, err)
}

// trouble is the data of a page that says what went wrong.
type trouble struct {
	Status      int
	Title, Text string
	Since       time.Time
}

// fail answers with what went wrong. Only Problems are for their reader.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, viewer *Viewer, err error) {
	t := trouble{Status: http.StatusServiceUnavailable, Title: "The ledger cannot be read now", Since: h.overview.since(),
		Text: "New GPU work is refused until the ledger's store answers again; everything else passes, and running work is not touched. The agent's log has the cause."}
	var p *Problem
	if errors.As(err, &p) {
		t = trouble{Status: p.Status, Title: http.StatusText(p.Status), Text: p.Text}
		if viewer == nil {
			t.Since = h.outage.since()
		}
	} else {
		h.Failed(r, err)
	}
	h.write(w, r, t.Status, viewer, view{template: "trouble", title: t.Title, data: t, still: t.Status < 500})
}

// notThere answers what is no page.
func (h *Handler) notThere(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "This address takes GET only.", http.StatusMethodNotAllowed)
		return
	}
	viewer, err := h.enter(r)
	if err != nil {
		h.turnAway(w, r, err)
		return
	}
	h.fail(w, r, &viewer, problem(http.StatusNotFound, "There is no page at %.200s.", r.URL.Path))
}

// write renders a page. One that has not changed since the browser last got it is not
// sent again.
func (h *Handler) write(w http.ResponseWriter, r *http.Request, status int, viewer *Viewer, v view) {
	var main, out bytes.Buffer
	t := h.templates[v.template]
	err := t.ExecuteTemplate(&main, "main", v.data)
	if err == nil {
		err = t.ExecuteTemplate(&out, "layout", frame{Title: v.title, Section: v.section, Version: h.Version, Crumbs: v.crumbs, Viewer: viewer,
			Live: !v.still, Main: template.HTML(main.String()), CSS: h.assetPath("governor.css"), JS: h.assetPath("governor.js")}) // it comes from a template, which has escaped it
	}
	if err != nil {
		h.Failed(r, fmt.Errorf("render page: %w", err))
		http.Error(w, "This page cannot be rendered because of a bug; the agent's log has the cause.", http.StatusInternalServerError)
		return
	}
	sum := sha256.Sum256(out.Bytes())
	tag := `"` + hex.EncodeToString(sum[:12]) + `"`
	w.Header().Set("ETag", tag)
	w.Header().Set("Vary", "Cookie")
	if status == http.StatusOK && r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes())
}

// readTemplates parses each page with the layout and what pages share.
func (h *Handler) readTemplates() map[string]*template.Template {
	base := template.Must(template.New("").Funcs(h.functions()).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html"))
	names, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	out := make(map[string]*template.Template)
	for _, name := range names {
		short := strings.TrimSuffix(strings.TrimPrefix(name, "pages/"), ".html")
		if short == "layout" || short == "parts" {
			continue
		}
		out[short] = template.Must(template.Must(base.Clone()).ParseFS(pageFiles, name))
	}
	return out
}
