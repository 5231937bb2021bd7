package browser_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/e2e/browser"
	"github.com/nomad-governor/governor/quotaagent/uipanel"
)

// nomadLike is a page with what the panel needs of Nomad's UI: its settings, the details
// at the top, and a script that goes to other pages and draws the page anew.
const nomadLike = `<!DOCTYPE html><html><head><meta charset="utf-8"><title>Nomad</title><meta name="nomad-ui/config/environment" content="x">` + icon + `%s</head>
<body><button id="redraw">redraw</button><button id="away">away</button><button id="other">other</button><main></main><script src="/ui/assets/app.js"></script></body></html>`

const nomadLikeScript = `
const main = document.querySelector("main");
const draw = () => { main.innerHTML = '<section class="section"><h1>Page</h1><div class="boxed-section is-small"><div class="boxed-section-body inline-definitions">Details</div></div>' +
	'<div class="boxed-section"><div class="boxed-section-body">Rest of the page</div></div></section>'; };
const go = (path) => { history.pushState({}, "", path); draw(); };
document.getElementById("redraw").addEventListener("click", draw);
document.getElementById("away").addEventListener("click", () => go("/ui/jobs"));
document.getElementById("other").addEventListener("click", () => go("/ui/jobs/a%2Fb@research?region=west"));
setTimeout(draw, 200);
setTimeout(() => document.body.append("all is settled"), 800);`

// nomadPolicy is what Nomad sends with its pages, as of 1.11.3.
const nomadPolicy = "default-src 'none'; connect-src *; img-src 'self' data:; script-src 'self'; style-src 'self' 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'"

// panelServer is a gate with a Nomad of one page, and the questions that it was asked.
type panelServer struct {
	mu    sync.Mutex
	asked []string
}

func (s *panelServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch file := uipanel.Handler(r.URL.Path); {
	case file != nil:
		file.ServeHTTP(w, r)
	case r.URL.Path == "/ui/assets/app.js":
		w.Header().Set("Content-Type", "text/javascript")
		_, _ = w.Write([]byte(nomadLikeScript))
	case strings.HasPrefix(r.URL.Path, "/ui/"):
		style := ""
		if r.URL.Query().Has("dark") {
			style = "<style>body, .boxed-section-body { background: #111; color: #eee; } a { color: #8bf; }</style>"
		}
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Security-Policy", nomadPolicy)
		page, ok := uipanel.Edit(fmt.Appendf(nil, nomadLike, style), []string{nomadPolicy})
		if !ok {
			panic("the page is not edited")
		}
		_, _ = w.Write(page)
	default:
		s.answer(w, r)
	}
}

func (s *panelServer) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.URL.RequestURI()+" "+r.Header.Get("X-Nomad-Token"))
	s.mu.Unlock()
	switch q := r.URL.Query(); {
	case q.Get("job") == "broken":
		_, _ = w.Write([]byte(`{"job": 1}`))
	case q.Get("job") == "hidden", r.Header.Get("X-Governor-Panel") == "":
		w.WriteHeader(http.StatusNoContent)
	case q.Get("job") == "cpu":
		_, _ = w.Write([]byte(`{"page": "/", "job": {"state": "unknown", "account": [], "allocations": []}}`))
	case q.Has("id"):
		_, _ = w.Write([]byte(panelOfAllocation))
	default:
		_, _ = fmt.Fprintf(w, `{"page": "/governor/jobs/x", "job": {"state": "waiting", "budget": "acme", "text": "waits for %s", "account": [], "allocations": [],
			"queue": {"position": 3, "of": 7, "since": "2026-03-10T12:00:00Z"}}}`, q.Get("job"))
	}
}

