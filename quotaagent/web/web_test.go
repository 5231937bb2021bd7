package web_test

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/quotaagent/web"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// pages are the handler of a fake, as an agent wires it.
func pages(t *testing.T, f *fake) http.Handler {
	t.Helper()
	return web.New(web.Config{Door: f, Books: f, Past: f, Rules: f, Cluster: f, Audit: f, Zone: func() *time.Location { return time.UTC }, Now: func() time.Time { return now },
		Failed: func(r *http.Request, err error) { t.Logf("%s: %v", r.URL.Path, err) }, Version: "1.2.3"})
}

// get asks for a page.
func get(h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// all are the pages of the busy cluster.
var all = map[string]string{
	"home": "", "budgets": "budgets", "statement": "budgets/acme/research", "jobs": "jobs", "job": "jobs/research/train",
	"waiting": "jobs/research/%3Cscript%3Ealert%28%22x%22%29%3C%2Fscript%3E", "ended": "jobs?state=ended", "topology": "topology", "node": "topology/client1", "decisions": "decisions", "decision": "decisions/d-3f9c1a0b-3", "audit": "audit",
	"policy": "policy", "file": "policy/files/budgets.hcl?line=3",
}

var assetVersion = regexp.MustCompile(`\?v=[0-9a-f]+`)

func TestPagesAreAsBefore(t *testing.T) {
	t.Parallel()
	h := pages(t, busy())
	for name, path := range all {
		t.Run(name, func(t *testing.T) { golden(t, name, get(h, "/governor/"+path), http.StatusOK) })
	}
}

func golden(t *testing.T, name string, w *httptest.ResponseRecorder, status int) {
	t.Helper()
	must.EqOp(t, status, w.Code, must.Sprint(w.Body.String()))
	file := filepath.Join("testdata", name+".html")
	text := assetVersion.ReplaceAllString(w.Body.String(), "?v=0")
	if name != "home" { // what surrounds a page is in one file only
		_, text, _ = strings.Cut(text, "<main")
		text, _, _ = strings.Cut("<main"+text, "</main>")
	}
	if *update {
		must.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	want, err := os.ReadFile(file)
	must.NoError(t, err)
	must.EqOp(t, string(want), text)
}

// The lines of a policy that was replaced are not where they were.
func TestADecisionUnderAnEarlierPolicyLinksToNoLine(t *testing.T) {
	t.Parallel()
	h := pages(t, busy())
	must.StrContains(t, get(h, "/governor/decisions/d-3f9c1a0b-3").Body.String(), `<a class="source" href="/governor/policy/files/budgets.hcl?line=3#L3">budgets.hcl:3</a>`)
	old := get(h, "/governor/decisions/d-3f9c1a0b-1").Body.String()
	must.StrContains(t, old, "<dd>budgets.hcl:3</dd>")
	must.StrContains(t, old, "no longer in force")
	must.StrContains(t, old, "The words of plans are not kept.")
	must.EqOp(t, http.StatusNotFound, get(h, "/governor/decisions/none").Code)
}

// Whose decisions are missing is said where decisions are shown.
func TestMissingDecisionsAreSaidToBe(t *testing.T) {
	t.Parallel()
	f := busy()
	f.incomplete = []string{"agent b at http://10.0.0.2 does not answer: its decisions are missing"}
	must.StrContains(t, get(pages(t, f), "/governor/decisions").Body.String(), f.incomplete[0])
	must.StrNotContains(t, get(pages(t, busy()), "/governor/decisions").Body.String(), "does not answer")
}

func TestPagesOfAnAgentThatWasJustInstalled(t *testing.T) {
	t.Parallel()
	h := pages(t, empty())
	for path, want := range map[string]string{
		"": "No budgets yet", "budgets": "No budgets yet", "jobs": "No jobs", "topology": "no node with GPUs", "decisions": "No decisions", "audit": "Nothing is recorded yet", "policy": "No policy yet",
	} {
		w := get(h, "/governor/"+path)
		must.EqOp(t, http.StatusOK, w.Code)
		must.StrContains(t, w.Body.String(), want)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	h := pages(t, busy())
	for _, path := range []string{"", "nothing", "assets/governor.css", "sign-in"} {
		w := get(h, "/governor/"+path)
		policy := w.Header().Get("Content-Security-Policy")
		must.StrContains(t, policy, "default-src 'none'")
		must.StrNotContains(t, policy, "unsafe")
		must.EqOp(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	}
	must.EqOp(t, "no-store", get(h, "/governor/").Header().Get("Cache-Control"))
	css := regexp.MustCompile(`href="(/governor/assets/governor\.css\?v=[^"]+)"`).FindStringSubmatch(get(h, "/governor/").Body.String())
	must.Len(t, 2, css)
	w := get(h, css[1])
	must.StrContains(t, w.Header().Get("Cache-Control"), "immutable")
	must.EqOp(t, http.StatusNotModified, get(h, css[1], "If-None-Match", w.Header().Get("ETag")).Code)
	must.EqOp(t, http.StatusNotFound, get(h, "/governor/assets/none.js").Code)
}

// What scripts and styles a page has stands in files of its own: the policy of the pages
// lets nothing else run.
func TestPagesHaveNoScriptsAndStylesInThem(t *testing.T) {
	t.Parallel()
	h := pages(t, busy())
	inline := regexp.MustCompile(`(?i)<script(?:>|[^>]*[^>"]>)|<style|\sstyle=|\son[a-z]+=`)
	for name, path := range all {
		text := get(h, "/governor/"+path).Body.String()
		must.EqOp(t, "", inline.FindString(regexp.MustCompile(`<script src="[^"]*" defer></script>`).ReplaceAllString(text, "")), must.Sprint(name))
		must.StrNotContains(t, text, `<script>alert`, must.Sprint(name))
	}
	must.StrContains(t, get(h, "/governor/jobs").Body.String(), `&lt;script&gt;alert`)
}

func TestAPageThatHasNotChangedIsNotSentAgain(t *testing.T) {
	t.Parallel()
	f := busy()
	h := pages(t, f)
	first := get(h, "/governor/jobs")
	tag := first.Header().Get("ETag")
	again := get(h, "/governor/jobs", "If-None-Match", tag)
	must.EqOp(t, http.StatusNotModified, again.Code)
	must.EqOp(t, 0, again.Body.Len())

	changed := *f.overview
	changed.Waiting = nil
	f.overview = &changed
	h = pages(t, f)
	must.EqOp(t, http.StatusOK, get(h, "/governor/jobs", "If-None-Match", tag).Code)
}

func TestWhatManyPagesShowIsReadOnce(t *testing.T) {
	t.Parallel()
	f := busy()
	h := pages(t, f)
	for range 20 {
		get(h, "/governor/jobs")
	}
	must.EqOp(t, 1, f.reads, must.Sprint("the clock stands still"))
}

func TestThousandsOfJobs(t *testing.T) {
	t.Parallel()
	f := busy()
	for i := range 5000 {
		j := f.overview.Jobs[0]
		j.ID, j.Created = fmt.Sprintf("job-%04d", i), now.Add(time.Duration(i)*time.Second)
		f.overview.Jobs = append(f.overview.Jobs, j)
	}
	for i := range 400 {
		b := f.overview.Budgets[1]
		b.Path = fmt.Sprintf("acme/team-%03d", i)
		f.overview.Budgets = append(f.overview.Budgets, b)
		n := f.cluster.Nodes[0]
		n.Name = fmt.Sprintf("node-%03d", i)
		f.cluster.Nodes = append(f.cluster.Nodes, n)
		f.decided = append(f.decided, f.decided...)[:min(3000, 2*len(f.decided))]
	}
	f.policy.Files = append(f.policy.Files, budgetspec.File{Name: "long.hcl", Content: []byte(strings.Repeat("# a line of a long file of budgets, as some teams have them\n", 6000))})
	h := pages(t, f)
	for name, path := range all {
		w := get(h, "/governor/"+path)
		must.EqOp(t, http.StatusOK, w.Code)
		must.Less(t, 100_000, w.Body.Len(), must.Sprint(name))
	}
	must.Less(t, 100_000, get(h, "/governor/policy/files/long.hcl").Body.Len())
	for name, path := range all {
		fastest := time.Hour
		for range 5 {
			begin := time.Now()
			get(h, "/governor/"+path)
			fastest = min(fastest, time.Since(begin))
		}
		t.Logf("%s: %s", name, fastest)
		must.Less(t, 200*time.Millisecond, fastest, must.Sprint(name))
	}
	text := get(h, "/governor/jobs").Body.String()
	must.StrContains(t, text, "1–50 of 5,003 jobs")
	must.StrContains(t, text, "job-4999")
	text = get(h, "/governor/jobs?page=101&namespace=research").Body.String()
	must.StrContains(t, text, "5,001–5,002 of 5,002 jobs")
	must.StrContains(t, get(h, "/governor/jobs?q=job-0042").Body.String(), "1–1 of 1 job<")
	must.StrContains(t, get(h, "/governor/jobs?page=9999").Body.String(), "5,001–5,003 of 5,003 jobs")
	must.StrContains(t, get(h, "/governor/policy/files/long.hcl?line=5000").Body.String(), `id="L5000" class="marked"`)
}

func TestWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	f := busy()
	f.store = errStore
	h := pages(t, f)
	for _, path := range []string{"", "budgets", "jobs", "budgets/acme"} {
		w := get(h, "/governor/"+path)
		must.EqOp(t, http.StatusServiceUnavailable, w.Code)
		must.StrContains(t, w.Body.String(), "The ledger cannot be read now")
		must.StrContains(t, w.Body.String(), "since <time datetime=\"2026-03-10T12:00:00Z\">")
		must.StrNotContains(t, w.Body.String(), "10.1.2.3")
	}
	f = busy()
	f.nomad = errStore
	h = pages(t, f)
	w := get(h, "/governor/topology")
	must.EqOp(t, http.StatusServiceUnavailable, w.Code)
	must.StrContains(t, w.Body.String(), "Nomad cannot be read since 2026-03-10 12:00:00 UTC")
	must.StrContains(t, get(h, "/governor/").Body.String(), "Nomad cannot be read since 2026-03-10 12:00:00 UTC")
	must.StrContains(t, get(h, "/governor/jobs/research/train").Body.String(), "what connects the GPUs is not known")

	f = busy()
	f.closed = true
	h = pages(t, f)
	for _, w := range []*httptest.ResponseRecorder{get(h, "/governor/"), get(h, "/governor/none"), post(h, "/governor/sign-in", url.Values{"token": {"secret-root"}})} {
		must.EqOp(t, http.StatusServiceUnavailable, w.Code)
		must.StrContains(t, w.Body.String(), "Nomad cannot be asked who you are now.")
		must.StrContains(t, w.Body.String(), `since <time datetime="2026-03-10T12:00:00Z">`)
		must.SliceEmpty(t, w.Result().Cookies())
	}

	f = busy()
	f.history = &web.Problem{Status: http.StatusNotFound, Text: "this agent keeps no history"}
	h = pages(t, f)
	for _, path := range []string{"budgets", "budgets/acme/research", "decisions", "jobs?state=ended", "jobs/research/train"} {
		w := get(h, "/governor/"+path)
		must.EqOp(t, http.StatusOK, w.Code)
		must.StrContains(t, w.Body.String(), "this agent keeps no history", must.Sprint(path))
	}
}

func TestWhatIsNotThere(t *testing.T) {
	t.Parallel()
	h := pages(t, busy())
	for path, want := range map[string]string{
		"nothing": "There is no page at /governor/nothing.", "budgets/acme/none": "There is no budget", "jobs/research/none": "knows nothing of a job", "topology/none": "There is no node",
		"policy/files/none.hcl": "There is no file",
	} {
		w := get(h, "/governor/"+path)
		must.EqOp(t, http.StatusNotFound, w.Code)
		must.StrContains(t, w.Body.String(), want)
	}
	must.EqOp(t, http.StatusBadRequest, get(h, "/governor/audit?to=x").Code)
	must.EqOp(t, http.StatusOK, get(h, "/governor/budgets/acme/research?month=2026-02").Code)
	r := httptest.NewRequest(http.MethodPost, "/governor/jobs", nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	must.EqOp(t, http.StatusMethodNotAllowed, w.Code)
	must.EqOp(t, "GET, HEAD", w.Header().Get("Allow"))
}

func TestWhatBecameOfAJobThatIsGone(t *testing.T) {
	t.Parallel()
	f := busy()
	deny := web.Decision{AtMS: now.UnixMilli(), Namespace: "research", ID: "gone", Outcome: "deny", Reason: "exceeds_job_cap", Text: "it asks for 64 GPUs"}
	f.jobs["research/gone"] = web.JobDetail{State: "unknown", Text: "it neither waits nor holds any", Decisions: []web.Decision{deny}}
	f.jobs["research/train"] = web.JobDetail{State: "unknown", Text: "it neither waits nor holds any"}
	h := pages(t, f)
	text := get(h, "/governor/jobs/research/gone").Body.String()
	must.StrContains(t, text, `<span class="pill bad">refused</span>`)
	must.StrContains(t, text, "it asks for 64 GPUs")
	must.StrContains(t, get(h, "/governor/jobs/research/train").Body.String(), `<span class="pill plain">ended</span>`)
}

func TestABrokenEditIsShownAtItsLines(t *testing.T) {
	t.Parallel()
	f := busy()
	f.overview.Broken = true
	f.policy.Broken = []budgetspec.File{{Name: "budgets.hcl", Content: []byte("budget \"acme\" {\n  limit \"month\" {\n    cots = 12000\n  }\n}\n")}}
	f.policy.Faults = []web.Fault{{File: "budgets.hcl", Line: 3, Summary: "Unknown argument", Detail: `There is no argument "cots"; did you mean "cost"?`}}
	h := pages(t, f)
	golden(t, "policy-broken", get(h, "/governor/policy"), http.StatusOK)
	golden(t, "file-broken", get(h, "/governor/policy/files/budgets.hcl?edit=broken&line=3"), http.StatusOK)
	must.StrContains(t, get(h, "/governor/").Body.String(), "Policy broken")
}
