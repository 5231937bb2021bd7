package gate

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/sync/singleflight"
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

// identitiesMax bounds the cache; the oldest entry makes room.
const identitiesMax = 4096

// identities remembers who a token is, by the token's hash.
type identities struct {
	nomad *client
	// userTokens are Config.UserTokens.
	userTokens []string
	keys       *keySet
	ttl        time.Duration
	now        func() time.Time
	group      singleflight.Group

	mu    sync.Mutex
	known map[[sha256.Size]byte]knownIdentity
	// order of insertion, for eviction.
	order [][sha256.Size]byte
}

type knownIdentity struct {
	identity Identity
	until    time.Time
}

func newIdentities(nomad *client, ttl time.Duration, now func() time.Time) *identities {
	return &identities{nomad: nomad, ttl: ttl, now: now, keys: &keySet{nomad: nomad, now: now}, known: map[[sha256.Size]byte]knownIdentity{}}
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
	hash := key(token)
	if id, ok := i.lookup(hash); ok {
		return id, nil
	}
	// The question outlives this request, because others may wait for it.
	done := i.group.DoChan(string(hash[:]), func() (any, error) {
		until := i.now().Add(i.ttl) // counted from before Nomad looks: never longer
		id, expires, err := i.ask(context.WithoutCancel(ctx), token)
		if err != nil {
			return nil, err
		}
		if !expires.IsZero() && expires.Before(until) {
			until = expires
		}
		i.store(hash, id, until)
		return id, nil
	})
	select {
	case <-ctx.Done():
		return Identity{}, fmt.Errorf("identify token: %w", ctx.Err())
	case result := <-done:
		if result.Err != nil {
			return Identity{}, result.Err
		}
		return clone(result.Val.(Identity)), nil
	}
}

func key(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }

func clone(id Identity) Identity {
	id.Names = slices.Clone(id.Names)
	if id.Workload != nil {
		w := *id.Workload
		id.Workload = &w
	}
	return id
}

func (i *identities) lookup(key [sha256.Size]byte) (Identity, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	k, ok := i.known[key]
	if !ok || !i.now().Before(k.until) {
		return Identity{}, false
	}
	return clone(k.identity), true
}

func (i *identities) store(key [sha256.Size]byte, id Identity, until time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.now().Before(until) {
		return
	}
	if _, ok := i.known[key]; !ok {
		if len(i.order) >= identitiesMax {
			delete(i.known, i.order[0])
			i.order = slices.Delete(i.order, 0, 1)
		}
		i.order = append(i.order, key)
	}
	i.known[key] = knownIdentity{identity: clone(id), until: until}
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
		names = append(names, "type:management")
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
