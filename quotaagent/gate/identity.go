package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/acl"
)

// Names of those whom no ACL token names.
const (
	// NameACLDisabled is everybody when Nomad runs without ACLs.
	NameACLDisabled = "acl:disabled"
	// NameAnonymous is a request without a token when ACLs are on.
	NameAnonymous = "anonymous"
	// NameWorkload is every task that uses its workload identity. Which one it is stands
	// beside it: "workload:<namespace>/<job>".
	NameWorkload = "workload"
)

// accessorACLDisabled is what Nomad answers, whatever the token, when ACLs are
// off (seen on 1.11.3; older versions answer with an error).
const accessorACLDisabled = "acls-disabled"

// nameManagement is among the names of who has a management token.
const nameManagement = "type:management"

// identities knows who a token is, and what it may do.
type identities struct {
	nomad *client
	// userTokens are Config.UserTokens.
	userTokens []string
	keys       *keySet
	now        func() time.Time

	who *remembered[Identity]
	may *remembered[acl.Rights]
}

func newIdentities(nomad *client, ttl time.Duration, now func() time.Time) *identities {
	return &identities{nomad: nomad, now: now, keys: &keySet{nomad: nomad, now: now},
		who: newRemembered[Identity](ttl, now), may: newRemembered[acl.Rights](ttl, now)}
}

// identify returns who sends a request: who has the token or, where Nomad runs
// without ACLs, whom the connection names. When Nomad refuses the token the error is
// Nomad's own answer.
func (i *identities) identify(ctx context.Context, token string) (Identity, error) {
	id, err := i.holder(ctx, token)
	if err != nil || !slices.Contains(id.Names, NameACLDisabled) {
		return id, err
	}
	return senderOf(ctx).named(id), nil
}

// holder returns who has the token.
func (i *identities) holder(ctx context.Context, token string) (Identity, error) {
	id, err := i.who.get(ctx, token, func(ctx context.Context) (Identity, time.Time, error) { return i.ask(ctx, token) })
	return clone(id), err
}

func clone(id Identity) Identity {
	id.Names = slices.Clone(id.Names)
	if id.Workload != nil {
		w := *id.Workload
		id.Workload = &w
	}
	return id
}

// ask has Nomad say who has the token, and until when that can be true at most; zero
// means that nobody has set an end.
func (i *identities) ask(ctx context.Context, token string) (Identity, time.Time, error) {
	a, err := i.nomad.get(ctx, "/v1/acl/token/self", nil, token)
	if err != nil {
		return Identity{}, time.Time{}, err
	}
	switch {
	case a.status == http.StatusOK:
	case strings.Contains(string(a.body), "ACL support disabled"):
		return Identity{Names: []string{NameACLDisabled}}, time.Time{}, nil
	case token == "" && (a.status == http.StatusForbidden || a.status == http.StatusNotFound):
		return Identity{Names: []string{NameAnonymous}}, time.Time{}, nil
	case a.status == http.StatusNotFound:
		// Nomad accepts the token, but it is no ACL token.
		return i.workload(ctx, token, a)
	default:
		return Identity{}, time.Time{}, a
	}
	var t api.ACLToken
	if err := json.Unmarshal(a.body, &t); err != nil {
		return Identity{}, time.Time{}, fmt.Errorf("read token of nomad: %w", err)
	}
	switch {
	case t.AccessorID == accessorACLDisabled:
		return Identity{Names: []string{NameACLDisabled}}, time.Time{}, nil
	case token == "":
		return Identity{Names: []string{NameAnonymous}}, time.Time{}, nil
	}
	var expires time.Time
	if t.ExpirationTime != nil {
		expires = *t.ExpirationTime
	}
	return Identity{Accessor: t.AccessorID, Names: i.tokenNames(&t)}, expires, nil
}

// tokenNames lists what match rules may name, sorted and each once.
func (i *identities) tokenNames(t *api.ACLToken) []string {
	var names []string
	if t.Name != "" {
		names = append(names, "token:"+t.Name)
	}
	if user := userOf(t, i.userTokens); user != "" {
		names = append(names, "user:"+user)
	}
	for _, r := range t.Roles {
		if r != nil {
			names = append(names, "role:"+r.Name)
		}
	}
	for _, p := range t.Policies {
		names = append(names, "policy:"+p)
	}
	if t.Type == "management" {
		names = append(names, nameManagement)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// userOf is the user to whom a login gave the token, by the form that its name has.
// Nomad does not say which tokens come from a login, but all of them end, and their
// names are as the auth method's token_name_format makes them.
func userOf(t *api.ACLToken, forms []string) string {
	if t.ExpirationTime == nil || t.ExpirationTime.IsZero() {
		return ""
	}
	for _, form := range forms {
		before, after, _ := strings.Cut(form, "*")
		user, ok := strings.CutPrefix(t.Name, before)
		if ok {
			user, ok = strings.CutSuffix(user, after)
		}
		if ok && user != "" {
			return user
		}
	}
	return ""
}
