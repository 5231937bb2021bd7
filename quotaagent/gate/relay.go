package gate

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// relay forwards reads, which most requests are, within the goroutine of the request:
// http.Transport has two more for each connection and hands every request and answer to
// them, and a blocking query keeps them and their buffers for minutes. Whatever a
// request may do besides, such as sending a body or changing the protocol, is the
// reverse proxy's.
type relay struct {
	dial func(ctx context.Context) (net.Conn, error)
	host string // of Nomad, for a request that names none

	mu   sync.Mutex
	idle []*upstream // the latest at the end
}

// upstream is one connection to Nomad. It has no buffer while it waits.
type upstream struct {
	conn   net.Conn
	socket *socket       // of conn; nil where there is none that can be used by itself
	reader *bufio.Reader // of the answer; nil before and after
	first  [1]byte
	reused bool
	since  time.Time
}

const (
	// relayIdleMost is how many connections are kept, and relayIdleFor for how long.
	relayIdleMost = 256
	relayIdleFor  = time.Minute
)

// newRelay uses the connections of a transport; nil for one that has none of its own.
func newRelay(config Config) *relay {
	t, ok := config.Transport.(*http.Transport)
	if !ok || t.DialContext == nil || t.DialTLSContext == nil || t.Proxy != nil {
		return nil
	}
	dial, port := t.DialContext, "80"
	if config.Nomad.Scheme == "https" {
		dial, port = t.DialTLSContext, "443"
	}
	if p := config.Nomad.Port(); p != "" {
		port = p
	}
	address := net.JoinHostPort(config.Nomad.Hostname(), port)
	return &relay{host: config.Nomad.Host, dial: func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", address) }}
}

// takes reports whether a request is a read and nothing else.
func (l *relay) takes(r *http.Request) bool {
	return l != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.ContentLength == 0 && len(r.TransferEncoding) == 0 &&
		r.Header["Upgrade"] == nil && r.Header["Expect"] == nil && r.Header["Te"] == nil && r.ProtoMajor == 1
}

// serve forwards a request. An error means that nothing was written to the client.
func (l *relay) serve(w http.ResponseWriter, r *http.Request) error {
	clean := false
	front, _ := w.(*frontWriter)
	err := l.do(r, nil, front, func(answer *http.Response, more func() int) bool {
		if front != nil {
			clean = front.pass(answer, more)
		} else {
			clean = pass(w, answer)
		}
		return clean
	})
	if err == nil && !clean && (front == nil || !front.whole) {
		panic(http.ErrAbortHandler) // the client sees that something is missing
	}
	return err
}

// exchange sends a request that changes nothing, with its body, and reads the whole
// answer.
func (l *relay) exchange(r *http.Request, body []byte, most int64) (*answer, error) {
	var theirs *answer
	var broken error
	err := l.do(r, body, nil, func(response *http.Response, _ func() int) bool {
		defer response.Body.Close()
		theirs, broken = whole(response, most)
		return broken == nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask nomad: %w", err)
	}
	return theirs, broken
}

// do sends a request that may be sent twice, and gives the answer to take, which reports
// whether it has read all of it; more says how much of it is there already. Front, if not
// nil, may take it as it comes instead. An error means that neither has taken it.
func (l *relay) do(r *http.Request, body []byte, front *frontWriter, take func(answer *http.Response, more func() int) (clean bool)) error {
	text := textOf(r, l.host, body)
	for {
		u, err := l.take(r.Context())
		if err != nil {
			return err
		}
		stop := u.endsWith(r.Context(), front)
		reusable, err := u.ask(r, text, front, take)
		u.release()
		going := stop()
		if err != nil {
			_ = u.conn.Close()
			if u.reused && r.Context().Err() == nil && !errors.Is(err, errHead) {
				continue // Nomad has closed it meanwhile; it can be sent again
			}
			return cmp.Or(r.Context().Err(), err)
		}
		if going && reusable {
			l.keep(u)
		} else {
			_ = u.conn.Close()
		}
		return nil
	}
}

// endsWith closes the connection when ctx ends, so that a client that leaves ends the
// request at Nomad too, until stop is called. That reports whether it was in time.
func (u *upstream) endsWith(ctx context.Context, front *frontWriter) (stop func() bool) {
	if front != nil && front.conn.ctx == ctx { // it has a place for that
		front.conn.asks(u.conn)
		return front.conn.answered
	}
	return context.AfterFunc(ctx, func() { _ = u.conn.Close() })
}

// take returns a connection that is kept, or a new one.
func (l *relay) take(ctx context.Context) (*upstream, error) {
	for {
		u := l.kept()
		if u == nil {
			conn, err := l.dial(ctx)
			if err != nil {
				return nil, err
			}
			return &upstream{conn: conn, socket: newSocket(conn)}, nil
		}
		if time.Since(u.since) < relayIdleFor && (u.socket != nil || silent(u.conn)) {
			u.reused = true
			return u, nil
		}
		_ = u.conn.Close()
	}
}

func (l *relay) kept() *upstream {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.idle)
	if n == 0 {
		return nil
	}
	u := l.idle[n-1]
	l.idle[n-1] = nil
	l.idle = l.idle[:n-1]
	return u
}

// keep keeps a connection for the next request, and closes those that were kept too long.
func (l *relay) keep(u *upstream) {
	u.since = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.idle) > 0 && (len(l.idle) >= relayIdleMost || u.since.Sub(l.idle[0].since) >= relayIdleFor) {
		_ = l.idle[0].conn.Close()
		l.idle[0] = nil
		l.idle = l.idle[1:]
	}
	l.idle = append(l.idle, u)
}

