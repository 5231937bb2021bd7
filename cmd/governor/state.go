package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/scheduler/cluster"
	"github.com/nomad-governor/governor/scheduler/locality"
)

// StateMeta is the job meta key by which a job names the state that it loads before it
// can start: "llama-3-70b=140GiB, kv-chat".
const StateMeta = "governor_state"

const (
	// statePrefix is where registered state is stored, by name and node.
	statePrefix = "state/"
	// stateTTL is for how long state is registered unless its registrar says, and
	// stateTTLMax for how long at most: what nobody renews is gone.
	stateTTL    = 24 * time.Hour
	stateTTLMax = 30 * 24 * time.Hour
	// stateMost bounds what is registered at the same time: anybody may.
	stateMost = 4096
	// stateRetries is how often a write is tried that others overtake.
	stateRetries = 5
)

// records is what a ledger's store is used for here.
type records interface {
	Read(ctx context.Context, keys ...string) ([]ledger.Record, error)
	List(ctx context.Context, prefix string) (records []ledger.Record, index uint64, err error)
	Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error
}

// assets are the state that somebody registered.
type assets struct {
	store records
	now   func() time.Time
	rates locality.Rates
}

func newAssets(store records, now func() time.Time, how agentconfig.Placement) *assets {
	fetch, disk, memory, _ := how.Rates() // the configuration is valid
	return &assets{store: store, now: now, rates: locality.Rates{Fetch: fetch, Disk: disk, Memory: memory}}
}

// all are those that count still, by name and node.
func (a *assets) all(ctx context.Context) ([]locality.Asset, error) {
	found, _, err := a.store.List(ctx, statePrefix)
	if err != nil {
		return nil, fmt.Errorf("read registered state: %w", err)
	}
	out := []locality.Asset{}
	for _, r := range found {
		var one locality.Asset
		if json.Unmarshal(r.Value, &one) == nil && one.Live(a.now()) {
			out = append(out, one)
		}
	}
	return out, nil
}

// put registers an asset, or takes it off the list with no value. What has run out in the
// meantime goes along.
func (a *assets) put(ctx context.Context, one locality.Asset, value []byte) error {
	key := statePrefix + one.Name + "/" + one.Node
	for range stateRetries {
		found, _, err := a.store.List(ctx, statePrefix)
		if err != nil {
			return fmt.Errorf("read registered state: %w", err)
		}
		write := ledger.Write{Key: key, Value: value}
		var writes []ledger.Write
		for _, r := range found {
			var old locality.Asset
			switch gone := json.Unmarshal(r.Value, &old) == nil && !old.Live(a.now()); {
			case r.Key == key:
				write.Version = r.Version
			case gone && len(writes) < ledger.MaxWrites-1:
				writes = append(writes, ledger.Write{Key: r.Key, Version: r.Version})
			}
		}
		if value != nil && write.Version == 0 && len(found)-len(writes) >= stateMost {
			return &api.Problem{Status: http.StatusInsufficientStorage, Text: fmt.Sprintf("%d pieces of state are registered, the most that are possible: forget some, or wait until some run out", stateMost)}
		}
		if value != nil || write.Version != 0 {
			writes = append(writes, write)
		}
		if len(writes) == 0 {
			return nil
		}
		if err = a.store.Commit(ctx, ledger.Fence{}, writes); err == nil || !errors.Is(err, ledger.ErrConflict) {
			return err
		}
	}
	return &api.Problem{Status: http.StatusConflict, Text: "others changed the registered state at the same time, again and again; try again"}
}

// loading is what every node would load for a job; nil for one that names no state.
func (a *assets) loading(ctx context.Context, meta map[string]string, s cluster.Snapshot) (map[string]cluster.Loading, string, error) {
	said, names := meta[StateMeta]
	if !names {
		return nil, "", nil
	}
	wants, err := locality.ParseWants(said)
	if err != nil {
		return nil, fmt.Sprintf("job meta %s is %.200q: %v", StateMeta, said, err), nil
	}
	known, err := a.all(ctx)
	if err != nil {
		return nil, "", err
	}
	for i := range s.Nodes {
		for _, volume := range s.Nodes[i].Volumes {
			known = append(known, locality.Asset{Name: volume, Node: s.Nodes[i].ID, Tier: locality.Disk})
		}
	}
	out, where := make(map[string]cluster.Loading, len(s.Nodes)), locality.Know(known, a.now())
	for i := range s.Nodes {
		l := where.Loading(wants, s.Nodes[i].ID, a.rates)
		out[s.Nodes[i].ID] = cluster.Loading{Takes: l.Takes, Text: l.String()}
	}
	return out, "", nil
}

