package gate

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
)

// EditPage adds something to a page of Nomad's UI; policies are its headers
// Content-Security-Policy. It returns false for pages that stay as they are. It must be a
// pure function.
type EditPage func(page []byte, policies []string) (edited []byte, ok bool)

// pageMax bounds the pages that are edited, in bytes: Nomad's has two thousand.
const pageMax = 1 << 20

// asksForPage reports whether a browser asks for a page of Nomad's UI, for itself: what
// the pages load, and what scripts ask for, names no text/html.
func asksForPage(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || !strings.HasPrefix(r.URL.Path, "/ui/") {
		return false
	}
	return r.ContentLength == 0 && len(r.TransferEncoding) == 0 && r.Header["Upgrade"] == nil && r.Header["Expect"] == nil &&
		accepts(r.Header, "Accept", "text/html")
}

// accepts reports whether a header that lists what somebody takes names something.
func accepts(h http.Header, header, what string) bool {
	for _, line := range h[header] {
		for part := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(part, ";")
			if !strings.EqualFold(strings.TrimSpace(name), what) {
				continue
			}
			_, quality, given := strings.Cut(strings.ReplaceAll(strings.ToLower(parameters), " ", ""), "q=")
			q, err := strconv.ParseFloat(quality, 64)
			return !given || err == nil && q > 0
		}
	}
	return false
}

// conditions are headers of a request about the page as Nomad has it. The edited one is
// another, so Nomad is always asked for the whole page.
var conditions = [...]string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range"}

// page passes a page of Nomad's UI on, edited where it is understood.
func (g *Gate) page(w http.ResponseWriter, r *http.Request) {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			g.rewrite(p)
			p.Out.Method = http.MethodGet
			for _, name := range conditions {
				p.Out.Header.Del(name)
			}
		},
		Transport: g.config.Transport, BufferPool: copies, ErrorHandler: g.proxyError, ErrorLog: g.proxy.ErrorLog,
		ModifyResponse: func(answer *http.Response) error {
			g.edit(answer, r)
			return nil
		},
	}
	proxy.ServeHTTP(w, r)
}

// edit edits an answer, where it is a page that can be.
func (g *Gate) edit(answer *http.Response, r *http.Request) {
	if answer.StatusCode == http.StatusOK && isPage(answer) {
		if page, ok := plainPage(answer); ok {
			if edited, ok := g.config.EditPage(page, answer.Header.Values("Content-Security-Policy")); ok {
				replace(answer, r, edited)
			}
		}
	}
	if r.Method == http.MethodHead {
		_ = answer.Body.Close()
		answer.Body = http.NoBody
	}
}

// isPage reports whether an answer is HTML in an encoding that can be read and written
// again.
func isPage(answer *http.Response) bool {
	kind, parameters, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	charset, named := parameters["charset"]
	return err == nil && kind == "text/html" && (!named || strings.EqualFold(charset, "utf-8")) && len(answer.Trailer) == 0 &&
		answer.ContentLength <= pageMax && slices.Contains([]string{"", "gzip"}, answer.Header.Get("Content-Encoding"))
}

// plainPage reads the page of an answer, unpacked. The answer's body is then as it was; it
// returns false for a page that is too large, and one that breaks off.
func plainPage(answer *http.Response) (page []byte, ok bool) {
	read, err := io.ReadAll(io.LimitReader(answer.Body, pageMax+1))
	rest := io.Reader(answer.Body)
	if err != nil {
		rest = failing{err}
	}
	answer.Body = &again{Reader: io.MultiReader(bytes.NewReader(read), rest), Closer: answer.Body}
	if err != nil || len(read) > pageMax {
		return nil, false
	}
	if answer.Header.Get("Content-Encoding") == "" {
		return read, true
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(read))
	if err != nil {
		return nil, false
	}
	page, err = io.ReadAll(io.LimitReader(unpacked, pageMax+1))
	return page, err == nil && len(page) <= pageMax
}

// again is a body of which some was read already.
type again struct {
	io.Reader
	io.Closer
}

// failing is the rest of a body that breaks off.
type failing struct{ err error }

// Read implements io.Reader.
func (f failing) Read([]byte) (int, error) { return 0, f.err }

// ofTheOld are headers that are true of the page as Nomad has it only.
var ofTheOld = [...]string{"Accept-Ranges", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest", "Last-Modified", "Etag", "Transfer-Encoding"}

// replace puts the edited page into an answer, or tells the client that it has that
// already. Its tag follows from its text alone, so that a browser asks anew whenever the
// panel, or Nomad, is another.
func replace(answer *http.Response, r *http.Request, edited []byte) {
	h := answer.Header
	for _, name := range ofTheOld {
		h.Del(name)
	}
	sum := sha256.Sum256(edited)
	tag := `W/"governor-` + hex.EncodeToString(sum[:12]) + `"`
	h.Set("Etag", tag)
	h.Add("Vary", "Accept")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-cache") // may be kept, and is asked for anew each time
	}
	_ = answer.Body.Close()
	if matches(r.Header.Values("If-None-Match"), tag) {
		answer.StatusCode, answer.Status = http.StatusNotModified, ""
		for _, name := range [...]string{"Content-Length", "Content-Type", "Content-Encoding"} {
			h.Del(name)
		}
		answer.Body, answer.ContentLength = http.NoBody, 0
		return
	}
	if h.Get("Content-Encoding") == "gzip" {
		edited = packed(edited)
	}
	h.Set("Content-Length", strconv.Itoa(len(edited)))
	answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(edited)), int64(len(edited))
}

func packed(page []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(page); err != nil {
		panic(fmt.Sprintf("gzip into memory: %v", err))
	}
	if err := w.Close(); err != nil {
		panic(fmt.Sprintf("gzip into memory: %v", err))
	}
	return out.Bytes()
}

// matches compares the tags that a client has with one, weakly (RFC 9110, 8.8.3.2).
func matches(have []string, tag string) bool {
	for _, line := range have {
		for one := range strings.SplitSeq(line, ",") {
			one = strings.TrimSpace(one)
			if one == "*" || strings.TrimPrefix(one, "W/") == strings.TrimPrefix(tag, "W/") {
				return true
			}
		}
	}
	return false
}