// errHead is an answer whose head cannot be read although some of it was.
var errHead = errors.New("read the head of nomad's answer")

// textOf is a request in the form in which Nomad gets it. It is no larger than it must be:
// a blocking query keeps it for minutes.
func textOf(r *http.Request, host string, body []byte) []byte {
	if r.Host != "" {
		host = r.Host
	}
	text := texts.Get().(*bytes.Buffer)
	defer putText(text)
	text.WriteString(r.Method + " " + r.URL.RequestURI() + " HTTP/1.1\r\nHost: " + host + "\r\n")
	_ = r.Header.WriteSubset(text, notForwarded(r.Header))
	if body != nil {
		text.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	text.WriteString("\r\n")
	text.Write(body)
	return bytes.Clone(text.Bytes())
}

// ask sends a request and gives the answer to one of those who take it. It reports
// whether the connection can be used again.
func (u *upstream) ask(r *http.Request, text []byte, front *frontWriter, take func(*http.Response, func() int) bool) (reusable bool, err error) {
	if err := u.send(text, strings.Contains(r.URL.RawQuery, "index=")); err != nil {
		return false, err
	}
	if front != nil && front.passPlain(u.reader) {
		return front.whole && u.reader.Buffered() == 0, nil
	}
	for {
		answer, err := http.ReadResponse(u.reader, r) //nolint:bodyclose // take closes it
		switch {
		case err != nil:
			return false, errors.Join(errHead, err)
		case answer.StatusCode == http.StatusSwitchingProtocols: // nobody has asked for that
			return false, fmt.Errorf("%w: it changes the protocol", errHead)
		case answer.StatusCode >= 200:
			return take(answer, u.reader.Buffered) && !answer.Close && u.reader.Buffered() == 0, nil
		}
	}
}

// readers are buffers for answers.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// send sends a request and waits for the first byte of the answer. One that may take
// minutes has no buffer until then.
func (u *upstream) send(text []byte, long bool) error {
	sent, waited := 0, false
	if u.socket != nil {
		var err error
		if sent, waited, err = u.socket.send(text, u.reused); err != nil {
			return err
		}
	}
	if sent < len(text) {
		if _, err := u.conn.Write(text[sent:]); err != nil {
			return err
		}
	}
	from := io.Reader(u.conn)
	if long && !waited {
		if _, err := io.ReadFull(u.conn, u.first[:]); err != nil {
			return err
		}
		from = io.MultiReader(bytes.NewReader(u.first[:]), u.conn)
	}
	u.reader = readers.Get().(*bufio.Reader)
	u.reader.Reset(from)
	_, err := u.reader.Peek(1)
	return err
}

// release gives the buffer back.
func (u *upstream) release() {
	if u.reader != nil {
		u.reader.Reset(nil)
		readers.Put(u.reader)
		u.reader = nil
	}
}

// notForwarded are the headers that do not go to Nomad: those of one connection, and
// what nobody has vouched for.
func notForwarded(h http.Header) map[string]bool {
	not := neverForwarded
	if named := h["Connection"]; named != nil {
		not = make(map[string]bool, len(neverForwarded)+2)
		for name := range neverForwarded {
			not[name] = true
		}
		for _, names := range named {
			for name := range strings.SplitSeq(names, ",") {
				not[http.CanonicalHeaderKey(strings.TrimSpace(name))] = true
			}
		}
	}
	return not
}

var neverForwarded = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true, "Te": true, "Trailer": true,
	"Transfer-Encoding": true, "Upgrade": true, "Host": true, "Content-Length": true,
	"Forwarded": true, "X-Forwarded-For": true, "X-Forwarded-Host": true, "X-Forwarded-Proto": true,
}

// pass writes an answer to the client, and reports whether all of it was there.
func pass(w http.ResponseWriter, answer *http.Response) (clean bool) {
	defer answer.Body.Close()
	h := w.Header()
	dropHopByHop(answer.Header)
	for name, values := range answer.Header {
		h[name] = append(h[name], values...)
	}
	for name := range answer.Trailer {
		h.Add("Trailer", name)
	}
	w.WriteHeader(answer.StatusCode)
	var to io.Writer = w
	if answer.ContentLength < 0 { // a stream: every piece at once
		flush := http.NewResponseController(w)
		_ = flush.Flush()
		to = flusher{w, flush}
	}
	buffer := copies.Get()
	defer copies.Put(buffer)
	_, err := io.CopyBuffer(onlyWriter{to}, onlyReader{answer.Body}, buffer)
	for name, values := range answer.Trailer {
		h[name] = values
	}
	return err == nil
}

// dropHopByHop removes from an answer what concerns its connection only.
func dropHopByHop(h http.Header) {
	for _, names := range h["Connection"] {
		for name := range strings.SplitSeq(names, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// onlyWriter and onlyReader keep io.CopyBuffer from other ways than its buffer.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

// flusher sends what is written at once.
type flusher struct {
	io.Writer
	control *http.ResponseController
}

// Write implements io.Writer.
func (f flusher) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}
