package gate

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// rawNomad answers on connections as a test says, which no http.Server does.
func rawNomad(t *testing.T, serve func(n int, c net.Conn, reader *bufio.Reader)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			serve(n, c, bufio.NewReader(c))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return listener.Addr().String()
}

// relayRig is a gate in front of such a Nomad.
func relayRig(t *testing.T, address string) *rig {
	return newRig(t, func(c *Config) {
		nomad := *c.Nomad
		nomad.Host = address
		c.Nomad = &nomad
	})
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func TestRelay_aKeptConnectionThatNomadHasClosedIsReplaced(t *testing.T) {
	t.Parallel()
	address := rawNomad(t, func(_ int, c net.Conn, reader *bufio.Reader) {
		if _, err := http.ReadRequest(reader); err == nil { // one request, and the connection is closed
			_, _ = io.WriteString(c, fine)
		}
	})
	r := relayRig(t, address)
	for range 5 {
		a := r.do(t, "GET", "/v1/jobs", "")
		must.EqOp(t, http.StatusOK, a.status, must.Sprint(a.body))
		must.EqOp(t, "ok", a.body)
		time.Sleep(5 * time.Millisecond)
	}
}

func TestRelay_connectionsAreKept(t *testing.T) {
	t.Parallel()
	var most atomic.Int32
	address := rawNomad(t, func(n int, c net.Conn, reader *bufio.Reader) {
		most.Store(int32(n) + 1)
		for {
			if _, err := http.ReadRequest(reader); err != nil {
				return
			}
			_, _ = io.WriteString(c, fine)
		}
	})
	g := relayRig(t, address)
	for range 20 {
		must.EqOp(t, "ok", g.do(t, "GET", "/v1/jobs", "").body)
	}
	must.EqOp(t, 1, most.Load())
	relay := g.gate.Config.Handler.(*Gate).relay
	must.Len(t, 1, relay.idle)
	relay.idle[0].since = time.Now().Add(-2 * relayIdleFor)
	stale := relay.idle[0].conn
	go func() { _ = stale.Close() }() // so that the test's Nomad serves the next one
	must.EqOp(t, "ok", g.do(t, "GET", "/v1/jobs", "").body)
	must.EqOp(t, 2, most.Load(), must.Sprint("one that was kept too long is not used"))
	_ = relay.idle[0].conn.Close()
}

func TestRelay_anAnswerThatBreaksOffIsNoWholeOne(t *testing.T) {
	t.Parallel()
	for _, broken := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nshort", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"} {
		address := rawNomad(t, func(_ int, c net.Conn, reader *bufio.Reader) {
			_, _ = http.ReadRequest(reader)
			_, _ = io.WriteString(c, broken)
		})
		r := relayRig(t, address)
		c := r.dial(t)
		_, err := io.WriteString(c, "GET /v1/jobs HTTP/1.1\r\nHost: nomad\r\n\r\n")
		must.NoError(t, err)
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			continue // nothing of it was sent yet
		}
		_, err = io.ReadAll(response.Body)
		must.Error(t, err)
		_ = response.Body.Close()
	}
}

func TestRelay_whatIsNoAnswerIsNotAskedForTwice(t *testing.T) {
	t.Parallel()
	for _, said := range []string{"", "nonsense\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"} {
		var asked atomic.Int32
		address := rawNomad(t, func(_ int, c net.Conn, reader *bufio.Reader) {
			_, _ = http.ReadRequest(reader)
			asked.Add(1)
			_, _ = io.WriteString(c, said)
		})
		a := relayRig(t, address).do(t, "GET", "/v1/jobs", "")
		must.EqOp(t, http.StatusBadGateway, a.status)
		must.EqOp(t, ReasonNomadUnreachable, a.reason)
		must.EqOp(t, 1, asked.Load())
	}
}

func TestRelay_headersOfOneConnectionStayThere(t *testing.T) {
	t.Parallel()
	heard := make(chan http.Header, 1)
	address := rawNomad(t, func(_ int, c net.Conn, reader *bufio.Reader) {
		q, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		heard <- q.Header
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-Nomad-Index: 7\r\nContent-Length: 2\r\n\r\nok")
	})
	r := relayRig(t, address)
	a := r.do(t, "GET", "/v1/jobs?index=1&wait=1s;x", "", "X-Nomad-Token", "t", "Connection", "x-mine, keep-alive", "X-Mine", "1", "Forwarded", "for=me", "X-Forwarded-For", "1.2.3.4")
	must.EqOp(t, "ok", a.body)
	must.EqOp(t, "7", a.header.Get("X-Nomad-Index"))
	must.EqOp(t, "", a.header.Get("X-Hop")+a.header.Get("Keep-Alive"))
	h := <-heard
	must.EqOp(t, "t", h.Get("X-Nomad-Token"))
	for _, name := range []string{"X-Mine", "Forwarded", "X-Forwarded-For", "Keep-Alive"} {
		must.SliceEmpty(t, h.Values(name), must.Sprint(name))
	}
}

