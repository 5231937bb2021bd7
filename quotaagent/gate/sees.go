package gate

import (
	"net/http"
	"slices"

	"github.com/nomad-governor/governor/quotaagent/acl"
)

// Sees says who makes a request, as Caller does, and the jobs of which namespaces Nomad
// would show to that token. Without ACLs those are all. Without a token they are none,
// also where the policy "anonymous" would let somebody read some.
func (g *Gate) Sees(r *http.Request) (Identity, func(namespace string) bool, error) {
	all := func(string) bool { return true }
	id, err := g.Caller(r)
	switch {
	case err != nil:
		return id, nil, err
	case slices.Contains(id.Names, NameACLDisabled), slices.Contains(id.Names, nameManagement):
		return id, all, nil
	case slices.Contains(id.Names, NameAnonymous):
		return id, func(string) bool { return false }, nil
	}
	rights, err := g.identities.rights(r.Context(), resolveToken(r.Header, ""))
	if err != nil {
		return id, nil, err
	}
	return id, func(namespace string) bool { return rights.Allows(namespace, acl.ReadJob) }, nil
}
