package passage_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// exchange is one request as it is written on the wire; "@" in the target and the
// body is the name of what a write makes, which each side makes for itself.
type exchange struct {
	method, target string
	token          string
	header         []string // "Name: value"
	body           string
	// chunked sends the body in chunks of 7 bytes; expect waits for 100 Continue.
	chunked, expect bool
	// masks are further patterns that may differ, with the reason beside them.
	masks []*regexp.Regexp
	// volatile are further headers that may differ.
	volatile []string
	// want is the status in a case where only both sides' agreement would not show
	// that the request worked; 0 for any.
	want int
	// racy are the statuses of which Nomad gives one or another, as one end of a pipe of
	// its own or the other is first. Answers of one status are compared all the same.
	racy []int
}

func (e exchange) String() string {
	text := e.method + " " + e.target
	for _, h := range e.header {
		text += " [" + h + "]"
	}
	if e.token != "" {
		text += " (" + e.token[:min(8, len(e.token))] + ")"
	}
	return text
}

// reply is all of an answer that a client can see.
type reply struct {
	status  string
	interim int // 1xx answers before it
	header  http.Header
	framing string
	body    string
	code    int
}

// wire is a connection that is used for many requests, so that an answer with
// wrong framing breaks the next one.
type wire struct {
	address string
	name    string // instead of "@"
	conn    net.Conn
	reader  *bufio.Reader
}

// host is sent to both sides, because Nomad shows it in redirects.
const host = "nomad.example:4646"

func (w *wire) dial() error {
	if w.conn != nil {
		return nil
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.address, "http://"))
	if err != nil {
		return err
	}
	w.conn, w.reader = conn, bufio.NewReader(conn)
	return nil
}

func (w *wire) close() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}

func (w *wire) do(e exchange) (reply, error) {
	if err := w.dial(); err != nil {
		return reply{}, err
	}
	if err := w.conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		return reply{}, err
	}
	name := func(s string) string { return strings.ReplaceAll(s, "@", w.name) }
	body := name(e.body)
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\n", e.method, name(e.target), host)
	if e.token != "" {
		fmt.Fprintf(&head, "X-Nomad-Token: %s\r\n", e.token)
	}
	for _, h := range e.header {
		fmt.Fprintf(&head, "%s\r\n", h)
	}
	switch {
	case e.chunked:
		head.WriteString("Transfer-Encoding: chunked\r\n")
	case body != "" || e.method == "PUT" || e.method == "POST":
		fmt.Fprintf(&head, "Content-Length: %d\r\n", len(body))
	}
	if e.expect {
		head.WriteString("Expect: 100-continue\r\n")
	}
	head.WriteString("\r\n")
	if !e.expect {
		writeBody(&head, body, e.chunked)
		body = ""
	}
	if _, err := w.conn.Write(head.Bytes()); err != nil {
		return reply{}, err
	}
	return w.read(e, body)
}

func writeBody(to *bytes.Buffer, body string, chunked bool) {
	if !chunked {
		to.WriteString(body)
		return
	}
	for part := range slices.Chunk([]byte(body), 7) {
		fmt.Fprintf(to, "%x\r\n%s\r\n", len(part), part)
	}
	to.WriteString("0\r\n\r\n")
}

// read reads the answer, and sends what is left of the body at 100 Continue.
func (w *wire) read(e exchange, left string) (reply, error) {
	var out reply
	for {
		response, err := http.ReadResponse(w.reader, &http.Request{Method: e.method}) //nolint:bodyclose // read to its end below; an interim answer has none
		if err != nil {
			w.close()
			return reply{}, fmt.Errorf("read the answer: %w", err)
		}
		if response.StatusCode/100 == 1 {
			out.interim++
			var rest bytes.Buffer
			writeBody(&rest, left, e.chunked)
			left = ""
			if _, err := w.conn.Write(rest.Bytes()); err != nil {
				return reply{}, err
			}
			continue
		}
		raw, err := io.ReadAll(response.Body)
		if err != nil {
			w.close()
			return reply{}, fmt.Errorf("read the body: %w", err)
		}
		out.status, out.code, out.header, out.body = response.Proto+" "+response.Status, response.StatusCode, response.Header, string(raw)
		out.framing = fmt.Sprintf("%v %d close=%t trailer=%v", response.TransferEncoding, response.ContentLength, response.Close, response.Trailer)
		if response.Close || left != "" {
			w.close()
		}
		return out, nil
	}
}

// volatile are the headers that no two answers of the same Nomad share: the second
// it was sent in, and how long ago a follower heard from its leader.
var volatile = []string{"Date", "X-Nomad-Lastcontact"}

