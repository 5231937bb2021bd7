package gate

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// frontConn is one connection of Front. One goroutine has it, and while a request waits
// for its answer another one watches whether the client leaves.
type frontConn struct {
	front *Front
	tcp   *net.TCPConn
	// until is the deadline of reads; zero for none.
	until  time.Time
	remote string
	// ctx is that of its requests, which leave ends, and blank a request with it.
	ctx    context.Context
	leave  context.CancelFunc
	blank  *http.Request
	writer frontWriter // of the request that is served
	// ahead is a byte that came while a request was served, if early.
	ahead [1]byte
	early bool

	mu sync.Mutex
	// begun is when the request began that is served, zero for none, and watched who looks
	// whether its client is still there, nil for nobody.
	begun   time.Time
	watched *frontWatch
	// asked is the connection on which Nomad is asked for the client; nil for none.
	asked net.Conn
}

// frontHeads are buffers for the heads of requests.
var frontHeads = sync.Pool{New: func() any { return new([frontHead]byte) }}

// run serves requests until there is one that Front does not take.
func (c *frontConn) run() {
	defer c.front.gone(c)
	defer c.leave()
	defer context.AfterFunc(c.ctx, c.hangUp)()
	c.blank = (&http.Request{}).WithContext(c.ctx)
	c.remote = c.tcp.RemoteAddr().String()
	wait := frontFirst
	for {
		buffer := frontHeads.Get().(*[frontHead]byte)
		n, err := c.read(buffer[:], wait)
		if err != nil {
			frontHeads.Put(buffer)
			_ = c.tcp.Close()
			return
		}
		r, came := parsePlain(c.blank, buffer[:n])
		if r == nil {
			rest := bytes.Clone(buffer[:n])
			frontHeads.Put(buffer)
			if !c.front.busy(c, true) { // else Shutdown would take it for one that waits
				_ = c.tcp.Close()
				return
			}
			_ = c.tcp.SetReadDeadline(time.Time{})
			c.front.handed.give(&replayed{c.tcp, rest})
			return
		}
		body := bytes.Clone(came)
		frontHeads.Put(buffer)
		if !c.front.busy(c, true) || !c.readBody(r, body) || !c.serve(r) || !c.front.busy(c, false) {
			_ = c.tcp.Close()
			return
		}
		wait = frontIdle
	}
}

// read waits for a request, and reads what there is of it.
func (c *frontConn) read(buffer []byte, wait time.Duration) (int, error) {
	if until := time.Now().Add(wait); c.until.IsZero() || until.Sub(c.until) > frontSlack || c.until.After(until) {
		if err := c.tcp.SetReadDeadline(until); err != nil {
			return 0, err
		}
		c.until = until
	}
	if !c.early {
		return c.tcp.Read(buffer)
	}
	buffer[0], c.early = c.ahead[0], false
	n, err := c.tcp.Read(buffer[1:])
	return n + 1, err
}

// readBody reads what has not come yet of a body, and reports whether all of it is there.
func (c *frontConn) readBody(r *http.Request, body []byte) bool {
	if r.ContentLength == 0 {
		return true
	}
	if missing := r.ContentLength - int64(len(body)); missing > 0 {
		c.until = time.Now().Add(frontFirst)
		if c.tcp.SetReadDeadline(c.until) != nil {
			return false
		}
		rest, err := io.ReadAll(io.LimitReader(c.tcp, missing))
		if err != nil || int64(len(rest)) < missing {
			return false
		}
		body = append(body, rest...)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return true
}

// serve answers one request, and reports whether another may follow.
func (c *frontConn) serve(r *http.Request) (keep bool) {
	c.mu.Lock()
	c.begun = time.Now()
	if strings.Contains(r.URL.RawQuery, "index=") {
		c.watch() // it waits, most likely
	}
	c.mu.Unlock()
	defer func() { keep = c.unwatch() && keep }()
	r.RemoteAddr = c.remote
	w := &c.writer
	*w = frontWriter{conn: c}
	defer w.release()
	defer func() {
		if cause := recover(); cause != nil { // http.ErrAbortHandler, or a bug that the gate has logged
			keep = false
		}
	}()
	c.front.handler.ServeHTTP(w, r)
	return w.finish()
}

// asks notes on which connection Nomad is asked for the client: it is closed when that
// leaves. answered is the end of that, and reports whether it was not.
func (c *frontConn) asks(at net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked = at; c.ctx.Err() != nil {
		_ = at.Close()
	}
}

func (c *frontConn) answered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = nil
	return c.ctx.Err() == nil
}

// hangUp ends the question to Nomad.
func (c *frontConn) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked != nil {
		_ = c.asked.Close()
	}
}

// frontWatch looks whether a client is still there while its request is served.
type frontWatch struct {
	stopped, gone bool // with frontConn.mu
	done          chan struct{}
}

