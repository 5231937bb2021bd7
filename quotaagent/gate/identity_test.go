package gate

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

func newIdentityRig(t *testing.T) (*fakeNomad, *identities, *time.Time) {
	t.Helper()
	f := newFakeNomad(t)
	f.acl = true
	f.tokens["alice"] = api.ACLToken{
		AccessorID: "acc", Name: "alice", Type: "client", Policies: []string{"z", "a"},
		Roles: []*api.ACLTokenRoleLink{{ID: "1", Name: "ml"}},
	}
	f.tokens["root"] = api.ACLToken{AccessorID: "boss", Name: "root", Type: "management"}
	address, err := url.Parse(f.URL)
	must.NoError(t, err)
	transport, err := NewTransport(TLS{})
	must.NoError(t, err)
	t.Cleanup(transport.CloseIdleConnections)
	now := time.Unix(1000, 0)
	nomad := &client{address: address, transport: transport, bodyMax: 1 << 20, timeout: time.Minute}
	return f, newIdentities(nomad, 20*time.Second, func() time.Time { return now }), &now
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	f, ids, _ := newIdentityRig(t)
	cases := map[string]Identity{
		"alice": {Accessor: "acc", Names: []string{"policy:a", "policy:z", "role:ml", "token:alice"}},
		"root":  {Accessor: "boss", Names: []string{"token:root", "type:management"}},
		"":      {Names: []string{NameAnonymous}},
	}
	for token, want := range cases {
		got, err := ids.identify(t.Context(), token)
		must.NoError(t, err)
		must.Eq(t, want, got, must.Sprint(token))
	}
	_, err := ids.identify(t.Context(), "unknown")
	must.ErrorContains(t, err, "nomad answered 403: Permission denied")
	_, err = ids.identify(t.Context(), "jwt.x")
	must.ErrorContains(t, err, "nomad answered 404: ACL token not found", must.Sprint("what is not verified is nobody"))

	f.acl = false
	got, err := ids.identify(t.Context(), "another")
	must.NoError(t, err)
	must.Eq(t, Identity{Names: []string{NameACLDisabled}}, got)
}

func TestIdentify_remembersForAWhileButNotRefusals(t *testing.T) {
	t.Parallel()
	f, ids, now := newIdentityRig(t)
	ask := func(token string) { _, _ = ids.identify(t.Context(), token) }
	ask("alice")
	ask("alice")
	must.Len(t, 1, f.seen)
	*now = now.Add(20 * time.Second)
	ask("alice")
	must.Len(t, 2, f.seen)
	ask("unknown")
	ask("unknown")
	must.Len(t, 4, f.seen)
}

// A token that ends, or is revoked, is believed no longer than its own end and the
// time that is documented.
func TestIdentify_doesNotOutliveTheToken(t *testing.T) {
	t.Parallel()
	f, ids, now := newIdentityRig(t)
	end := now.Add(5 * time.Second)
	f.tokens["short"] = api.ACLToken{AccessorID: "s", Name: "short", ExpirationTime: &end}
	know := func(token string) bool { _, err := ids.identify(t.Context(), token); return err == nil }
	must.True(t, know("short"))
	delete(f.tokens, "short")
	*now = now.Add(5*time.Second - 1)
	must.True(t, know("short"), must.Sprint("this is what is remembered"))
	*now = now.Add(1)
	must.False(t, know("short"))

	must.True(t, know("alice"))
	delete(f.tokens, "alice") // revoked
	*now = now.Add(20*time.Second - 1)
	must.True(t, know("alice"))
	*now = now.Add(1)
	must.False(t, know("alice"))
}