// panelOfAllocation has texts that would be markup, a GPU of which nothing is known, and a set
// that was not offered.
const panelOfAllocation = `{"page": "/governor/jobs/default/x", "job": {"state": "running", "budget": "<img src=x onerror=alert(1)>", "account": [
	{"name": "Cost", "admitted": "2.00 USD", "used": "1.00 USD", "held": "1.00 USD"}], "allocations": []}, "allocation": {"running": true, "silent": "", "devices": [
	{"id": "GPU-1", "task": "a", "device": "nvidia/gpu/NVIDIA H100 80GB HBM3", "health": "xid_79: <b>lost</b>", "utilization_percent": 93, "memory_used_mib": 40960, "memory_total_mib": 81559, "temperature_c": 61, "power_w": 650, "power_limit_w": 700},
	{"id": "MIG-2", "task": "b", "device": "nvidia/gpu/m", "temperature_c": 50, "whole_gpu": true}], "sets": [
	{"task": "a", "given": {"indexes": [0, 1], "ring_mbps": 12000, "ideal_mbps": 320000, "weakest": "SYS"}, "offered": {"indexes": [0, 4], "ring_mbps": 320000}}]}}`

// The panel on its own: what it asks, that it follows the page, and that it shows texts as
// they are. That it fits the pages of a real Nomad is seen in e2e/story.
func TestPanel(t *testing.T) {
	t.Parallel()
	s := &panelServer{}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	dir := filepath.Join("..", "_out", "pictures", "panel") // seen from here
	dir, err := filepath.Abs(dir)
	must.NoError(t, err)
	const alloc = "515be3fe-8612-8bdd-3d6f-c33bcec2b879"
	const place = "section.section > .boxed-section.is-small + .governor-panel"
	only := place + ":not(.governor-panel ~ .governor-panel)"
	page := func(path string, want browser.Page) browser.Page {
		want.URL, want.PNG = server.URL+path, filepath.Join(dir, strings.Map(func(r rune) rune {
			if r == '/' || r == '?' {
				return '-'
			}
			return r
		}, path)+".png")
		want.Texts = append(want.Texts, "Rest of the page", "all is settled")
		return want
	}
	plain := func(path string, steps ...browser.Step) browser.Page {
		return page(path, browser.Page{Steps: steps, Absent: []string{"GPUs and budget"}})
	}
	_, err = browser.Visit(t.Context(), browser.Plan{Token: "a-token", Pages: []browser.Page{
		page("/ui/allocations/"+alloc, browser.Page{Steps: []browser.Step{{Click: place}, {Click: "#redraw"}}, Selectors: []string{only, `meter[aria-label="Utilization: 93 %"]`},
			Texts: []string{"<img src=x onerror=alert(1)>", "xid_79: <b>lost</b>", "NVIDIA H100 80GB HBM3", "93 %", "40.0 / 79.6 GiB", "61 °C", "650 / 700 W", "no: 0, 4, 320 GB/s", "12 GB/s", "those of the whole GPU"}}),
		page("/ui/allocations/"+alloc+"/a?dark=1", browser.Page{Selectors: []string{only}, Texts: []string{"93 %"}}),
		page("/ui/jobs/train@default", browser.Page{Steps: []browser.Step{{Click: place}, {Click: "#other"}}, Selectors: []string{only}, Texts: []string{"waits for a/b", "3 of 7", "not known"}, Absent: []string{"waits for train"}}),
		page("/ui/#/jobs/hash", browser.Page{Selectors: []string{only}, Texts: []string{"waits for hash"}}),
		plain("/ui/jobs/train@default", browser.Step{Click: place}, browser.Step{Click: "#away"}, browser.Step{Click: "h1"}),
		plain("/ui/jobs"), plain("/ui/jobs/run"), plain("/ui/jobs/train@default/versions"), plain("/ui/allocations/" + alloc + "/fs"), plain("/ui/jobs/%E0%A4@default"),
		plain("/ui/jobs/hidden@default"), plain("/ui/jobs/cpu@default"), plain("/ui/jobs/broken@default"),
	}})
	must.NoError(t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	must.SliceContainsSubset(t, s.asked, []string{
		"/governor/v1/panel/allocation?id=" + alloc + " a-token", "/governor/v1/panel/allocation?id=" + alloc + "&task=a a-token",
		"/governor/v1/panel/job?job=train&namespace=default a-token", "/governor/v1/panel/job?job=a%2Fb&namespace=research&region=west a-token",
		"/governor/v1/panel/job?job=hash&namespace=default a-token",
	})
	for _, question := range s.asked {
		must.StrNotContains(t, question, "versions")
	}
}
