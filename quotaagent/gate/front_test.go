package gate

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

const plainGet = "GET /v1/jobs?namespace=a HTTP/1.1\r\nHost: nomad:4646\r\nUser-Agent: x\r\nX-Nomad-Token: t\r\n\r\n"

const plainPlan = "PUT /v1/job/a/plan HTTP/1.1\r\nHost: nomad:4646\r\nContent-Length: 5\r\nUser-Agent: x\r\n\r\n{\"a\":"

func TestParsePlain_takesReadsAndPlansOnly(t *testing.T) {
	t.Parallel()
	length := func(n string) string { return strings.Replace(plainPlan, "Length: 5", "Length: "+n, 1) }
	with := func(line string) string { return strings.Replace(plainGet, "User-Agent: x", line, 1) }
	at := func(target string) string { return strings.Replace(plainGet, "/v1/jobs?namespace=a", target, 1) }
	for text, taken := range map[string]bool{
		plainGet:                            true,
		with("Connection: keep-alive"):      true,
		with("connection: Keep-Alive"):      true,
		at("/v1/job/a%2Fb?index=7&wait=5s"): true,
		at("/v1/job/x/summary"):             true,
		// What is, or may be, more than a read.
		strings.Replace(plainGet, "GET", "PUT", 1):       false,
		strings.Replace(plainGet, "GET", "HEAD", 1):      false,
		strings.Replace(plainGet, "GET", "get", 1):       false,
		strings.Replace(plainGet, "1.1", "1.0", 1):       false,
		strings.Replace(plainGet, "\r\n\r\n", "\r\n", 1): false,
		plainGet + "\r\n":                                 false,
		plainGet + "x":                                    false,
		plainGet + plainGet:                               false,
		with("Content-Length: 0"):                         false,
		with("Content-length: 5"):                         false,
		with("Transfer-Encoding: chunked"):                false,
		with("Upgrade: websocket"):                        false,
		with("Expect: 100-continue"):                      false,
		with("Connection: close"):                         false,
		with("Connection: keep-alive, X-A"):               false,
		with("Te: trailers"):                              false,
		with("Host: other"):                               false,
		with("User-Agent : x"):                            false,
		with(" folded: x"):                                false,
		with("A: x\r\n folded"):                           false,
		with("A: x\ny"):                                   false,
		with("A: x\x00y"):                                 false,
		with("no colon"):                                  false,
		with(""):                                          false,
		strings.Replace(plainGet, "nomad:4646", "a/b", 1): false,
		strings.Replace(plainGet, "Host: nomad:4646", "X: y", 1): false,
		at("http://nomad/v1/jobs"):                               false,
		at("*"):                                                  false,
		at("/v1/jobs#x y"):                                       false,
		at("/v1/%zz"):                                            false,
		at("/ui/"):                                               false,
		at("/governor/v1/status"):                                false,
		at("/v1/client/fs/logs/a?follow=true"):                   false,
		at("/v1/client/allocation/a/restart"):                    false,
		at("/v1/event/stream"):                                   false,
		at("/v1/agent/monitor"):                                  false,
		"":                                                       false,

		plainPlan: true,
		strings.Replace(plainPlan, "PUT", "POST", 1): true,
		length("6"):                    true, // the rest is on its way
		length("4"):                    false,
		length("0"):                    false,
		length("+5"):                   false,
		length("0x5"):                  false,
		length("5, 5"):                 false,
		length(""):                     false,
		length("262145"):               false,
		length("99999999999999999999"): false,
		strings.Replace(plainPlan, "Content-Length: 5\r\n", "", 1):                       false,
		strings.Replace(plainPlan, "Content-Length: 5", "Transfer-Encoding: chunked", 1): false,
		strings.Replace(plainPlan, "User-Agent: x", "Content-Length: 5", 1):              false,
		strings.Replace(plainPlan, "User-Agent: x", "Transfer-Encoding: chunked", 1):     false,
		strings.Replace(plainPlan, "User-Agent: x", "Expect: 100-continue", 1):           false,
		strings.Replace(plainPlan, "PUT", "GET", 1):                                      false,
		strings.Replace(plainPlan, "PUT", "DELETE", 1):                                   false,
		strings.Replace(plainPlan, "/v1/job/a/plan", "/v1/jobs", 1):                      false,
		strings.Replace(plainPlan, "/v1/job/a/plan", "/v1/job/a/scale", 1):               false,
		strings.Replace(plainPlan, "/v1/job/a/plan", "/v1/job/a/plan/evaluate", 1):       false,
	} {
		r, body := parsePlain(&http.Request{}, []byte(text))
		must.EqOp(t, taken, r != nil, must.Sprintf("%q", text))
		if r != nil && r.Method != http.MethodGet {
			must.EqOp(t, `{"a":`, string(body))
		}
	}
}

