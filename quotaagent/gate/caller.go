package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// ErrUnknownToken means that Nomad does not accept the caller's token.
var ErrUnknownToken = errors.New("nomad does not accept this token")

// Caller says who makes a request to Governor's own pages and API, by the same
// rules as on Nomad's routes.
func (g *Gate) Caller(r *http.Request) (Identity, error) {
	id, err := g.identities.identify(r.Context(), resolveToken(r.Header, ""))
	var refused *answer
	if errors.As(err, &refused) {
		return Identity{}, ErrUnknownToken
	}
	return id, err
}

// ErrNotShown means that Nomad does not show something to the caller, or does not have it.
var ErrNotShown = errors.New("nomad does not show this to this token")

// unknownAllocation begins Nomad's answer, with 500, for an allocation of a namespace that
// the token may not read (nomad/alloc_endpoint.go, GetAlloc; seen on 1.11.3).
const unknownAllocation = "Unknown allocation"

// Read asks Nomad for something in the name of who makes a request to Governor's own API,
// with that token and no other, so that Nomad decides whether the caller may see it. path
// is escaped already. The error is ErrNotShown for whatever Nomad refuses; any other means
// that Nomad did not answer.
func (g *Gate) Read(ctx context.Context, r *http.Request, path string, query url.Values, into any) error {
	a, err := g.nomad.get(ctx, path, query, resolveToken(r.Header, ""))
	switch {
	case err != nil:
		return err
	case a.status == http.StatusForbidden || a.status == http.StatusNotFound || a.status == http.StatusInternalServerError && bytes.HasPrefix(a.body, []byte(unknownAllocation)):
		return ErrNotShown
	case a.status != http.StatusOK:
		return a
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		return fmt.Errorf("read answer of nomad: %w", err)
	}
	return nil
}

// JobPath is the path of a job in Nomad's API, escaped.
func JobPath(id string) string { return "/v1/job/" + escapeID(id) }
