package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/nomad-governor/governor/hcl/budgetspec"
)

// Prefix of every path that Governor serves itself.
const Prefix = "/governor/"

// maxPolicyBytes bounds an upload: what it carries must fit into one transaction
// of the store anyway, 512 KiB.
const maxPolicyBytes = 1 << 20

// Backend is what the API shows and changes. The agent implements it.
type Backend interface {
	// Status, Plan and Policy answer with values that encode to JSON.
	Status(ctx context.Context) (any, error)
	Policy(ctx context.Context) (any, error)
	Plan(ctx context.Context, files []budgetspec.File) (any, error)
	// Apply replaces the policy that has the given version.
	Apply(ctx context.Context, u Upload, author string) error
}

// Upload is a policy as the CLI sends it.
type Upload struct {
	Files []budgetspec.File `json:"files"`
	// Version of the policy that it replaces.
	Version string `json:"version"`
	// Commit is the version-control revision the files came from, if known.
	Commit string `json:"commit,omitempty"`
}

// Authorize says who makes a request, never with the secret itself. write asks for the right to change
// budgets. A status other than 0 refuses, with a sentence.
type Authorize func(r *http.Request, write bool) (who string, status int, sentence string)

// Problem is an error with the status to answer; Backend returns it for
// everything that is not the store's fault.
type Problem struct {
	Status int
	Text   string
}

// Error is the text for the caller.
func (p *Problem) Error() string { return p.Text }

// Failed is told of every request that failed for a reason that its author must
// not see, such as an address.
type Failed func(r *http.Request, err error)

// Handler serves the API.
func Handler(b Backend, authorize Authorize, failed Failed) http.Handler {
	mux := http.NewServeMux()
	h := handler{authorize: authorize, failed: failed}
	read := func(f func(context.Context) (any, error)) http.HandlerFunc {
		return h.guarded(false, func(w http.ResponseWriter, r *http.Request, _ string) {
			v, err := f(r.Context())
			h.answer(w, r, v, err)
		})
	}
	mux.HandleFunc("GET /governor/v1/health", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{\"ok\":true}\n")
	})
	mux.HandleFunc("GET /governor/v1/status", read(b.Status))
	mux.HandleFunc("GET /governor/v1/policy", read(b.Policy))
	mux.HandleFunc("POST /governor/v1/policy/plan", h.guarded(false, func(w http.ResponseWriter, r *http.Request, _ string) {
		if u, ok := upload(w, r); ok {
			v, err := b.Plan(r.Context(), u.Files)
			h.answer(w, r, v, err)
		}
	}))
	mux.HandleFunc("PUT /governor/v1/policy", h.guarded(true, func(w http.ResponseWriter, r *http.Request, who string) {
		if u, ok := upload(w, r); ok {
			h.answer(w, r, map[string]bool{"applied": true}, b.Apply(r.Context(), u, who))
		}
	}))
	mux.HandleFunc(Prefix, func(w http.ResponseWriter, r *http.Request) { notThere(mux, w, r) })
	return mux
}

// notThere answers what no route takes: 405 where another method would do. The
// catch-all pattern hides that from http.ServeMux itself.
func notThere(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := mux.Handler(other); pattern != Prefix {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		http.Error(w, fmt.Sprintf("governor: there is no %s %s", r.Method, r.URL.Path), http.StatusNotFound)
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	http.Error(w, fmt.Sprintf("governor: %s does not take %s, but %s", r.URL.Path, r.Method, strings.Join(allowed, ", ")), http.StatusMethodNotAllowed)
}

type handler struct {
	authorize Authorize
	failed    Failed
}

func (h handler) guarded(write bool, next func(http.ResponseWriter, *http.Request, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, status, sentence := h.authorize(r, write)
		if status != 0 {
			http.Error(w, "governor: "+sentence, status)
			return
		}
		next(w, r, who)
	}
}

// commitMax bounds the name of a version-control revision, in bytes.
const commitMax = 256

func upload(w http.ResponseWriter, r *http.Request) (Upload, bool) {
	var u Upload
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPolicyBytes))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&u)
	if err == nil && decoder.More() {
		err = errors.New("more follows after its end")
	}
	var tooLarge *http.MaxBytesError
	refuse := func(status int, text string) { http.Error(w, "governor: "+text, status) }
	switch {
	case errors.As(err, &tooLarge):
		refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("a policy upload may have at most %d bytes", tooLarge.Limit))
	case errors.Is(err, io.EOF):
		refuse(http.StatusBadRequest, "the request is not a policy upload: the body is empty")
	case err != nil:
		refuse(http.StatusBadRequest, "the request is not a policy upload: "+err.Error())
	case len(u.Files) == 0:
		refuse(http.StatusBadRequest, "the upload has no files; to remove all budgets delete the keys in the store")
	case len(u.Commit) > commitMax:
		refuse(http.StatusBadRequest, fmt.Sprintf("the commit has %d bytes; at most %d are kept", len(u.Commit), commitMax))
	default:
		return u, true
	}
	return Upload{}, false
}

// answer writes a value, or the error in its place.
func (h handler) answer(w http.ResponseWriter, r *http.Request, v any, err error) {
	var problem *Problem
	switch {
	case errors.As(err, &problem):
		http.Error(w, problem.Text, problem.Status)
		return
	case err != nil:
		h.failed(r, err)
		text := "governor: the ledger cannot be read now; the agent's log has the cause, try again later"
		if r.Method == http.MethodPut {
			text = "governor: the ledger did not confirm the change, which may or may not have been made; look at it with " +
				"`governor budget status` before you try again"
		}
		http.Error(w, text, http.StatusServiceUnavailable)
		return
	}
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		h.failed(r, err)
		http.Error(w, "governor: the answer cannot be encoded because of a bug; the agent's log has the cause", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}
