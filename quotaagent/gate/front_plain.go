package gate

import (
	"bufio"
	"bytes"
	"net/http"
	"strconv"
	"strings"
)

// passPlain passes an answer of Nomad as it is, if that is of the most usual kind: all of
// its head has come, it says how long the body is, and nothing in it concerns the
// connection. Else it takes nothing. Whole says then that all of it was there.
func (w *frontWriter) passPlain(from *bufio.Reader) (taken bool) {
	if w.header != nil || w.status != 0 {
		return false
	}
	come, _ := from.Peek(from.Buffered())
	head, status, length, ok := plainAnswer(come)
	if !ok {
		return false
	}
	w.out = frontOuts.Get().(*[]byte)
	*w.out = append(*w.out, come[:head]...)
	_, _ = from.Discard(head)
	w.status, w.length, w.sent = status, length, true
	for w.written < length && w.failed == nil {
		if len(*w.out) == cap(*w.out) {
			w.flush()
		}
		part := (*w.out)[len(*w.out):cap(*w.out)]
		n, err := from.Read(part[:min(int64(len(part)), length-w.written)])
		*w.out = (*w.out)[:len(*w.out)+n]
		if w.written += int64(n); err != nil {
			break
		}
	}
	w.whole = w.written == length && w.failed == nil
	return true
}

// plainAnswer looks at the beginning of an answer: how long its head is, with the line that
// ends it, its status, and how long the body will be.
func plainAnswer(come []byte) (head, status int, length int64, ok bool) {
	end := bytes.Index(come, endOfHead)
	if end < 0 {
		return 0, 0, 0, false
	}
	line, rest, _ := bytes.Cut(come[:end+2], endOfLine)
	if status, ok = plainStatus(line); !ok {
		return 0, 0, 0, false
	}
	length = -1
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, endOfLine)
		name, value, found := bytes.Cut(line, []byte{':'})
		switch {
		case !found || !only(name, isToken) || bytes.ContainsFunc(value, isControl) || concernsConnection(name):
			return 0, 0, 0, false
		case bytes.EqualFold(name, contentLength):
			digits := bytes.Trim(value, " \t")
			n, err := strconv.ParseInt(string(digits), 10, 64)
			if err != nil || length >= 0 || !only(digits, isDigit) {
				return 0, 0, 0, false
			}
			length = n
		}
	}
	return end + len(endOfHead), status, length, length >= 0
}

var (
	endOfLine     = []byte("\r\n")
	endOfHead     = []byte("\r\n\r\n")
	contentLength = []byte("Content-Length")
)

// plainStatus is the status of an answer that has a body.
func plainStatus(line []byte) (status int, ok bool) {
	text, ok := bytes.CutPrefix(line, []byte("HTTP/1.1 "))
	if !ok || len(text) < 4 || text[3] != ' ' || !only(text[:3], isDigit) || bytes.ContainsFunc(text, isControl) {
		return 0, false
	}
	status = int(text[0]-'0')*100 + int(text[1]-'0')*10 + int(text[2]-'0')
	return status, status >= http.StatusOK && status != http.StatusNoContent && status != http.StatusNotModified
}

// concernsConnection reports whether a header says something about one connection, or
// about how the body is sent.
func concernsConnection(name []byte) bool {
	for _, one := range hopByHop {
		if len(one) == len(name) && strings.EqualFold(one, string(name)) {
			return true
		}
	}
	return false
}

func isControl(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }
