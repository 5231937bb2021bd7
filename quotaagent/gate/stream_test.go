package gate

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func contextWithCancel(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}

// sendPart sends raw bytes and returns the first line of the answer.
func sendPart(t *testing.T, server, raw string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
	must.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, raw)
	must.NoError(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	must.NoError(t, err)
	return line
}

func TestGate_streamsArriveAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	next := make(chan string)
	r.nomad.special = func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != "/v1/event/stream" {
			return false
		}
		w.WriteHeader(http.StatusOK)
		for line := range next {
			_, _ = io.WriteString(w, line)
			_ = http.NewResponseController(w).Flush()
		}
		return true
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequest(http.MethodGet, r.gate.URL+"/v1/event/stream", nil)
	must.NoError(t, err)
	go func() { next <- "first\n" }()
	response, err := transport.RoundTrip(request)
	must.NoError(t, err)
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for _, want := range []string{"first\n", "second\n", "third\n"} {
		// The next line is only sent after this one has arrived.
		line, err := lines.ReadString('\n')
		must.NoError(t, err)
		must.EqOp(t, want, line)
		switch want {
		case "first\n":
			next <- "second\n"
		case "second\n":
			next <- "third\n"
		}
	}
	close(next)
	_, err = lines.ReadString('\n')
	must.ErrorIs(t, err, io.EOF)
}

func TestGate_websocketsPass(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var host, origin string
	r.nomad.special = func(w http.ResponseWriter, req *http.Request) bool {
		if req.Header.Get("Upgrade") == "" {
			return false
		}
		host, origin = req.Host, req.Header.Get("Origin")
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
		return true
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.gate.URL, "http://"))
	must.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /v1/client/allocation/a/exec HTTP/1.1\r\nHost: gov.example\r\nOrigin: http://gov.example\r\n"+
		"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	must.NoError(t, err)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	must.NoError(t, err)
	defer response.Body.Close()
	must.EqOp(t, http.StatusSwitchingProtocols, response.StatusCode)
	must.EqOp(t, "gov.example", host)
	must.EqOp(t, "http://gov.example", origin)
	for _, word := range []string{"one\n", "two\n"} {
		_, err = io.WriteString(conn, word)
		must.NoError(t, err)
		line, err := reader.ReadString('\n')
		must.NoError(t, err)
		must.EqOp(t, word, line)
	}
}

func TestGate_bigUploadsAreNotHeldBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const size = 40 << 20
	started := make(chan struct{})
	received := make(chan int64, 1)
	r.nomad.special = func(_ http.ResponseWriter, req *http.Request) bool {
		first := make([]byte, 1)
		if _, err := io.ReadFull(req.Body, first); err != nil {
			panic(err)
		}
		close(started)
		n, _ := io.Copy(io.Discard, req.Body)
		received <- n + 1
		return true
	}
	reader, writer := io.Pipe()
	go func() {
		chunk := make([]byte, 1<<20)
		_, _ = writer.Write(chunk)
		<-started // Nomad reads before the client has sent everything
		for range size>>20 - 1 {
			_, _ = writer.Write(chunk)
		}
		_ = writer.Close()
	}()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequest(http.MethodPut, r.gate.URL+"/v1/operator/snapshot", reader)
	must.NoError(t, err)
	response, err := transport.RoundTrip(request)
	must.NoError(t, err)
	defer response.Body.Close()
	must.EqOp(t, http.StatusOK, response.StatusCode)
	must.EqOp(t, int64(size), <-received)
}

func TestGate_pathsAndHeadersPassAsTheyAre(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.do(t, "GET", "/v1/future/team%2Fjob%20x?a=1&b=%2F;c&x", "", "X-Nomad-Token", "t", "Accept-Encoding", "gzip",
		"X-Forwarded-For", "1.2.3.4", "X-Forwarded-Proto", "https", "Forwarded", "for=1.2.3.4", "Authorization", "Bearer b")
	must.EqOp(t, http.StatusOK, a.status)
	got := r.nomad.seen[0]
	must.EqOp(t, "/v1/future/team%2Fjob%20x", got.path)
	must.EqOp(t, "a=1&b=%2F;c&x", got.query)
	must.EqOp(t, "t", got.header.Get("X-Nomad-Token"))
	must.EqOp(t, "gzip", got.header.Get("Accept-Encoding"))
	must.EqOp(t, "Bearer b", got.header.Get("Authorization"))
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"} {
		must.EqOp(t, "", got.header.Get(name), must.Sprint(name))
	}
}

func TestGate_governedRequestsCarryOneCredentialAndNoEncoding(t *testing.T) {
	t.Parallel()
	for name, job := range map[string]string{"cpu": cpuJob, "gpu": gpuJob} {
		r := newRig(t)
		a := r.do(t, "PUT", "/v1/jobs", `{"Job":`+job+`,"secretid":"from-body"}`, "X-Forwarded-For", "1.2.3.4", "Accept-Encoding", "gzip")
		must.EqOp(t, http.StatusOK, a.status)
		w := r.nomad.writes()[0]
		must.EqOp(t, "from-body", w.header.Get("X-Nomad-Token"), must.Sprint(name))
		must.EqOp(t, "", w.header.Get("X-Forwarded-For"))
		must.EqOp(t, `{"Job":`+job+`,"secretid":""}`, w.body)
		for _, s := range r.nomad.seen {
			must.EqOp(t, "from-body", s.header.Get("X-Nomad-Token"), must.Sprint(s.path))
		}
	}
}

func TestGate_isNoForwardProxy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	must.StrHasPrefix(t, "HTTP/1.1 405", sendPart(t, r.gate.URL, "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"))
	must.Len(t, 0, r.nomad.seen)
}
