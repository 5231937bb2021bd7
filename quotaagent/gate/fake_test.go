package gate

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) {
	if nomad := os.Getenv(gateEnv); nomad != "" {
		panic(serveGate(nomad)) // a benchmark's gate, which is killed
	}
	goleak.VerifyTestMain(m)
}

// golden compares text that people read with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		must.NoError(t, os.MkdirAll("testdata", 0o755))
		must.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	must.NoError(t, err)
	must.EqOp(t, string(want), got)
}

// seen is one request that reached the fake Nomad.
type seen struct {
	method, path, query, host string
	header                    http.Header
	body                      string
}

// fakeNomad keeps jobs with versions and indexes, and knows tokens. It follows
// Nomad 1.11.3 in what the gate relies on.
type fakeNomad struct {
	*httptest.Server

	mu     sync.Mutex
	acl    bool
	tokens map[string]api.ACLToken
	jobs   map[string][]*api.Job
	evals  map[string]string // job ids
	// sources are submissions, by job id and version.
	sources map[string]string
	index   uint64
	seen    []seen
	// special answers a request instead, when it returns true.
	special func(w http.ResponseWriter, r *http.Request) bool
}

func newFakeNomad(t *testing.T) *fakeNomad {
	t.Helper()
	f := &fakeNomad{tokens: map[string]api.ACLToken{}, jobs: map[string][]*api.Job{}, evals: map[string]string{}, index: 10}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeNomad) put(t *testing.T, namespace, raw string) {
	t.Helper()
	var j api.Job
	must.NoError(t, json.Unmarshal([]byte(raw), &j))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.store(namespace, &j)
}

// store adds a version; the caller holds the lock.
func (f *fakeNomad) store(namespace string, j *api.Job) {
	j.Canonicalize()
	key := namespace + "\x00" + *j.ID
	version, index, modify := uint64(len(f.jobs[key])), f.index, f.index+3
	j.Version, j.JobModifyIndex, j.ModifyIndex, j.Namespace = &version, &index, &modify, &namespace
	f.jobs[key] = append([]*api.Job{j}, f.jobs[key]...)
	f.index += 10
}

// writes lists what changed something, as "METHOD path".
func (f *fakeNomad) writes() []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []seen
	for _, s := range f.seen {
		if isWrite(s.method) {
			out = append(out, s)
		}
	}
	return out
}

func (f *fakeNomad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.special != nil && f.special(w, r) {
		return
	}
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, seen{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Host, r.Header.Clone(), string(body)})
	token := f.tokens[r.Header.Get("X-Nomad-Token")]
	namespace := firstOf(r.URL.Query().Get("namespace"), "default")
	handler, id := nomadHandler(r.URL.Path)
	path := r.URL.Path
	switch {
	case path == "/v1/acl/token/self":
		f.self(w, r.Header.Get("X-Nomad-Token"))
	case f.acl && token.AccessorID == "":
		http.Error(w, "Permission denied", http.StatusForbidden)
	case path == "/v1/validate/job":
		reply(w, api.JobValidateResponse{DriverConfigValidated: true})
	case f.acl && f.mayNot(token, r):
		http.Error(w, "Permission denied", http.StatusForbidden)
	case f.stored(w, r, namespace, handler, id, body):
	case strings.HasPrefix(path, "/v1/job/") && handler == "/submission":
		f.submission(w, r, id)
	case strings.HasPrefix(path, "/v1/job/") && handler == "/versions":
		f.answerVersions(w, f.jobs[namespace+"\x00"+id])
	case strings.HasPrefix(path, "/v1/job/") && handler == "" && r.Method == http.MethodGet:
		versions := f.jobs[namespace+"\x00"+id]
		if len(versions) == 0 {
			http.Error(w, "job not found", http.StatusNotFound)
			return
		}
		reply(w, versions[0])
	case handler == "/plan":
		index := uint64(0)
		if versions := f.jobs[namespace+"\x00"+id]; len(versions) > 0 {
			index = jobModifyIndex(versions[0])
		}
		reply(w, map[string]any{"JobModifyIndex": index, "Diff": map[string]any{"Type": "Added"}, "Future": 1, "Warnings": ""})
	case isWrite(r.Method) && (path == "/v1/jobs" || handler == "" && strings.HasPrefix(path, "/v1/job/")):
		f.register(w, r, body)
	default:
		_, _ = io.WriteString(w, "passed "+r.Method+" "+path)
	}
}

func (f *fakeNomad) self(w http.ResponseWriter, secret string) {
	token, known := f.tokens[secret]
	switch {
	case !f.acl:
		reply(w, api.ACLToken{AccessorID: "acls-disabled", Name: "ACLs disabled token", Type: "client"})
	case secret == "":
		reply(w, api.ACLToken{AccessorID: "anonymous", Name: "Anonymous Token", Policies: []string{"anonymous"}})
	case strings.HasPrefix(secret, "jwt"):
		http.Error(w, "ACL token not found", http.StatusNotFound)
	case !known:
		http.Error(w, "Permission denied", http.StatusForbidden)
	default:
		reply(w, token)
	}
}

