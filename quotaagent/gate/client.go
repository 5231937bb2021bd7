package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// client asks Nomad on behalf of a user, with the user's own token.
type client struct {
	address   *url.URL
	transport http.RoundTripper
	// relay is what questions go through; nil for the transport.
	relay   *relay
	bodyMax int64
	timeout time.Duration
	// reader is the token that stored jobs are read with for users who may not read
	// them, although they may scale or dispatch them; "" for none. For who has no token
	// at all Nomad's refusal is the answer.
	reader string
}

// answer is a whole response of Nomad. As an error it is one that the gate
// passes on as it is.
type answer struct {
	status int
	header http.Header
	body   []byte
	// warnings is where its warnings lie, if that was looked for.
	warnings jobspec.Place
}

// locateWarnings finds the warnings of the answer.
func (a *answer) locateWarnings() jobspec.Place {
	if !a.warnings.Known() {
		a.warnings = jobspec.Locate(a.body, "Warnings")[0]
	}
	return a.warnings
}

func (a *answer) Error() string {
	return fmt.Sprintf("nomad answered %d: %s", a.status, bytes.TrimSpace(a.body[:min(len(a.body), 200)]))
}

// write sends the answer, with a length that fits its body.
func (a *answer) write(w http.ResponseWriter) {
	h := w.Header()
	for k, v := range a.header {
		h[k] = v
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

// hopByHop headers belong to one connection (RFC 9110, 7.6.1).
var hopByHop = [...]string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade",
}

// errNotSent means that Nomad cannot have seen the request.
var errNotSent = errors.New("request was not sent")

// do sends one request and reads the whole answer.
func (c *client) do(r *http.Request) (*answer, error) {
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			err = errors.Join(errNotSent, err)
		}
		return nil, fmt.Errorf("ask nomad: %w", err)
	}
	defer resp.Body.Close()
	return whole(resp, c.bodyMax)
}

// whole reads the rest of an answer, which must have at most so many bytes.
func whole(resp *http.Response, most int64) (*answer, error) {
	read := texts.Get().(*bytes.Buffer)
	defer putText(read)
	if _, err := read.ReadFrom(io.LimitReader(resp.Body, most+1)); err != nil {
		return nil, fmt.Errorf("read answer of nomad: %w", err)
	}
	if int64(read.Len()) > most {
		return nil, fmt.Errorf("read answer of nomad: it is larger than %d bytes", most)
	}
	return &answer{status: resp.StatusCode, header: resp.Header, body: bytes.Clone(read.Bytes())}, nil
}

// texts are buffers for requests, and for answers whose length is not known; none is kept
// that has become larger than textMost.
var texts = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const textMost = 256 << 10

func putText(b *bytes.Buffer) {
	if b.Cap() <= textMost {
		b.Reset()
		texts.Put(b)
	}
}

// get asks one question; path is already escaped.
func (c *client) get(ctx context.Context, path string, query url.Values, token string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.address.Scheme+"://"+c.address.Host+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask nomad: %w", err)
	}
	r.URL.RawQuery = query.Encode()
	if token != "" {
		r.Header.Set(tokenHeader, token)
	}
	if c.relay != nil {
		return c.relay.exchange(r, nil, c.bodyMax)
	}
	return c.do(r)
}

// job returns the job that is registered, or nil when there is none. Any other
// answer of Nomad comes back as an *answer.
func (c *client) job(ctx context.Context, id string, at scope, token string) (*api.Job, error) {
	if jobSuffix(id) != "" {
		// GET /v1/job/<id> would be routed by the id's own end, for example to
		// the summary of another job; the list of versions is not.
		versions, err := c.versions(ctx, id, at, token)
		if err != nil || len(versions) == 0 {
			return nil, err
		}
		newest := versions[0]
		for _, v := range versions {
			if jobVersion(v) > jobVersion(newest) {
				newest = v
			}
		}
		return newest, nil
	}
	job, _, err := c.sizedJob(ctx, id, at, token)
	return job, err
}

// sizedJob is job for an id that has no route's end, and says how many bytes the job has.
func (c *client) sizedJob(ctx context.Context, id string, at scope, token string) (*api.Job, int, error) {
	var one sized
	found, err := c.read(ctx, "/v1/job/"+escapeID(id), at, token, &one)
	if err != nil || !found {
		return nil, 0, err
	}
	return &one.job, one.bytes, nil
}

// sized is a job that knows how long its JSON was.
type sized struct {
	job   api.Job
	bytes int
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *sized) UnmarshalJSON(raw []byte) error {
	s.bytes = len(raw)
	return json.Unmarshal(raw, &s.job)
}

// versions returns every version of a job that Nomad has, or none.
func (c *client) versions(ctx context.Context, id string, at scope, token string) ([]*api.Job, error) {
	var out api.JobVersionsResponse
	found, err := c.read(ctx, "/v1/job/"+escapeID(id)+"/versions", at, token, &out)
	if err != nil || !found {
		return nil, err
	}
	return out.Versions, nil
}

// version is one version of a job as Nomad has it, or nil.
func (c *client) version(ctx context.Context, id string, version uint64, at scope, token string) (json.RawMessage, error) {
	var out struct{ Versions []json.RawMessage }
	found, err := c.read(ctx, "/v1/job/"+escapeID(id)+"/versions", at, token, &out)
	if err != nil || !found {
		return nil, err
	}
	for _, raw := range out.Versions {
		var v struct{ Version *uint64 }
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, fmt.Errorf("read answer of nomad: %w", err)
		}
		if v.Version != nil && *v.Version == version {
			return raw, nil
		}
	}
	return nil, nil
}

// submission is the source of a version of a job; nil when Nomad has none.
func (c *client) submission(ctx context.Context, id string, version uint64, at scope, token string) (json.RawMessage, error) {
	var out json.RawMessage
	path := fmt.Sprintf("/v1/job/%s/submission", escapeID(id))
	query := url.Values{"namespace": {at.namespace}, "region": {at.region}, "version": {strconv.FormatUint(version, 10)}}
	_, err := c.readWith(ctx, path, query, token, &out)
	return out, err
}

func (c *client) read(ctx context.Context, path string, at scope, token string, into any) (found bool, err error) {
	return c.readWith(ctx, path, url.Values{"namespace": {at.namespace}, "region": {at.region}}, token, into)
}

// readWith asks as the user and, where he may not read, as the agent.
func (c *client) readWith(ctx context.Context, path string, query url.Values, token string, into any) (found bool, err error) {
	a, err := c.get(ctx, path, query, token)
	if err == nil && a.status == http.StatusForbidden && c.reader != "" && c.reader != token && token != "" {
		a, err = c.get(ctx, path, query, c.reader)
	}
	if err != nil {
		return false, err
	}
	switch a.status {
	case http.StatusOK:
	case http.StatusNotFound:
		return false, nil
	default:
		return false, a
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		return false, fmt.Errorf("read answer of nomad: %w", err)
	}
	return true, nil
}

// escapeID encodes a job id as one path segment. Dots on their own would be
// taken for a relative path.
func escapeID(id string) string {
	if strings.Trim(id, ".") == "" {
		return strings.ReplaceAll(id, ".", "%2E")
	}
	return url.PathEscape(id)
}

func jobVersion(j *api.Job) uint64 {
	if j == nil || j.Version == nil {
		return 0
	}
	return *j.Version
}
