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
	// NameWorkload is a task that uses its workload identity.
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
	ttl   time.Duration
	now   func() time.Time
	group singleflight.Group

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
	return &identities{nomad: nomad, ttl: ttl, now: now, known: map[[sha256.Size]byte]knownIdentity{}}
}

// identify returns who has the token. When Nomad refuses the token the error
// is Nomad's own answer.
func (i *identities) identify(ctx context.Context, token string) (Identity, error) {
	hash := key(token)
	if id, ok := i.lookup(hash); ok {
		return id, nil
	}
	// The question outlives this request, because others may wait for it.
	done := i.group.DoChan(string(hash[:]), func() (any, error) {
		id, err := i.ask(context.WithoutCancel(ctx), token)
		if err == nil {
			i.store(hash, id)
		}
		return id, err
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

func (i *identities) store(key [sha256.Size]byte, id Identity) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.known[key]; !ok {
		if len(i.order) >= identitiesMax {
			delete(i.known, i.order[0])
			i.order = slices.Delete(i.order, 0, 1)
		}
		i.order = append(i.order, key)
	}
	i.known[key] = knownIdentity{identity: clone(id), until: i.now().Add(i.ttl)}
}

func (i *identities) ask(ctx context.Context, token string) (Identity, error) {
	a, err := i.nomad.get(ctx, "/v1/acl/token/self", nil, token)
	if err != nil {
		return Identity{}, err
	}
	switch {
	case a.status == http.StatusOK:
	case strings.Contains(string(a.body), "ACL support disabled"):
		return Identity{Names: []string{NameACLDisabled}}, nil
	case token == "" && (a.status == http.StatusForbidden || a.status == http.StatusNotFound):
		return Identity{Names: []string{NameAnonymous}}, nil
	case a.status == http.StatusNotFound:
		// Nomad has verified the token, but it is no ACL token.
		return Identity{Names: []string{NameWorkload}}, nil
	default:
		return Identity{}, a
	}
	var t api.ACLToken
	if err := json.Unmarshal(a.body, &t); err != nil {
		return Identity{}, fmt.Errorf("read token of nomad: %w", err)
	}
	switch {
	case t.AccessorID == accessorACLDisabled:
		return Identity{Names: []string{NameACLDisabled}}, nil
	case token == "":
		return Identity{Names: []string{NameAnonymous}}, nil
	}
	return Identity{Accessor: t.AccessorID, Names: tokenNames(&t)}, nil
}

// tokenNames lists what match rules may name, sorted and each once.
func tokenNames(t *api.ACLToken) []string {
	var names []string
	if t.Name != "" {
		names = append(names, "token:"+t.Name)
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