// watch ends the requests' context when the client leaves, until unwatch is called. The
// caller holds the lock.
func (c *frontConn) watch() {
	w := &frontWatch{done: make(chan struct{})}
	c.watched = w
	_ = c.tcp.SetReadDeadline(time.Time{})
	go func() {
		defer close(w.done)
		n, err := c.tcp.Read(c.ahead[:])
		c.mu.Lock()
		defer c.mu.Unlock()
		c.early = n == 1
		if err != nil && !w.stopped {
			w.gone = true
			c.leave()
		}
	}()
}

// watchAfter watches a request that is served for longer than frontPatience.
func (c *frontConn) watchAfter(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watched == nil && !c.begun.IsZero() && now.Sub(c.begun) >= frontPatience {
		c.watch()
	}
}

// unwatch is the end of a request. It reports whether the client is still there.
func (c *frontConn) unwatch() bool {
	c.mu.Lock()
	w := c.watched
	c.begun, c.watched = time.Time{}, nil
	if w == nil {
		c.mu.Unlock()
		return true
	}
	w.stopped = true
	_ = c.tcp.SetReadDeadline(time.Unix(1, 0)) // ends the read
	c.mu.Unlock()
	<-w.done
	c.until = time.Time{}
	return !w.gone
}

// parsePlain reads a request that changes nothing, a read or a plan: all of its head, as
// the most usual clients write it; body is as much as has come of that. Whatever else
// there is makes it nil: what is refused, and how, is then net/http's word. Blank has its
// context.
func parsePlain(blank *http.Request, text []byte) (r *http.Request, body []byte) {
	head, body, ok := bytes.Cut(text, []byte("\r\n\r\n"))
	if !ok {
		return nil, nil
	}
	first, rest, _ := strings.Cut(string(head), "\r\n")
	method, target, _ := strings.Cut(first, " ")
	target, ok = strings.CutSuffix(target, " HTTP/1.1")
	if !ok || !strings.HasPrefix(target, "/") || strings.ContainsFunc(target, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return nil, nil
	}
	at, err := url.ParseRequestURI(target)
	if err != nil || !frontTakes(method, at.Path) {
		return nil, nil
	}
	r = new(http.Request)
	*r = *blank
	r.Method, r.URL, r.RequestURI, r.Header, r.Body = method, at, target, make(http.Header, 8), http.NoBody
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	if !plainHeader(r, rest) || !plainLength(r, int64(len(body))) {
		return nil, nil
	}
	return r, body
}

// plainLength reads how long the body is: none of a read, and a plan's not too long to
// have it whole in memory before it is looked at.
func plainLength(r *http.Request, came int64) bool {
	said, ok := r.Header["Content-Length"]
	if r.Method == http.MethodGet {
		return !ok && came == 0
	}
	if len(said) != 1 || !only(said[0], isDigit) {
		return false
	}
	n, err := strconv.ParseInt(said[0], 10, 64)
	if err != nil || n == 0 || n > frontBody || n < came {
		return false
	}
	r.ContentLength = n
	return true
}

// notPlain are headers that mean more than one request on a connection that is kept.
var notPlain = map[string]bool{
	"Transfer-Encoding": true, "Trailer": true, "Te": true, "Upgrade": true, "Expect": true, "Connection": true,
	"Proxy-Connection": true, "Keep-Alive": true, "Http2-Settings": true, "Pragma": true,
}

func plainHeader(r *http.Request, lines string) bool {
	hosts, values := 0, make([]string, 0, 8)
	for lines != "" {
		var line string
		line, lines, _ = strings.Cut(lines, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !ok || !only(name, isToken) || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c >= 0x7f }) {
			return false
		}
		switch name = http.CanonicalHeaderKey(name); {
		case name == "Host":
			r.Host, hosts = value, hosts+1
		case name == "Connection" && strings.EqualFold(value, "keep-alive"):
		case notPlain[name]:
			return false
		default:
			if r.Header[name] != nil {
				r.Header[name] = append(r.Header[name], value)
				continue
			}
			values = append(values, value) // one array for all
			r.Header[name] = values[len(values)-1 : len(values) : len(values)]
		}
	}
	return hosts == 1 && only(r.Host, isHost)
}

// only reports whether a text has some characters, and all of one kind.
func only[T string | []byte](text T, kind func(c byte) bool) bool {
	for i := range len(text) {
		if !kind(text[i]) {
			return false
		}
	}
	return len(text) > 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isLetterOrDigit(c byte) bool {
	return isDigit(c) || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// isToken reports whether a character may be in the usual names of headers.
func isToken(c byte) bool { return isLetterOrDigit(c) || c == '-' || c == '_' }

func isHost(c byte) bool {
	return isLetterOrDigit(c) || c == '.' || c == '-' || c == '_' || c == ':' || c == '[' || c == ']'
}