var (
	uuids   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	moments = regexp.MustCompile(`"(\w*(Index|Time|At|TTL))":\s*("[^"]*"|-?\d+)`)
	indexes = regexp.MustCompile(`(modify index:?) \d+`)
	// launches are the ids that Nomad gives to children, hashes those of names.
	launches = regexp.MustCompile(`(dispatch|periodic)-\d+(-[0-9a-f]{8})?`)
	hashes   = regexp.MustCompile(`"(Hash)":"[^"]*"`)
	// evals are those of a node's change: none when the node stays as it is.
	evals   = regexp.MustCompile(`"(EvalIDs)":(null|\[[^\]]*\])`)
	numbers = regexp.MustCompile(`\d+`)
)

// plain is an answer without what volatile names and the masks match.
func (r reply) plain(name string, e exchange) reply {
	r.header = r.header.Clone()
	masks, length := e.masks, len(unpacked(r))
	for _, h := range volatile {
		r.header.Del(h)
	}
	for _, h := range e.volatile {
		if r.header.Get(h) != "" {
			r.header.Set(h, "<differs>")
		}
	}
	if name != "" {
		r.body = strings.ReplaceAll(r.body, name, "@")
	}
	if r.header.Get("Content-Encoding") != "" { // another order packs to another length
		r = r.withoutLength()
	}
	r.body = unordered(unpacked(r))
	if len(masks) == 0 {
		r.body += fmt.Sprintf(" (%d bytes)", length)
	}
	for _, m := range masks {
		r.body = m.ReplaceAllString(r.body, "<$1>")
		r = r.withoutLength() // what is masked may have more digits
	}
	if slices.Contains(masks, moments) && r.header.Get("X-Nomad-Index") != "" {
		r.header.Set("X-Nomad-Index", "<index>") // each write has its own
	}
	return r
}

// unpacked is the body as it was before it was compressed.
func unpacked(r reply) string {
	var reader io.ReadCloser
	var err error
	switch r.header.Get("Content-Encoding") {
	case "gzip":
		reader, err = gzip.NewReader(strings.NewReader(r.body))
	case "deflate":
		reader = flate.NewReader(strings.NewReader(r.body))
	default:
		return r.body
	}
	if err != nil {
		return r.body
	}
	text, err := io.ReadAll(reader)
	if err != nil {
		return r.body
	}
	return string(text)
}

// unordered is JSON with the keys of each object in order: Nomad writes maps in a
// new order each time.
func unordered(body string) string {
	var value any
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.UseNumber()
	if decoder.Decode(&value) != nil || decoder.More() {
		return body
	}
	text, err := json.Marshal(value)
	if err != nil {
		return body
	}
	return string(text)
}

func (r reply) withoutLength() reply {
	if r.header.Get("Content-Length") != "" {
		r.header.Set("Content-Length", "<length>")
	}
	r.framing = numbers.ReplaceAllString(r.framing, "<n>")
	return r
}

func (r reply) equal(other reply) bool {
	return r.status == other.status && r.interim == other.interim && r.framing == other.framing && r.body == other.body &&
		fmt.Sprint(r.header) == fmt.Sprint(other.header)
}

// sides are the two ways to Nomad.
type sides struct{ direct, gated *wire }

// same sends a read directly, through the gate and directly again, until nothing
// has changed in Nomad between the first and the third.
func (s sides) same(t *testing.T, e exchange) {
	t.Helper()
	for range 20 {
		before, err := s.direct.do(e)
		must.NoError(t, err, must.Sprint(e))
		through, err := s.gated.do(e)
		must.NoError(t, err, must.Sprint(e))
		after, err := s.direct.do(e)
		must.NoError(t, err, must.Sprint(e))
		before, through, after = before.plain("", e), through.plain("", e), after.plain("", e)
		if before.equal(through) {
			if e.want != 0 {
				must.EqOp(t, e.want, through.code, must.Sprint(e, through.body))
			}
			return
		}
		if before.equal(after) {
			t.Errorf("%s\n%s", e, difference(before, through))
			return
		}
	}
	t.Errorf("Nomad itself never answered twice the same: %s", e)
}

// sameWrite lets each side make its own thing, and compares the answers.
func (s sides) sameWrite(t *testing.T, e exchange) {
	t.Helper()
	e.masks = append([]*regexp.Regexp{uuids, moments, indexes, launches, hashes, evals}, e.masks...)
	direct, err := s.direct.do(e)
	must.NoError(t, err, must.Sprint(e))
	through, err := s.gated.do(e)
	must.NoError(t, err, must.Sprint(e))
	if e.want != 0 {
		must.EqOp(t, e.want, direct.code, must.Sprint(e, direct.body))
	}
	direct, through = direct.plain(s.direct.name, e), through.plain(s.gated.name, e)
	if direct.code != through.code && slices.Contains(e.racy, direct.code) && slices.Contains(e.racy, through.code) {
		return
	}
	if !direct.equal(through) {
		t.Errorf("%s\n%s", e, difference(direct, through))
	}
}

func difference(direct, through reply) string {
	show := func(r reply) string {
		return fmt.Sprintf("%s, %d interim, %s\n%v\n%.600s", r.status, r.interim, r.framing, r.header, r.body)
	}
	return "directly:\n" + show(direct) + "\n\nthrough the gate:\n" + show(through)
}