// registration is the body of a request that registers state.
type registration struct {
	// Node is the name or the id of the node.
	Node string `json:"node"`
	// Size as "140GiB"; may be left out.
	Size string `json:"size,omitempty"`
	// Tier is gpu, memory or disk (default).
	Tier string `json:"tier,omitempty"`
	// TTL is for how long it counts, as "24h" (default); "720h" at most.
	TTL string `json:"ttl,omitempty"`
}

// registered is an asset for people: with the name of its node.
type registered struct {
	locality.Asset
	NodeName string `json:"node_name"`
}

func (p *placer) stateRoutes() []api.Route {
	return []api.Route{
		{Method: "GET", Path: "/governor/v1/state", Right: api.Read, Serve: p.serveState},
		{Method: "PUT", Path: "/governor/v1/state/{name...}", Right: api.Read, Serve: p.serveRegister},
		{Method: "DELETE", Path: "/governor/v1/state/{name...}", Right: api.Read, Serve: p.serveForget},
	}
}

func (p *placer) serveState(ctx context.Context, _ api.Call) (any, error) {
	all, err := p.assets.all(ctx)
	if err != nil {
		return nil, err
	}
	snapshot, err := p.state.Snapshot(ctx, planAge)
	if err != nil {
		return nil, fmt.Errorf("read cluster: %w", err)
	}
	out := make([]registered, len(all))
	for i, one := range all {
		out[i] = registered{Asset: one}
		if at := slices.IndexFunc(snapshot.Nodes, func(n cluster.Node) bool { return n.ID == one.Node }); at >= 0 {
			out[i].NodeName = snapshot.Nodes[at].Name
		}
	}
	return out, nil
}

func (p *placer) serveRegister(ctx context.Context, c api.Call) (any, error) {
	in, err := api.Decode[registration](c)
	if err != nil {
		return nil, err
	}
	one := locality.Asset{Name: c.Var("name"), Tier: locality.Disk}
	ttl := stateTTL
	if err = locality.CheckName(one.Name); err == nil && in.Tier != "" {
		one.Tier, err = locality.ParseTier(in.Tier)
	}
	if err == nil && in.Size != "" {
		one.Bytes, err = locality.ParseBytes(in.Size)
	}
	if err == nil && in.TTL != "" {
		if ttl, err = time.ParseDuration(in.TTL); err != nil || ttl < time.Second || ttl > stateTTLMax {
			err = fmt.Errorf("ttl is %.50q; it must be a time between 1s and %s", in.TTL, stateTTLMax)
		}
	}
	if err == nil {
		one.Node, err = p.nodeOf(ctx, in.Node)
	}
	if err != nil {
		return nil, asProblem(err)
	}
	one.UntilMS = p.now().Add(ttl).UnixMilli()
	value, err := json.Marshal(one)
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	return one, p.assets.put(ctx, one, value)
}

func (p *placer) serveForget(ctx context.Context, c api.Call) (any, error) {
	one := locality.Asset{Name: c.Var("name")}
	if err := locality.CheckName(one.Name); err != nil {
		return nil, asProblem(err)
	}
	all, err := p.assets.all(ctx)
	if err != nil {
		return nil, err
	}
	node := c.Query("node")
	at := slices.IndexFunc(all, func(a locality.Asset) bool { return a.Name == one.Name && a.Node == node })
	if at < 0 { // not by the id of a node that may be gone
		if node, err = p.nodeOf(ctx, node); err != nil {
			return nil, asProblem(err)
		}
		at = slices.IndexFunc(all, func(a locality.Asset) bool { return a.Name == one.Name && a.Node == node })
	}
	if at < 0 {
		return nil, &api.Problem{Status: http.StatusNotFound, Text: fmt.Sprintf("%s is not registered on node %s: see governor state list", one.Name, node)}
	}
	return all[at], p.assets.put(ctx, all[at], nil)
}

// nodeOf is the id of a node with GPUs, by its name or id.
func (p *placer) nodeOf(ctx context.Context, text string) (string, error) {
	snapshot, err := p.state.Snapshot(ctx, planAge)
	if err != nil {
		return "", fmt.Errorf("read cluster: %w", err)
	}
	var names []string
	for i := range snapshot.Nodes {
		n := &snapshot.Nodes[i]
		if n.ID == text || n.Name == text {
			return n.ID, nil
		}
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return "", &api.Problem{Status: http.StatusNotFound, Text: fmt.Sprintf("there is no node %.100q with GPUs: the names are %s", text, strings.Join(names, ", "))}
}

// asProblem blames the caller for an error, unless it has a status of its own.
func asProblem(err error) error {
	var known *api.Problem
	if errors.As(err, &known) {
		return err
	}
	return &api.Problem{Status: http.StatusBadRequest, Text: err.Error()}
}