// FuzzParsePlain compares with what net/http reads.
func FuzzParsePlain(f *testing.F) {
	for _, line := range []string{"", "A: b", "a: B \t", "Host: x", "Content-Length: 1", "Connection: keep-alive", "X: \u00e9", "x_y: z", ": x", "A: x\n B: y"} {
		f.Add("/v1/jobs?a=b", "nomad", line)
		f.Add("/v1/job/%2e%2e/a;b", "[::1]:4646", line)
	}
	f.Fuzz(func(t *testing.T, target, host, line string) {
		text := "GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + line + "\r\n\r\n"
		ours, body := parsePlain(&http.Request{}, []byte(text))
		if ours == nil {
			return
		}
		must.EqOp(t, 0, len(body))
		reader := bufio.NewReader(strings.NewReader(text))
		theirs, err := http.ReadRequest(reader)
		must.NoError(t, err, must.Sprintf("%q", text))
		must.EqOp(t, theirs.Method, ours.Method)
		must.EqOp(t, theirs.URL.String(), ours.URL.String())
		must.EqOp(t, theirs.RequestURI, ours.RequestURI)
		must.EqOp(t, theirs.Host, ours.Host)
		must.EqOp(t, 0, theirs.ContentLength)
		must.False(t, theirs.Close)
		theirs.Header.Del("Connection")
		must.Eq(t, theirs.Header, ours.Header)
		left, _ := io.ReadAll(reader)
		must.EqOp(t, 0, len(left))
	})
}

// FuzzParsePlan is the same for plans, whose bodies may come later.
func FuzzParsePlan(f *testing.F) {
	for _, line := range []string{"Content-Length: 3", "Content-Length: 3\r\nContent-Length: 3", "content-length:03", "Content-Length: 3\r\nTransfer-Encoding: chunked", "Content-Length: 30"} {
		f.Add("PUT", "/v1/job/a/plan", line, "{}\n")
		f.Add("POST", "/v1/job/a/b/plan?namespace=x", line, "{}\nPUT / HTTP/1.1\r\n\r\n")
	}
	f.Fuzz(func(t *testing.T, method, target, line, body string) {
		text := method + " " + target + " HTTP/1.1\r\nHost: nomad\r\n" + line + "\r\n\r\n" + body
		ours, came := parsePlain(&http.Request{}, []byte(text))
		if ours == nil || method == http.MethodGet {
			return
		}
		reader := bufio.NewReader(strings.NewReader(text))
		theirs, err := http.ReadRequest(reader)
		must.NoError(t, err, must.Sprintf("%q", text))
		must.EqOp(t, theirs.Method, ours.Method)
		must.EqOp(t, theirs.URL.String(), ours.URL.String())
		must.EqOp(t, theirs.ContentLength, ours.ContentLength)
		must.SliceEmpty(t, theirs.TransferEncoding)
		must.False(t, theirs.Close)
		theirs.Header.Del("Connection")
		must.Eq(t, theirs.Header, ours.Header)
		read, err := io.ReadAll(theirs.Body)
		must.EqOp(t, string(read), string(came))
		must.EqOp(t, int64(len(came)) == ours.ContentLength, err == nil)
		left, _ := io.ReadAll(reader)
		must.EqOp(t, 0, len(left))
	})
}

