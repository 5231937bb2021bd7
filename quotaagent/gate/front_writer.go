package gate

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// frontWriter is the answer to one request of Front: in one piece where it is short, and
// with the framing that net/http would give it.
type frontWriter struct {
	conn *frontConn
	// header is nil until somebody asks for it, or that of Nomad's answer.
	header  http.Header
	status  int // 0 before WriteHeader
	sent    bool
	chunked bool
	// length is what the header promises, or -1, and written is what has come of it.
	length, written int64
	out             *[]byte // what is not sent yet
	whole           bool    // all of an answer was passed by passPlain
	failed          error
}

// frontOuts are buffers for answers. A piece that is larger is sent by itself.
var frontOuts = sync.Pool{New: func() any { b := make([]byte, 0, frontOut); return &b }}

const frontOut = 8 << 10

// Header implements http.ResponseWriter.
func (w *frontWriter) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

// WriteHeader implements http.ResponseWriter.
func (w *frontWriter) WriteHeader(status int) {
	if w.status != 0 || status < http.StatusOK {
		return
	}
	w.status, w.length = status, -1
	if text := w.header.Get("Content-Length"); text != "" {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
			w.length = n
		} else {
			w.header.Del("Content-Length")
		}
	}
}

// bodyless reports whether the status has no body.
func (w *frontWriter) bodyless() bool {
	return w.status == http.StatusNoContent || w.status == http.StatusNotModified
}

// Write implements http.ResponseWriter.
func (w *frontWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.failed != nil:
		return 0, w.failed
	case len(p) == 0:
		return 0, nil
	case w.bodyless():
		return 0, http.ErrBodyNotAllowed
	case w.length >= 0 && w.written+int64(len(p)) > w.length:
		w.failed = http.ErrContentLength
		return 0, w.failed
	}
	w.written += int64(len(p))
	if !w.sent && w.out == nil {
		w.out = frontOuts.Get().(*[]byte)
	}
	if !w.sent && len(*w.out)+len(p) <= frontOut/2 {
		*w.out = append(*w.out, p...) // the head comes before it
		return len(p), nil
	}
	w.sendHead(false, p)
	w.piece(p)
	if len(*w.out) > frontOut/2 {
		w.flush()
	}
	return len(p), w.failed
}

