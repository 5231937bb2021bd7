package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Prefix of every path that Governor serves itself.
const Prefix = "/governor/"

// bodyMax bounds the body of a request, in bytes, unless its route says more.
const bodyMax = 64 << 10

// Right is what the caller of a route must be allowed to do.
type Right uint8

// The rights. Routes that need a finer rule than Write ask for Read and look at
// the Caller.
const (
	// Anyone needs no token.
	Anyone Right = iota
	// Read needs a token that Nomad accepts.
	Read
	// Write needs the right to change budgets.
	Write
)

// Caller is who makes a request, as Nomad vouches for it.
type Caller struct {
	// Accessor of the ACL token, never the secret; "anonymous" without ACLs.
	Accessor string
	// Names are those of the gate's identity, such as "role:oncall", sorted.
	Names []string
	// Sees says of which namespaces Nomad would show the jobs to the caller; nil means of
	// all. It asks when it is called, and its error is why that is not known.
	Sees func() (reads func(namespace string) bool, err error)
}

// Route is one endpoint.
type Route struct {
	// Method and Path are a pattern of http.ServeMux: "/governor/v1/runs/{id}".
	Method, Path string
	Right        Right
	// BodyMax bounds the body, in bytes; 0 means 64 KiB.
	BodyMax int64
	// Serve answers with a value that encodes to JSON, with a Raw, or with an
	// http.Handler that writes the answer. An error is a *Problem, or else the ledger's.
	Serve func(ctx context.Context, c Call) (any, error)
}

// Call is one request to a Route.
type Call struct {
	Caller  Caller
	request *http.Request
	body    io.Reader
}

// HiddenJob stands for a job that its reader must not know.
const HiddenJob = "(a job of another namespace)"

// Reads says of which namespaces the caller may read the jobs; nil means of all. Its error
// is a Problem, with the cause for the log.
func (c Call) Reads() (reads func(namespace string) bool, cause, err error) {
	if c.Caller.Sees == nil {
		return nil, nil, nil
	}
	if reads, cause = c.Caller.Sees(); cause != nil {
		return nil, cause, &Problem{Status: http.StatusServiceUnavailable, Text: "Nomad cannot be asked now what your token may read; try again later"}
	}
	return reads, nil, nil
}

// Var is the value of a wildcard in the route's path.
func (c Call) Var(name string) string { return c.request.PathValue(name) }

// Query is the first value of a query parameter, or "".
func (c Call) Query(name string) string { return c.request.URL.Query().Get(name) }

// Request is the request with its address and headers, for who acts with the caller's
// token. Its body is read with Body.
func (c Call) Request() *http.Request { return c.request }

// Body reads the body of a call. Its errors are Problems.
func (c Call) Body() ([]byte, error) {
	body, err := io.ReadAll(c.body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, tooMuch(tooLarge)
	case err != nil:
		return nil, &Problem{Status: http.StatusBadRequest, Text: "the body of the request cannot be read: " + err.Error()}
	}
	return body, nil
}

func tooMuch(e *http.MaxBytesError) *Problem {
	return &Problem{Status: http.StatusRequestEntityTooLarge, Text: fmt.Sprintf("the body of this request may have at most %d bytes", e.Limit)}
}

// Decode reads the body of a call as one JSON value without unknown fields. Its
// errors are Problems.
func Decode[T any](c Call) (T, error) {
	var v T
	decoder := json.NewDecoder(c.body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&v)
	if err == nil {
		switch _, more := decoder.Token(); {
		case more == nil:
			err = errors.New("more follows after its end")
		case !errors.Is(more, io.EOF):
			err = more
		}
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return v, tooMuch(tooLarge)
	case errors.Is(err, io.EOF):
		return v, &Problem{Status: http.StatusBadRequest, Text: "the body of the request is empty; it must be JSON"}
	case err != nil:
		return v, &Problem{Status: http.StatusBadRequest, Text: "the body of the request cannot be read: " + err.Error()}
	}
	return v, nil
}

// Raw is an answer that is not JSON.
type Raw struct {
	// Type is the content type.
	Type string
	// Write writes the body. An error cuts the connection, so that nobody takes what was
	// written before it for all.
	Write func(w io.Writer) error
}

