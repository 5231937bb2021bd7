package gate

import (
	"errors"
	"net/http"
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
