package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/nomad-governor/governor/hcl/budgetspec"
)

// Prefix of every path that Governor serves itself.
const Prefix = "/governor/"

// maxPolicyBytes bounds an uploaded policy: it must fit into one transaction of
// the store anyway.
const maxPolicyBytes = 4 << 20

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

// Authorize says who makes a request. write asks for the right to change
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

// Handler serves the API.
func Handler(b Backend, authorize Authorize) http.Handler {
	mux := http.NewServeMux()
	read := func(f func(context.Context) (any, error)) http.HandlerFunc {
		return guarded(authorize, false, func(w http.ResponseWriter, r *http.Request, _ string) { answer(w)(f(r.Context())) })
	}
	mux.HandleFunc("GET /governor/v1/health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"ok":true}`) })
	mux.HandleFunc("GET /governor/v1/status", read(b.Status))
	mux.HandleFunc("GET /governor/v1/policy", read(b.Policy))
	mux.HandleFunc("POST /governor/v1/policy/plan", guarded(authorize, false, func(w http.ResponseWriter, r *http.Request, _ string) {
		if u, ok := upload(w, r); ok {
			answer(w)(b.Plan(r.Context(), u.Files))
		}
	}))
	mux.HandleFunc("PUT /governor/v1/policy", guarded(authorize, true, func(w http.ResponseWriter, r *http.Request, who string) {
		if u, ok := upload(w, r); ok {
			answer(w)(map[string]bool{"applied": true}, b.Apply(r.Context(), u, who))
		}
	}))
	mux.HandleFunc(Prefix, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, fmt.Sprintf("governor: there is no %s %s", r.Method, r.URL.Path), http.StatusNotFound)
	})
	return mux
}

func guarded(authorize Authorize, write bool, next func(http.ResponseWriter, *http.Request, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, status, sentence := authorize(r, write)
		if status != 0 {
			http.Error(w, "governor: "+sentence, status)
			return
		}
		next(w, r, who)
	}
}

func upload(w http.ResponseWriter, r *http.Request) (Upload, bool) {
	var u Upload
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPolicyBytes))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&u)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		http.Error(w, fmt.Sprintf("governor: a policy may have at most %d bytes", tooLarge.Limit), http.StatusRequestEntityTooLarge)
	case err != nil:
		http.Error(w, "governor: the request is not a policy upload: "+err.Error(), http.StatusBadRequest)
	case len(u.Files) == 0:
		http.Error(w, "governor: the upload has no files; to remove all budgets delete the keys in the store", http.StatusBadRequest)
	default:
		return u, true
	}
	return Upload{}, false
}

// answer writes a value, or the error in its place.
func answer(w http.ResponseWriter) func(v any, err error) {
	return func(v any, err error) {
		var problem *Problem
		switch {
		case errors.As(err, &problem):
			http.Error(w, problem.Text, problem.Status)
		case err != nil:
			http.Error(w, "governor: the ledger cannot be reached: "+err.Error(), http.StatusServiceUnavailable)
		default:
			body, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				http.Error(w, "governor: encode answer: "+err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(append(body, '\n'))
		}
	}
}