// Authorize says who makes a request and whether they have the right. A status
// other than 0 refuses, with a sentence.
type Authorize func(r *http.Request, right Right) (who Caller, status int, sentence string)

// Problem is an error with the status to answer; a route returns it for
// everything that is not the store's fault.
type Problem struct {
	Status int
	Text   string
	// Reason is one of the codes of docs/reasons.md, for programs; "" for none.
	Reason string
	// RetryAfter is in how long it may be worth to try again, which the header of that
	// name says in whole seconds; 0 where that is not known, or never.
	RetryAfter time.Duration
}

// Error is the text for the caller.
func (p *Problem) Error() string { return p.Text }

// Failure is the JSON of an error.
type Failure struct {
	// Error says what was wrong, the rule, and what to do. It may have several
	// lines.
	Error string `json:"error"`
	// Reason is one of the codes of docs/reasons.md, where a decision was refused.
	Reason string `json:"reason,omitempty"`
}

// Failed is told of every request that failed for a reason that its author must
// not see, such as an address.
type Failed func(r *http.Request, err error)

// Handler serves the routes, and answers everything else below Prefix with 404
// or 405.
func Handler(routes []Route, authorize Authorize, failed Failed) http.Handler {
	mux := http.NewServeMux()
	h := handler{authorize: authorize, failed: failed}
	for _, route := range routes {
		mux.HandleFunc(route.Method+" "+route.Path, func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, route) })
	}
	mux.HandleFunc(Prefix, func(w http.ResponseWriter, r *http.Request) { notThere(mux, w, r) })
	return mux
}

// notThere answers what no route takes: 405 where another method would do. The
// catch-all pattern hides that from http.ServeMux itself.
func notThere(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := mux.Handler(other); pattern != Prefix {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		refuse(w, http.StatusNotFound, fmt.Sprintf("there is no %s %s", r.Method, r.URL.Path))
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	refuse(w, http.StatusMethodNotAllowed, fmt.Sprintf("%s does not take %s, but %s", r.URL.Path, r.Method, strings.Join(allowed, ", ")))
}

func refuse(w http.ResponseWriter, status int, text string) {
	answerFailure(w, status, Failure{Error: text})
}

func answerFailure(w http.ResponseWriter, status int, failure Failure) {
	body, err := encode(failure)
	if err != nil { // a string always encodes
		body = nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// encode is JSON for people too: indented, and with < and > as they are.
func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return out.Bytes(), nil
}

type handler struct {
	authorize Authorize
	failed    Failed
}

func (h handler) serve(w http.ResponseWriter, r *http.Request, route Route) {
	var who Caller
	if route.Right != Anyone {
		caller, status, sentence := h.authorize(r, route.Right)
		if status != 0 {
			refuse(w, status, sentence)
			return
		}
		who = caller
	}
	limit := route.BodyMax
	if limit == 0 {
		limit = bodyMax
	}
	v, err := route.Serve(r.Context(), Call{Caller: who, request: r, body: http.MaxBytesReader(w, r.Body, limit)})
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.answer(w, r, v)
}

func (h handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var problem *Problem
	if errors.As(err, &problem) {
		if problem.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(int64((problem.RetryAfter+time.Second-1)/time.Second), 10))
		}
		answerFailure(w, problem.Status, Failure{Error: problem.Text, Reason: problem.Reason})
		return
	}
	h.failed(r, err)
	text := "the ledger cannot be read now; the agent's log has the cause, try again later"
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		text = "the ledger did not confirm the change, which may or may not have been made; look at what there is before you try again"
	}
	refuse(w, http.StatusServiceUnavailable, text)
}

func (h handler) answer(w http.ResponseWriter, r *http.Request, v any) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if through, ok := v.(http.Handler); ok {
		through.ServeHTTP(w, r)
		return
	}
	if raw, ok := v.(Raw); ok {
		w.Header().Set("Content-Type", raw.Type)
		if err := raw.Write(w); err != nil {
			h.failed(r, err)
			panic(http.ErrAbortHandler) // who reads must not take half of it for all
		}
		return
	}
	body, err := encode(v)
	if err != nil {
		h.failed(r, err)
		refuse(w, http.StatusInternalServerError, "the answer cannot be encoded because of a bug; the agent's log has the cause")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