// Nomad does not say whether a token comes from a login, so that its name makes a
// user only in a form that the operator names, and only if the token ends.
func TestIdentify_usersOfLogins(t *testing.T) {
	t.Parallel()
	f, ids, now := newIdentityRig(t)
	end := now.Add(time.Hour)
	for secret, token := range map[string]api.ACLToken{
		"login":   {AccessorID: "1", Name: "OIDC-okta-ann@example.com", ExpirationTime: &end},
		"minted":  {AccessorID: "2", Name: "OIDC-okta-bob@example.com"},
		"nobody":  {AccessorID: "3", Name: "OIDC-okta-", ExpirationTime: &end},
		"another": {AccessorID: "4", Name: "OIDC-other-ann", ExpirationTime: &end},
		"suffix":  {AccessorID: "5", Name: "<ann>", ExpirationTime: &end},
		"overlap": {AccessorID: "6", Name: "aba", ExpirationTime: &end},
	} {
		f.tokens[secret] = token
	}
	users := func() map[string]string {
		out := map[string]string{}
		for secret := range f.tokens {
			id, _, err := ids.ask(t.Context(), secret)
			must.NoError(t, err)
			for _, name := range id.Names {
				if user, ok := strings.CutPrefix(name, "user:"); ok {
					out[secret] = user
				}
			}
		}
		return out
	}
	must.MapLen(t, 0, users(), must.Sprint("without a rule nobody is a user"))
	ids.userTokens = []string{"OIDC-okta-*", "<*>", "ab*ba"}
	must.Eq(t, map[string]string{"login": "ann@example.com", "suffix": "ann"}, users())
}

func TestIdentify_manyAtOnceAskOnce(t *testing.T) {
	t.Parallel()
	f, ids, _ := newIdentityRig(t)
	gate := make(chan struct{})
	f.special = func(http.ResponseWriter, *http.Request) bool { <-gate; return false }
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			got, err := ids.identify(t.Context(), "root")
			must.NoError(t, err)
			must.EqOp(t, "boss", got.Accessor)
		})
	}
	close(gate)
	wait.Wait()
	must.Less(t, 20, len(f.seen))
}

func TestIdentify_forgetsTheOldestWhenFull(t *testing.T) {
	t.Parallel()
	_, ids, _ := newIdentityRig(t)
	for i := range rememberedMax + 10 {
		ids.who.store(sha256.Sum256([]byte(fmt.Sprint(i))), Identity{Accessor: fmt.Sprint(i)}, time.Unix(1001, 0))
	}
	must.MapLen(t, rememberedMax, ids.who.known)
	_, ok := ids.who.lookup(sha256.Sum256([]byte("0")))
	must.False(t, ok)
	got, ok := ids.who.lookup(sha256.Sum256([]byte(fmt.Sprint(rememberedMax + 9))))
	must.True(t, ok)
	must.EqOp(t, fmt.Sprint(rememberedMax+9), got.Accessor)
}

func TestGate_relaysNomadsAnswerToATokenItRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.acl = true
	for _, path := range []string{"/v1/jobs", "/v1/job/train/plan", "/v1/job/train/scale"} {
		a := r.do(t, "PUT", path, register(gpuJob), "X-Nomad-Token", "unknown")
		must.EqOp(t, http.StatusForbidden, a.status)
		must.EqOp(t, "Permission denied\n", a.body)
		must.EqOp(t, "", a.reason)
	}
	must.Len(t, 0, r.admitter.asked)
}

func TestGate_asksWithTheIdentityOfTheSubmitter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.nomad.acl = true
	r.nomad.tokens["s"] = api.ACLToken{AccessorID: "acc", Name: "alice", Type: "client"}
	for _, header := range [][]string{{"X-Nomad-Token", "s"}, {"Authorization", "Bearer s"}, nil} {
		a := r.do(t, "PUT", "/v1/jobs", `{"Job":`+gpuJob+`,"SecretID":"s"}`, header...)
		must.EqOp(t, http.StatusOK, a.status)
	}
	for _, s := range r.admitter.asked {
		must.Eq(t, Identity{Accessor: "acc", Names: []string{"token:alice"}}, s.Identity)
	}
	must.Len(t, 3, r.admitter.asked)
}