// answers are handlers whose answers differ in their framing.
var answers = map[string]http.HandlerFunc{
	"nothing": func(http.ResponseWriter, *http.Request) {},
	"short":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"a":1}`) },
	"typed": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "x/y")
		_, _ = io.WriteString(w, "<html>")
	},
	"two pieces": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<html>")
		_, _ = io.WriteString(w, "b")
	},
	"long":        func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte("long "), 10_000)) },
	"many pieces": func(w http.ResponseWriter, _ *http.Request) { pieces(w, 3000) },
	"status": func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "t")
	},
	"odd status": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(599) },
	"no content": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
	"not modified": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", "e")
		w.WriteHeader(http.StatusNotModified)
	},
	"length": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "3")
		_, _ = io.WriteString(w, "abc")
	},
	"too short": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "9")
		_, _ = io.WriteString(w, "abc")
	},
	"too long": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "2")
		_, _ = io.WriteString(w, "abc")
	},
	"flushed": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "a")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "b")
	},
	"cut": func(w http.ResponseWriter, _ *http.Request) { pieces(w, 2000); panic(http.ErrAbortHandler) },
	"closes": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "a")
	},
	"values": func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["X-A"] = []string{"1", "2"}
		w.Header().Set("X-B", "a\r\nInjected: b")
		_, _ = io.WriteString(w, "a")
	},
	"trailer": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-T")
		pieces(w, 1000)
		w.Header().Set("X-T", "end")
	},
}

func pieces(w io.Writer, n int) {
	for i := range n {
		_, _ = fmt.Fprintf(w, "piece %d\n", i)
	}
}

// What a handler answers arrives as from net/http.
func TestFront_answersAsNetHTTP(t *testing.T) {
	t.Parallel()
	for name, handler := range answers {
		type got struct {
			status      int
			header      http.Header
			trailer     http.Header
			body        string
			cut, reused bool
		}
		ask := func(front bool, request string) (out got) {
			s := httptest.NewUnstartedServer(handler)
			s.Config = NewServer(handler)
			if front {
				behindFront(t, s)
			} else {
				s.Start()
			}
			defer s.Close()
			c, err := net.Dial("tcp", s.Listener.Addr().String())
			must.NoError(t, err)
			defer c.Close()
			_, err = io.WriteString(c, request)
			must.NoError(t, err)
			reader := bufio.NewReader(c)
			response, err := http.ReadResponse(reader, nil)
			if err != nil {
				out.cut = true
				return out
			}
			body, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			response.Header.Del("Date")
			response.Header.Del("Content-Length") // as short answers have it
			out = got{status: response.StatusCode, header: response.Header, trailer: response.Trailer, body: string(body), cut: err != nil}
			if _, err = io.WriteString(c, request); err == nil && !out.cut {
				again, err := http.ReadResponse(reader, nil)
				if out.reused = err == nil; out.reused {
					_ = again.Body.Close()
				}
			}
			return out
		}
		for _, request := range []string{plainGet, plainPlan} {
			theirs, ours := ask(false, request), ask(true, request)
			if theirs.cut && ours.cut {
				continue // how much of it arrives is chance
			}
			must.Eq(t, theirs, ours, must.Sprint(name, request))
		}
	}
}

// On one connection, whatever the order.
func TestFront_handsOverWhatItDoesNotTake(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.dial(t)
	reader := bufio.NewReader(c)
	ask := func(text, want string) {
		_, err := io.WriteString(c, text)
		must.NoError(t, err)
		response, err := http.ReadResponse(reader, nil)
		must.NoError(t, err, must.Sprint(text))
		body, err := io.ReadAll(response.Body)
		must.NoError(t, err)
		_ = response.Body.Close()
		must.StrContains(t, string(body), want)
	}
	for range 3 {
		ask("GET /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n", "passed GET /v1/jobs")
	}
	ask("PUT /v1/namespace/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "passed PUT /v1/namespace/a")
	ask("GET /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n", "passed GET /v1/jobs")
	ask("GET /ui/ HTTP/1.1\r\nHost: x\r\n\r\n", "passed GET /ui/")

	// A head in two parts, and two requests at once.
	c = r.dial(t)
	reader = bufio.NewReader(c)
	_, err := io.WriteString(c, "GET /v1/jo")
	must.NoError(t, err)
	time.Sleep(20 * time.Millisecond)
	ask("bs HTTP/1.1\r\nHost: x\r\n\r\n", "passed GET /v1/jobs")
	c = r.dial(t)
	reader = bufio.NewReader(c)
	ask("GET /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n", "passed GET /v1/jobs")
	ask("", "passed GET /v1/nodes")
}

// A plan is served with the reads of its connection, also when its body comes in parts;
// one that never comes whole is nobody's.
func TestFront_servesPlans(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 4)
	s := httptest.NewUnstartedServer(nil)
	s.Config = NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		must.NoError(t, err)
		_, front := w.(*frontWriter)
		must.True(t, front)
		bodies <- string(body)
		_, _ = io.WriteString(w, "planned")
	}))
	behindFront(t, s)
	defer s.Close()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	must.NoError(t, err)
	defer c.Close()
	reader := bufio.NewReader(c)
	long := strings.Repeat("x", 100_000)
	for _, parts := range [][]string{{`{}`}, {`{`, `}`}, {"", long[:10], long[10:50_000], long[50_000:]}, {`{"a":`, `1}`}} {
		whole := strings.Join(parts, "")
		_, err := fmt.Fprintf(c, "PUT /v1/job/a/plan HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(whole), parts[0])
		must.NoError(t, err)
		for _, part := range parts[1:] {
			time.Sleep(5 * time.Millisecond)
			_, err = io.WriteString(c, part)
			must.NoError(t, err)
		}
		response, err := http.ReadResponse(reader, nil)
		must.NoError(t, err)
		_, _ = io.ReadAll(response.Body)
		must.NoError(t, response.Body.Close())
		must.EqOp(t, whole, <-bodies)
	}
	_, err = io.WriteString(c, "PUT /v1/job/a/plan HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{}")
	must.NoError(t, err)
	must.NoError(t, c.(*net.TCPConn).CloseWrite())
	_, err = reader.ReadByte()
	must.ErrorIs(t, err, io.EOF)
	must.EqOp(t, 0, len(bodies))
}

func TestFront_aBlockingQueryEndsAtNomadWhenItsClientLeaves(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	asked, left := make(chan struct{}), make(chan struct{})
	answer := make(chan struct{})
	r.nomad.special = func(w http.ResponseWriter, q *http.Request) bool {
		if q.URL.Query().Get("index") == "" {
			return false
		}
		asked <- struct{}{}
		select {
		case <-q.Context().Done():
			close(left)
		case <-answer:
			_, _ = io.WriteString(w, "changed")
		}
		return true
	}
	const query = "GET /v1/jobs?index=5 HTTP/1.1\r\nHost: x\r\n\r\n"
	c := r.dial(t)
	_, err := io.WriteString(c, query)
	must.NoError(t, err)
	<-asked
	must.NoError(t, c.Close())
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Fatal("Nomad still waits for a client that has left")
	}

	// One that stays has its answer, and what it has sent meanwhile is not lost.
	c = r.dial(t)
	reader := bufio.NewReader(c)
	for range 2 {
		_, err = io.WriteString(c, query)
		must.NoError(t, err)
		<-asked
		_, err = io.WriteString(c, "GET /v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n")
		must.NoError(t, err)
		time.Sleep(10 * time.Millisecond)
		answer <- struct{}{}
		for _, want := range []string{"changed", "passed GET /v1/nodes"} {
			response, err := http.ReadResponse(reader, nil)
			must.NoError(t, err)
			body, err := io.ReadAll(response.Body)
			must.NoError(t, err)
			must.NoError(t, response.Body.Close())
			must.EqOp(t, want, string(body))
		}
	}
}

func TestFront_shutdownWaitsForAnswersOnly(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	server := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/nodes" {
			close(entered)
			<-leave
		}
		_, _ = io.WriteString(w, "done")
	}))
	front := NewFront(context.Background(), server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- front.Serve(listener) }()
	dial := func(text string) (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", listener.Addr().String())
		must.NoError(t, err)
		_, err = io.WriteString(c, text)
		must.NoError(t, err)
		return c, bufio.NewReader(c)
	}
	idle, idleReader := dial("GET /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n")
	defer idle.Close()
	response, err := http.ReadResponse(idleReader, nil)
	must.NoError(t, err)
	_, _ = io.ReadAll(response.Body)
	must.NoError(t, response.Body.Close())
	busy, busyReader := dial("GET /v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n")
	defer busy.Close()
	<-entered

	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	must.ErrorIs(t, front.Shutdown(short), context.DeadlineExceeded)
	must.ErrorIs(t, <-served, http.ErrServerClosed)
	_, err = idleReader.ReadByte()
	must.Error(t, err, must.Sprint("a connection that waits is closed"))
	_, err = net.Dial("tcp", listener.Addr().String())
	must.Error(t, err, must.Sprint("and nobody can connect"))
	close(leave)
	response, err = http.ReadResponse(busyReader, nil)
	must.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	must.NoError(t, err)
	must.NoError(t, response.Body.Close())
	must.EqOp(t, "done", string(body))
	must.NoError(t, front.Shutdown(t.Context()))
	must.NoError(t, front.Close())
}

// A Nomad that hangs, or a blocking query that does not look like one, keeps nothing for
// clients that have left.
func TestFront_anyReadEndsAtNomadWhenItsClientLeaves(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	asked, left := make(chan struct{}), make(chan struct{})
	r.nomad.special = func(_ http.ResponseWriter, q *http.Request) bool {
		asked <- struct{}{}
		<-q.Context().Done()
		left <- struct{}{}
		return true
	}
	for _, target := range []string{"/v1/jobs", "/v1/jobs?%69ndex=5"} {
		c := r.dial(t)
		_, err := io.WriteString(c, "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
		must.NoError(t, err)
		<-asked
		must.NoError(t, c.Close())
		select {
		case <-left:
		case <-time.After(10 * time.Second):
			r.nomad.CloseClientConnections()
			<-left
			t.Errorf("Nomad still waits for a client that has left: %s", target)
		}
	}
}

func TestFront_anAnswerIsNotReadForAClientThatHasLeft(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	left := make(chan struct{})
	r.nomad.special = func(w http.ResponseWriter, _ *http.Request) bool {
		defer close(left)
		for {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return true
			}
		}
	}
	c := r.dial(t)
	_, err := io.WriteString(c, plainGet)
	must.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 100))
	must.NoError(t, err)
	must.NoError(t, c.Close())
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		r.nomad.CloseClientConnections()
		t.Fatal("the gate reads on although nobody is there")
	}
}

// What changes something is answered also if Shutdown comes while it is handed over.
func TestFront_shutdownLeavesWhatIsHandedOver(t *testing.T) {
	t.Parallel()
	front := NewFront(context.Background(), NewServer(http.NotFoundHandler()))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	front.listener = listener
	accepted := make(chan error, 1)
	go func() { accepted <- front.accept(listener) }()
	c, err := net.Dial("tcp", listener.Addr().String())
	must.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "PUT /v1/jobs HTTP/1.1\r\n")
	must.NoError(t, err)
	eventually(t, "it is handed over", func() bool {
		front.mu.Lock()
		defer front.mu.Unlock()
		for _, busy := range front.conns {
			return busy
		}
		return false
	})
	front.stop(func(serves bool) bool { return !serves })
	must.ErrorIs(t, <-accepted, http.ErrServerClosed)
	theirs, err := front.handed.Accept()
	must.NoError(t, err)
	_, err = io.WriteString(theirs, "answer")
	must.NoError(t, err)
	must.NoError(t, theirs.Close())
	front.running.Wait()
}
