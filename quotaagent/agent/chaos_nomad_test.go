package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/shoenig/test/must"
)

// chaosNomad serves the one Nomad, and the one history, to the agent processes. An
// allocation starts as soon as its job is registered.
type chaosNomad struct {
	*fakeNomad
	socket string
	faults bool

	mu sync.Mutex
	// running are the GPUs in use by namespace, and most the most there ever were.
	running, most map[string]int
	allocs        map[string]bool // that run
	submissions   map[string]bool // registered, by the id of the submission
	entries       map[string]ledger.Entry
	problems      []error
	registered    int
	refused       int
	lost          int
}

func newChaosNomad(t testing.TB, dir string, nomad *fakeNomad, faults bool) *chaosNomad {
	n := &chaosNomad{fakeNomad: nomad, socket: filepath.Join(dir, "nomad"), faults: faults,
		running: map[string]int{}, most: map[string]int{}, allocs: map[string]bool{},
		submissions: map[string]bool{}, entries: map[string]ledger.Entry{}}
	listener, err := net.Listen("unix", n.socket)
	must.NoError(t, err)
	server := &http.Server{Handler: n.handler(), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		must.ErrorIs(t, <-served, http.ErrServerClosed)
	})
	return n
}

// serve answers a question with a JSON body and a JSON answer.
func serve[In any](f func(r *http.Request, in In) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		err := json.NewDecoder(r.Body).Decode(&in)
		var out any
		if err == nil {
			out, err = f(r, in)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(out)
	}
}

func (n *chaosNomad) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/stored", serve(func(_ *http.Request, in chaosRef) (any, error) { return n.stored(in.Namespace, in.Job), nil }))
	mux.HandleFunc("/snapshot", serve(func(r *http.Request, _ any) (any, error) { return n.Snapshot(r.Context()) }))
	mux.HandleFunc("/allocations", serve(func(r *http.Request, in chaosRef) (any, error) {
		return n.JobAllocations(r.Context(), in.Namespace, in.Job)
	}))
	mux.HandleFunc("/job", serve(func(r *http.Request, in chaosRef) (any, error) { return n.Job(r.Context(), in.Namespace, in.Job) }))
	mux.HandleFunc("/register", serve(func(_ *http.Request, in chaosRegister) (any, error) { return n.take(in) }))
	mux.HandleFunc("/record", serve(func(_ *http.Request, in []ledger.Entry) (any, error) { return nil, n.record(in) }))
	mux.HandleFunc("/stream", n.serveStream)
	return mux
}

// serveStream sends the events from now on, after an empty one.
func (n *chaosNomad) serveStream(w http.ResponseWriter, r *http.Request) {
	s := make(chan event, 100)
	n.fakeNomad.mu.Lock()
	n.streams[s] = true
	n.fakeNomad.mu.Unlock()
	defer func() {
		n.fakeNomad.mu.Lock()
		defer n.fakeNomad.mu.Unlock()
		delete(n.streams, s)
	}()
	out := json.NewEncoder(w)
	for e := (chaosEvent{}); out.Encode(e) == nil; {
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case next := <-s:
			e = chaosEvent{Alloc: next.alloc, Namespace: next.namespace, Job: next.jobID, Index: next.index}
		}
	}
}

var errLost = errors.New("the answer is lost")

// take registers a job that is not running, unless it changed since it was read,
// and starts its allocation. That is where a limit would be exceeded.
func (n *chaosNomad) take(r chaosRegister) (gate.Outcome, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fakeNomad.mu.Lock()
	index, runs := uint64(0), false
	if j := n.jobs[jobKey(r.Namespace, r.Job)]; j != nil {
		index, runs = j.modifyIndex, !j.dead
	}
	n.fakeNomad.mu.Unlock()
	if index != r.Before || runs || n.faults && rand.IntN(20) == 0 {
		n.refused++
		return gate.Outcome{Known: true}, nil
	}
	if late := n.now().UnixMilli() - r.UntilMS; late > 0 {
		n.problems = append(n.problems, fmt.Errorf("%s/%s was registered %d ms too late", r.Namespace, r.Job, late))
	}
	out := gate.Outcome{Known: true, Accepted: true, JobModifyIndex: n.register(r.Namespace, r.Job, false)}
	n.allocs[n.start(r.Namespace, r.Job, 0, r.GPUs)] = true
	n.registered++
	n.submissions[r.ID] = true
	for _, key := range []string{r.Namespace, ""} {
		n.running[key] += r.GPUs
		n.most[key] = max(n.most[key], n.running[key])
	}
	if n.faults && rand.IntN(20) == 0 {
		n.lost++
		return gate.Outcome{}, errLost
	}
	return out, nil
}

// end ends each running allocation with a chance of one in so many.
func (n *chaosNomad) end(oneIn int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id := range n.allocs {
		if rand.IntN(oneIn) != 0 {
			continue
		}
		n.fakeNomad.mu.Lock()
		a := *n.fakeNomad.allocs[id]
		n.fakeNomad.mu.Unlock()
		n.running[a.Namespace] -= len(a.IDs())
		n.running[""] -= len(a.IDs())
		delete(n.allocs, id)
		n.finish(id)
	}
}

// record keeps entries by key; the same key must always mean the same.
func (n *chaosNomad) record(entries []ledger.Entry) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.faults && rand.IntN(50) == 0 {
		return errLost
	}
	for _, e := range entries {
		if old, known := n.entries[e.Key]; known && !reflect.DeepEqual(old, e) {
			n.problems = append(n.problems, errors.New("entry "+e.Key+" came twice, and differs"))
		}
		n.entries[e.Key] = e
	}
	return nil
}