// sendHead puts the head before what has been written. Whole says that nothing follows;
// next is what follows else.
func (w *frontWriter) sendHead(whole bool, next []byte) {
	if w.sent {
		return
	}
	w.sent = true
	if w.out == nil {
		w.out = frontOuts.Get().(*[]byte)
	}
	before := w.out
	body, h := *before, w.Header()
	if _, ok := h["Date"]; !ok {
		h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	first := body
	if len(first) == 0 {
		first = next
	}
	if _, typed := h["Content-Type"]; !typed && len(first) > 0 && h.Get("Content-Encoding") == "" {
		h.Set("Content-Type", http.DetectContentType(first))
	}
	delete(h, "Transfer-Encoding")
	switch {
	case w.bodyless():
		if w.status == http.StatusNoContent {
			delete(h, "Content-Length")
		}
	case w.length >= 0:
	case whole:
		h.Set("Content-Length", strconv.Itoa(len(body)))
	default:
		w.chunked = true
		h.Set("Transfer-Encoding", "chunked")
	}
	w.out = frontOuts.Get().(*[]byte)
	*w.out = appendHead((*w.out)[:0], w.status, h)
	if len(body) > 0 {
		w.piece(body)
	}
	giveBack(before)
}

// appendHead appends the head of an answer, its headers sorted.
func appendHead(out []byte, status int, h http.Header) []byte {
	out = append(out, "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(status), 10)
	out = append(out, ' ')
	text := http.StatusText(status)
	if text == "" {
		text = fmt.Sprintf("status code %d", status)
	}
	out = append(append(out, text...), "\r\n"...)
	var space [24]string
	names := slices.AppendSeq(space[:0], maps.Keys(h))
	slices.Sort(names)
	for _, name := range names {
		for _, value := range h[name] {
			out = appendHeader(out, name, value)
		}
	}
	return append(out, "\r\n"...)
}

// unbroken keeps a value in its line, as net/http does.
var unbroken = strings.NewReplacer("\n", " ", "\r", " ")

func appendHeader(out []byte, name, value string) []byte {
	if strings.ContainsAny(value, "\r\n") {
		value = unbroken.Replace(value)
	}
	out = append(append(out, name...), ": "...)
	return append(append(out, value...), "\r\n"...)
}

// piece appends a part of the body, or sends it where it is large.
func (w *frontWriter) piece(p []byte) {
	if w.chunked {
		*w.out = strconv.AppendInt(*w.out, int64(len(p)), 16)
		*w.out = append(*w.out, "\r\n"...)
	}
	if len(*w.out)+len(p) <= frontOut-2 {
		*w.out = append(*w.out, p...)
	} else {
		w.flush()
		w.send(p)
	}
	if w.chunked {
		*w.out = append(*w.out, "\r\n"...)
	}
}

func (w *frontWriter) flush() {
	w.send(*w.out)
	*w.out = (*w.out)[:0]
}

func (w *frontWriter) send(p []byte) {
	if w.failed != nil || len(p) == 0 {
		return
	}
	if _, w.failed = w.conn.tcp.Write(p); w.failed != nil {
		w.conn.leave() // else the rest of Nomad's answer is read for nobody
	}
}

// Flush implements http.Flusher.
func (w *frontWriter) Flush() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.sendHead(false, nil)
	w.flush()
}

// finish sends what is left, and reports whether the connection can be used again.
func (w *frontWriter) finish() bool {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.sendHead(true, nil)
	if w.chunked {
		*w.out = append(*w.out, "0\r\n"...)
		for _, names := range w.header["Trailer"] {
			for name := range strings.SplitSeq(names, ",") {
				for _, value := range w.header[http.CanonicalHeaderKey(strings.TrimSpace(name))] {
					*w.out = appendHeader(*w.out, strings.TrimSpace(name), value)
				}
			}
		}
		*w.out = append(*w.out, "\r\n"...)
	}
	w.flush()
	return w.failed == nil && (w.length < 0 || w.written == w.length || w.bodyless()) && !strings.EqualFold(w.header.Get("Connection"), "close")
}

func (w *frontWriter) release() {
	if w.out != nil {
		giveBack(w.out)
		w.out = nil
	}
}

// giveBack keeps a buffer for another answer, unless a large head has made it large.
func giveBack(out *[]byte) {
	if *out = (*out)[:0]; cap(*out) <= 2*frontOut {
		frontOuts.Put(out)
	}
}

// pass writes an answer of Nomad, as pass does for net/http. A part of a long one is sent
// as soon as no more of it is there.
func (w *frontWriter) pass(answer *http.Response, more func() int) (clean bool) {
	defer answer.Body.Close()
	dropHopByHop(answer.Header)
	w.header = answer.Header
	for name := range answer.Trailer {
		w.header.Add("Trailer", name)
	}
	w.WriteHeader(answer.StatusCode)
	if len(answer.Trailer) > 0 {
		w.Flush() // what follows the body can only follow pieces
	}
	buffer := copies.Get()
	defer copies.Put(buffer)
	for {
		n, err := answer.Body.Read(buffer)
		if n > 0 {
			if _, failed := w.Write(buffer[:n]); failed != nil {
				return false
			}
		}
		if err != nil {
			if w.sent { // else it would be a part of the head
				maps.Copy(w.header, answer.Trailer)
			}
			return errors.Is(err, io.EOF)
		}
		if answer.ContentLength < 0 && more() == 0 {
			w.Flush()
		}
	}
}