func (f *fakeNomad) answerVersions(w http.ResponseWriter, versions []*api.Job) {
	if len(versions) == 0 {
		http.Error(w, "job versions not found", http.StatusNotFound)
		return
	}
	reply(w, api.JobVersionsResponse{Versions: versions})
}

func (f *fakeNomad) register(w http.ResponseWriter, r *http.Request, body []byte) {
	var request api.JobRegisterRequest
	if err := json.Unmarshal(body, &request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	namespace := namespaceOf(request, r)
	if request.EnforceIndex {
		current := uint64(0)
		if versions := f.jobs[namespace+"\x00"+*request.Job.ID]; len(versions) > 0 {
			current = *versions[0].JobModifyIndex
		}
		if current != request.JobModifyIndex {
			conflictingIndex(request.JobModifyIndex, current).write(w)
			return
		}
	}
	index := f.index
	f.store(namespace, request.Job)
	reply(w, api.JobRegisterResponse{EvalID: "e", EvalCreateIndex: index, JobModifyIndex: index, Warnings: "1 warning:\n\n* theirs"})
}

func namespaceOf(request api.JobRegisterRequest, r *http.Request) string {
	return firstOf(r.URL.Query().Get("namespace"), request.Namespace, value(request.Job.Namespace), "default")
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// fakeAdmitter records what it is asked and says what it is told to.
type fakeAdmitter struct {
	mu       sync.Mutex
	asked    []Submission
	outcomes []Outcome
	verdict  Verdict
	err      error
	panics   bool
	// settling are the submissions that are not settled yet.
	settling sync.WaitGroup
}

func (a *fakeAdmitter) Admit(_ context.Context, s Submission) (Verdict, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.panics {
		panic("a bug")
	}
	a.asked = append(a.asked, s)
	if a.err != nil {
		return Verdict{}, a.err
	}
	v := a.verdict
	if s.Kind.Commits() && !v.Denied {
		a.settling.Add(1)
		v.Settle = func(ctx context.Context, o Outcome) {
			defer a.settling.Done()
			a.mu.Lock()
			defer a.mu.Unlock()
			if ctx.Err() != nil {
				panic("settled with a dead context")
			}
			a.outcomes = append(a.outcomes, o)
		}
	}
	return v, nil
}

// settled are the outcomes, once all submissions have theirs: that may be after the
// client has its answer.
func (a *fakeAdmitter) settled() []Outcome {
	a.settling.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Outcome(nil), a.outcomes...)
}

// rig is a gate between a test and a fake Nomad.
type rig struct {
	nomad    *fakeNomad
	admitter *fakeAdmitter
	gate     *httptest.Server
}

func newRig(t *testing.T, edits ...func(*Config)) *rig {
	t.Helper()
	r := &rig{nomad: newFakeNomad(t), admitter: &fakeAdmitter{}}
	r.gate = httptest.NewUnstartedServer(nil)
	r.gate.Config = NewServer(r.newGate(t, edits...))
	behindFront(t, r.gate)
	t.Cleanup(r.gate.Close)
	return r
}

// behindFront starts a server as an agent does: its connections come from a Front.
func behindFront(t *testing.T, s *httptest.Server) *Front {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	front, listener := NewFront(ctx, s.Config), s.Listener
	front.handed.address, front.listener = listener.Addr(), listener
	s.Listener = front.handed
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = front.accept(listener)
	}()
	t.Cleanup(func() {
		cancel()
		front.stop(func(bool) bool { return true })
		<-done
		front.running.Wait()
	})
	s.Start()
	return front
}

// newGate is a further gate before the same Nomad.
func (r *rig) newGate(t *testing.T, edits ...func(*Config)) *Gate {
	t.Helper()
	address, err := url.Parse(r.nomad.URL)
	must.NoError(t, err)
	transport, err := NewTransport(TLS{})
	must.NoError(t, err)
	config := Config{
		Nomad: address, Transport: transport, Region: "global", Admitter: r.admitter,
		Logger: hclog.New(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Trace}),
	}
	for _, edit := range edits {
		edit(&config)
	}
	g, err := New(config)
	must.NoError(t, err)
	t.Cleanup(transport.CloseIdleConnections)
	return g
}

// got is an answer of the gate.
type got struct {
	status int
	reason string
	header http.Header
	body   string
}

func (r *rig) do(t *testing.T, method, path, body string, header ...string) got {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	request, err := http.NewRequest(method, r.gate.URL+path, reader)
	must.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	must.NoError(t, err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	must.NoError(t, err)
	return got{response.StatusCode, response.Header.Get(ReasonHeader), response.Header, string(raw)}
}

var errLedger = errors.New("the ledger is not reachable")

// eventually polls a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s in vain: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
