package gate

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestPlainAnswer_takesWhatNeedsNoThoughtOnly(t *testing.T) {
	t.Parallel()
	const usual = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Nomad-Index: 7\r\nContent-Length: 2\r\n\r\n[]"
	with := func(line string) string { return strings.Replace(usual, "X-Nomad-Index: 7", line, 1) }
	length := func(n string) string { return strings.Replace(usual, "Length: 2", "Length:"+n, 1) }
	status := func(line string) string { return strings.Replace(usual, "HTTP/1.1 200 OK", line, 1) }
	for text, want := range map[string]bool{
		usual:                true,
		usual[:len(usual)-2]: true, // the body comes later
		usual[:len(usual)-3]: false,
		usual[:20]:           false,
		"":                   false,
		"\r\n\r\n":           false,

		with("Set-Cookie: a=b; Path=/"): true,
		with("Date: x:y"):               true,
		with("Empty:"):                  true,
		with("Connection: close"):       false,
		with("connection: keep-alive"):  false,
		with("Transfer-Encoding: x"):    false,
		with("TRAILER: X"):              false,
		with("Upgrade: x"):              false,
		with("Keep-Alive: x"):           false,
		with("Proxy-Authenticate: x"):   false,
		with("Content-Length: 2"):       false,
		with("content-length: 3"):       false,
		with(" folded"):                 false,
		with("no colon"):                false,
		with(": x"):                     false,
		with("X : x"):                   false,
		with("X: a\nConnection: close"): false,
		with("X: a\rb"):                 false,
		with("X: a\x00"):                false,

		length("0"): true, length(" \t2 "): true, length("2, 2"): false, length("+2"): false, length("0x2"): false, length(""): false,
		length(" 99999999999999999999"):                        false,
		strings.Replace(usual, "Content-Length: 2\r\n", "", 1): false,

		status("HTTP/1.1 200 O\nK"):      false,
		status("HTTP/1.1 404 Not Found"): true, status("HTTP/1.1 599 "): true, status("HTTP/1.1 200"): false, status("HTTP/1.1 20 OK"): false, status("HTTP/1.1 2x0 OK"): false,
		status("HTTP/1.0 200 OK"): false, status("HTTP/1.1 100 Continue"): false, status("HTTP/1.1 204 No Content"): false, status("HTTP/1.1 304 Not Modified"): false, status("http/1.1 200 OK"): false,
	} {
		head, code, n, ok := plainAnswer([]byte(text))
		must.EqOp(t, want, ok, must.Sprintf("%q", text))
		if ok {
			must.StrHasSuffix(t, "\r\n\r\n", text[:head])
			must.Positive(t, code)
			must.GreaterEq(t, 0, n)
		}
	}
}

// FuzzPlainAnswer compares with what net/http reads: what is passed as it came must mean
// the same to the client, and end where it ends.
func FuzzPlainAnswer(f *testing.F) {
	for _, line := range []string{"A: b", "Connection: close", "Content-Length: 5", "Transfer-Encoding: chunked", "A: b\r\n c", "A: \u00e9", "A:\x7f", "content-LENGTH: 3", "a_b: c", "Trailer: x"} {
		f.Add("200 OK", "3", line, "abc")
		f.Add("404 Not Found", " 3 ", line, "abcd")
	}
	f.Fuzz(func(t *testing.T, status, length, line, body string) {
		text := "HTTP/1.1 " + status + "\r\nContent-Length:" + length + "\r\n" + line + "\r\n\r\n" + body
		head, code, n, ok := plainAnswer([]byte(text))
		if !ok {
			return
		}
		theirs, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil)
		must.NoError(t, err, must.Sprintf("%q", text))
		defer theirs.Body.Close()
		must.EqOp(t, theirs.StatusCode, code)
		must.EqOp(t, theirs.ContentLength, n)
		must.False(t, theirs.Close)
		must.SliceEmpty(t, theirs.TransferEncoding)
		must.MapEmpty(t, theirs.Trailer)
		read, _ := io.ReadAll(theirs.Body)
		must.EqOp(t, string(read), text[head:head+int(min(n, int64(len(text)-head)))])
	})
}

// Whatever the size of an answer, and in whichever pieces it comes, the client gets its
// bytes, and the connections serve again.
func TestFront_passesAnswersAsTheyCome(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("0123456789abcdef", 64<<10)
	for _, size := range []int{0, 1, 1000, 4 << 10, frontOut - 1, frontOut, frontOut + 1, len(large)} {
		answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Nomad-Index: 7\r\nx-odd-case: kept\r\nContent-Length: %d\r\n\r\n%s", size, large[:size])
		for _, first := range []int{len(answer), 5, 60, len(answer) - 1} {
			address := rawNomad(t, func(_ int, c net.Conn, reader *bufio.Reader) {
				for range 2 {
					if _, err := http.ReadRequest(reader); err != nil {
						return
					}
					_, _ = io.WriteString(c, answer[:first])
					time.Sleep(2 * time.Millisecond)
					_, _ = io.WriteString(c, answer[first:])
				}
			})
			c := relayRig(t, address).dial(t)
			reader := bufio.NewReader(c)
			for range 2 {
				_, err := io.WriteString(c, plainGet)
				must.NoError(t, err)
				response, err := http.ReadResponse(reader, nil)
				must.NoError(t, err)
				must.EqOp(t, "7", response.Header.Get("X-Nomad-Index"))
				must.EqOp(t, "kept", response.Header.Get("X-Odd-Case"))
				body, err := io.ReadAll(response.Body)
				must.NoError(t, err)
				must.True(t, string(body) == large[:size])
				must.NoError(t, response.Body.Close())
			}
			must.NoError(t, c.Close())
		}
	}
}

// A request that does not fit into the socket at once is sent all the same.
func TestRelay_sendsLongRequestsToASlowNomad(t *testing.T) {
	t.Parallel()
	body := bytes.Repeat([]byte("{}\n "), 4<<20)
	address := rawNomad(t, func(_ int, c net.Conn, reader *bufio.Reader) {
		time.Sleep(50 * time.Millisecond)
		q, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		n, _ := io.Copy(io.Discard, q.Body)
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%08d", n)
	})
	relay := relayRig(t, address).gate.Config.Handler.(*Gate).relay
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://nomad/v1/job/a/plan", http.NoBody)
	must.NoError(t, err)
	theirs, err := relay.exchange(q, body, 100)
	must.NoError(t, err)
	must.EqOp(t, fmt.Sprintf("%08d", len(body)), string(theirs.body))
}
