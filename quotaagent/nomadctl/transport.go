package nomadctl

import "net/http"

// Uncompressed wraps the transport by which an agent asks Nomad, which must not ask for
// compressed answers by itself (http.Transport.DisableCompression). Nomad's client asks for
// compressed answers, and for each of them, however short, Nomad makes a new compressor of
// 0.8 MB (gorilla's CompressHandler in command/agent/http.go; seen in its profile of
// allocations): with many short questions these were most of its garbage, and every request
// waits while it is collected. Agents are beside their Nomad.
func Uncompressed(next http.RoundTripper) http.RoundTripper { return uncompressed{next} }

type uncompressed struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (u uncompressed) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Accept-Encoding") != "" {
		asked := *r // whose request it is may send it again
		asked.Header = r.Header.Clone()
		asked.Header.Del("Accept-Encoding")
		r = &asked
	}
	return u.next.RoundTrip(r)
}