// What a request may do besides reading is the reverse proxy's.
func TestRelay_takesReadsAlone(t *testing.T) {
	t.Parallel()
	l := &relay{}
	for _, c := range []struct {
		method, body, header string
		want                 bool
	}{
		{"GET", "", "", true}, {"HEAD", "", "", true}, {"PUT", "", "", false}, {"GET", "body", "", false}, {"GET", "", "Upgrade", false}, {"GET", "", "Expect", false}, {"GET", "", "Te", false},
	} {
		q, err := http.ReadRequest(bufio.NewReader(strings.NewReader(fmt.Sprintf("%s /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", c.method, len(c.body), c.body))))
		must.NoError(t, err)
		if c.header != "" {
			q.Header.Set(c.header, "x")
		}
		must.EqOp(t, c.want, l.takes(q), must.Sprint(c))
	}
	var none *relay
	must.False(t, none.takes(&http.Request{Method: http.MethodGet}))
}

// What Nomad, or a load balancer before it, says unasked is no answer to the next
// request, which may be another user's.
func TestRelay_whatNobodyHasAskedForIsNoAnswer(t *testing.T) {
	t.Parallel()
	const unasked = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	long := "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + strings.Repeat("a", 10000)
	for _, said := range [][]string{{fine, unasked}, {long + unasked}} {
		address := rawNomad(t, func(_ int, c net.Conn, reader *bufio.Reader) {
			if _, err := http.ReadRequest(reader); err != nil {
				return
			}
			for _, piece := range said {
				_, _ = io.WriteString(c, piece)
				time.Sleep(10 * time.Millisecond) // the next one comes by itself
			}
		})
		r := relayRig(t, address)
		for range 3 {
			a := r.do(t, "GET", "/v1/jobs", "")
			must.EqOp(t, http.StatusOK, a.status)
			must.StrNotContains(t, a.body, "poison")
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// What follows the body of an answer follows it at the client too, if it was announced,
// and gets into the head in no case.
func TestRelay_trailersAreNoHeaders(t *testing.T) {
	t.Parallel()
	for announced, want := range map[string]string{"Trailer: X-T\r\n": "t", "": ""} {
		address := rawNomad(t, func(_ int, c net.Conn, reader *bufio.Reader) {
			if _, err := http.ReadRequest(reader); err == nil {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"+announced+"\r\n2\r\nok\r\n0\r\nX-T: t\r\nSet-Cookie: a\r\n\r\n")
			}
		})
		r := relayRig(t, address)
		for _, request := range []string{plainGet, strings.Replace(plainGet, "User-Agent", "Pragma", 1)} { // Front's, and net/http's
			c := r.dial(t)
			_, err := io.WriteString(c, request)
			must.NoError(t, err)
			response, err := http.ReadResponse(bufio.NewReader(c), nil)
			must.NoError(t, err)
			body, err := io.ReadAll(response.Body)
			must.NoError(t, err)
			must.NoError(t, response.Body.Close())
			must.EqOp(t, "ok", string(body))
			must.EqOp(t, want, response.Trailer.Get("X-T"))
			must.EqOp(t, "", response.Header.Get("X-T")+response.Header.Get("Set-Cookie"))
		}
	}
}

// What refuses a connection may say so before it is asked anything.
func TestRelay_anAnswerThatIsThereBeforeTheRequestIsRead(t *testing.T) {
	t.Parallel()
	address := rawNomad(t, func(_ int, c net.Conn, _ *bufio.Reader) {
		_, _ = io.WriteString(c, "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c) // it reads on, as proxies do
	})
	relay := relayRig(t, address).gate.Config.Handler.(*Gate).relay
	dial := relay.dial
	relay.dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		time.Sleep(20 * time.Millisecond)
		return c, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://nomad/v1/jobs", http.NoBody)
	must.NoError(t, err)
	theirs, err := relay.exchange(q, nil, 100)
	must.NoError(t, err)
	must.EqOp(t, http.StatusTooManyRequests, theirs.status)
}
