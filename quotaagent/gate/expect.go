package gate

import (
	"io"
	"net/http"
	"sync/atomic"
)

// tellOnce lets a client that waits for "100 Continue" hear it once. net/http's server says
// it when the body is read, which the transport does when Nomad has not said so within
// its time; Nomad's own word would come on top of it then.
func tellOnce(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request) {
	if len(r.Header["Expect"]) == 0 || r.Body == nil {
		return w, r
	}
	told := new(atomic.Bool)
	out := r.WithContext(r.Context()) // a shallow copy
	out.Body = &toldBody{ReadCloser: r.Body, told: told}
	return &toldWriter{ResponseWriter: w, told: told}, out
}

type toldBody struct {
	io.ReadCloser
	told *atomic.Bool
}

// Read implements io.Reader.
func (b *toldBody) Read(p []byte) (int, error) {
	b.told.Store(true)
	return b.ReadCloser.Read(p)
}

type toldWriter struct {
	http.ResponseWriter
	told *atomic.Bool
}

// WriteHeader implements http.ResponseWriter.
func (w *toldWriter) WriteHeader(status int) {
	if status == http.StatusContinue && w.told.Swap(true) {
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *toldWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
