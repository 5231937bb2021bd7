package gate

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Front serves reads without what net/http has for every connection and request besides:
// two buffers, and a goroutine that looks whether the client is still there. Most
// requests are reads, and a blocking query keeps all of that for minutes. It takes plain
// reads of Nomad's API and plans of jobs, which change nothing either, on connections
// without TLS, as the most usual clients write them; whatever else comes on a connection, that and all after it are net/http's, which gets
// the connection as it is.
//
//	accepted ──► waits ──► reads a head ──► serves ──► waits …
//	               │            └──► handed over to net/http
//	               └──► closed
type Front struct {
	server  *http.Server
	handler http.Handler
	base    context.Context
	handed  *handed

	mu       sync.Mutex
	listener net.Listener
	closing  bool
	conns    map[*frontConn]bool // true while it serves
	running  sync.WaitGroup
}

const (
	// frontHead is how long the head of a request may be that Front takes, and frontBody
	// the body of a plan.
	frontHead = 4 << 10
	frontBody = 256 << 10
	// frontIdle is how long a connection may wait for its first request, and for the
	// next one; within frontSlack of that it is not looked at the clock again.
	frontFirst = 20 * time.Second
	frontIdle  = 2 * time.Minute
	frontSlack = 30 * time.Second
	// frontPatience is how long a read may take before Front looks whether its client is
	// still there. Of a blocking query it wants to know at once.
	frontPatience = time.Second
)

// NewFront puts itself before a server, which keeps its handler. The requests' contexts
// end with base.
func NewFront(base context.Context, server *http.Server) *Front {
	return &Front{server: server, handler: server.Handler, base: base, handed: newHanded(), conns: make(map[*frontConn]bool)}
}

// Serve serves the connections of a listener until it fails or Shutdown or Close is
// called: then the error is http.ErrServerClosed. It returns once the server has.
func (f *Front) Serve(listener net.Listener) error {
	if _, plain := listener.(*net.TCPListener); !plain {
		return f.server.Serve(listener)
	}
	f.mu.Lock()
	f.listener = listener
	closing := f.closing
	f.mu.Unlock()
	if closing {
		return http.ErrServerClosed
	}
	f.handed.address = listener.Addr()
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(f.handed) }()
	err := f.accept(listener)
	_ = f.handed.Close()
	return errors.Join(err, ignoreClosed(<-served))
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (f *Front) accept(listener net.Listener) error {
	stop := make(chan struct{})
	defer close(stop)
	f.running.Go(func() { f.watch(stop) })
	delay := time.Duration(0)
	for {
		c, err := listener.Accept()
		var temporary net.Error
		switch {
		case err == nil:
			delay = 0
			f.begin(c.(*net.TCPConn))
			continue
		case f.closed():
			return http.ErrServerClosed
		case !errors.As(err, &temporary) || !temporary.Temporary(): //nolint:staticcheck // as net/http: too many files
			return err
		}
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		time.Sleep(delay)
	}
}

func (f *Front) begin(c *net.TCPConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		_ = c.Close()
		return
	}
	conn := &frontConn{front: f, tcp: c}
	conn.ctx, conn.leave = context.WithCancel(f.base)
	f.conns[conn] = false
	f.running.Go(conn.run)
}

func (f *Front) closed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closing
}

// busy notes whether a connection serves; false if it must not any more.
func (f *Front) busy(c *frontConn, serves bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[c] = serves
	return !f.closing
}

func (f *Front) gone(c *frontConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
}

// watch has a look, until stop, for requests that take long. They are looked for, instead
// of a timer for each: nearly all are answered by then.
func (f *Front) watch(stop <-chan struct{}) {
	look := time.NewTicker(frontPatience / 2)
	defer look.Stop()
	var serving []*frontConn
	for {
		select {
		case <-stop:
			return
		case now := <-look.C:
			f.mu.Lock()
			serving = serving[:0]
			for c, serves := range f.conns {
				if serves {
					serving = append(serving, c)
				}
			}
			f.mu.Unlock()
			for _, c := range serving {
				c.watchAfter(now)
			}
		}
	}
}

// Shutdown takes no new connections, closes those that wait, and returns when all others
// have been answered, or when ctx ends with its error. The server is shut down too. It
// may be called again.
func (f *Front) Shutdown(ctx context.Context) error {
	f.stop(func(serves bool) bool { return !serves })
	err := f.server.Shutdown(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.running.Wait()
	}()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return errors.Join(err, ctx.Err())
	}
}

// Close closes all connections at once, the server's too.
func (f *Front) Close() error {
	f.stop(func(bool) bool { return true })
	return f.server.Close()
}

// stop ends the listener, and the connections that which names.
func (f *Front) stop(which func(serves bool) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closing = true
	if f.listener != nil {
		_ = f.listener.Close()
	}
	for c, serves := range f.conns {
		if which(serves) {
			_ = c.tcp.Close()
		}
	}
}

// frontTakes reports whether a request is one that Front serves: a plan, or a read that
// Nomad answers at once or when something has changed. Streams and large files are
// net/http's.
func frontTakes(method, path string) bool {
	if !strings.HasPrefix(path, "/v1/") {
		return false
	}
	switch method {
	case http.MethodPut, http.MethodPost:
		return Classify(method, path).Kind == RoutePlan
	case http.MethodGet:
	default:
		return false
	}
	if Classify(method, path).Kind != RouteRead {
		return false
	}
	for _, prefix := range [...]string{"/v1/client/", "/v1/agent/", "/v1/event/", "/v1/operator/"} {
		if strings.HasPrefix(path, prefix) {
			return false
		}
	}
	return true
}

// handed is where the server gets its connections from.
type handed struct {
	address net.Addr
	conns   chan net.Conn
	once    sync.Once
	done    chan struct{}
}

func newHanded() *handed { return &handed{conns: make(chan net.Conn), done: make(chan struct{})} }

// give hands a connection over, or closes it where nobody takes it any more.
func (h *handed) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handed) Addr() net.Addr { return h.address }

// replayed is a connection of which something was read already.
type replayed struct {
	*net.TCPConn
	head []byte
}

// Read implements net.Conn.
func (r *replayed) Read(p []byte) (int, error) {
	if len(r.head) == 0 {
		return r.TCPConn.Read(p)
	}
	n := copy(p, r.head)
	if r.head = r.head[n:]; len(r.head) == 0 {
		r.head = nil
	}
	return n, nil
}
