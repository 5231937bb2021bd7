package gate

import (
	"net/http"
	"testing"

	"github.com/shoenig/test/must"
)

func TestSees(t *testing.T) {
	t.Parallel()
	r, _ := delegatedRig(t, `{"Namespaces":[{"Name":"team-*","Capabilities":["list-jobs","read-job"]},{"Name":"team-secret","Capabilities":["deny"]},{"Name":"web","Capabilities":["submit-job"]}]}`)
	g := r.newGate(t)
	sees := func(token string) (Identity, map[string]bool) {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/governor/", nil)
		must.NoError(t, err)
		q.Header.Set("X-Nomad-Token", token)
		id, reads, err := g.Sees(q)
		must.NoError(t, err)
		out := map[string]bool{}
		for _, namespace := range []string{"default", "team-a", "team-secret", "web"} {
			if reads(namespace) {
				out[namespace] = true
			}
		}
		return id, out
	}
	id, seen := sees(userToken)
	must.EqOp(t, "user", id.Accessor)
	must.Eq(t, map[string]bool{"team-a": true}, seen)
	_, seen = sees(rootToken)
	must.MapLen(t, 4, seen)
	_, seen = sees("")
	must.MapEmpty(t, seen)

	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/governor/", nil)
	must.NoError(t, err)
	q.Header.Set("X-Nomad-Token", "nobody")
	_, _, err = g.Sees(q)
	must.ErrorIs(t, err, ErrUnknownToken)

	open := newRig(t)
	_, reads, err := open.newGate(t).Sees(q)
	must.NoError(t, err)
	must.True(t, reads("anything"), must.Sprint("without ACLs everybody reads everything"))
}
