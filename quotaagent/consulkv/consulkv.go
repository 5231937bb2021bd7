package consulkv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/quotaagent/ledger"
	"github.com/nomad-governor/governor/quotaagent/ledger/request"
)

// Config says which Consul to use. Empty fields fall back to Consul's own
// environment variables (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_CACERT and
// the others), and then to the defaults named here.
type Config struct {
	// Address is the HTTP API: "host:port" or a URL. Default 127.0.0.1:8500.
	Address string
	// Token is the ACL token. It needs key:write below Prefix and session:write.
	Token string
	// Datacenter that holds the records. Default: the agent's own.
	Datacenter string
	// Prefix of all keys, ended with a slash if it is not. Default "governor/".
	Prefix string
	// TLS settings; an https address or any of them set turns TLS on.
	TLS TLS
	// NewDialer makes what opens TLS connections with these settings, after those of the
	// environment were added; nil reads the files once, in New.
	NewDialer func(TLS) (Dial, error)
	// Timeout bounds every call except Watch and Lead. Default 5 s.
	Timeout time.Duration
	// SessionTTL is how long a leader that cannot reach Consul may believe that
	// it leads. Default, and Consul's own minimum, 10 s.
	SessionTTL time.Duration
}

// Dial opens a connection.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// TLS says how to speak TLS with Consul. The zero value leaves it to the address.
type TLS struct {
	CAFile     string // certificates to trust; empty: the system's
	CertFile   string // the client's certificate
	KeyFile    string // the key of CertFile
	ServerName string // the name to verify; empty: the address'
	SkipVerify bool   // trust any server: for trials only
}

const (
	defaultPrefix     = "governor/"
	defaultTimeout    = 5 * time.Second
	defaultSessionTTL = 10 * time.Second
	// maxIdleConns keeps concurrent commits from opening a connection each.
	// Consul allows 200 per client by default (http_max_conns_per_client).
	maxIdleConns = 64
)

// Store is a ledger store in Consul. All methods may be called concurrently.
type Store struct {
	client  *api.Client
	idle    func() // closes idle connections
	prefix  string
	timeout time.Duration
	ttl     time.Duration
	log     hclog.Logger
}

// New returns a store. It checks the configuration and does not connect.
func New(config Config, logger hclog.Logger) (*Store, error) {
	s := &Store{prefix: defaultPrefix, timeout: defaultTimeout, ttl: defaultSessionTTL, log: logger.Named("consulkv")}
	if config.Prefix != "" {
		s.prefix = strings.TrimSuffix(config.Prefix, "/") + "/"
	}
	if strings.HasPrefix(s.prefix, "/") {
		return nil, fmt.Errorf("consul prefix %q begins with a slash: Consul's keys do not, leave it out", config.Prefix)
	}
	if config.Timeout < 0 || config.SessionTTL < 0 {
		return nil, fmt.Errorf("consul timeout %v and session TTL %v must not be negative", config.Timeout, config.SessionTTL)
	}
	if config.Timeout > 0 {
		s.timeout = config.Timeout
	}
	if config.SessionTTL > 0 {
		s.ttl = config.SessionTTL
	}
	if err := s.connect(config); err != nil {
		return nil, fmt.Errorf("configure the consul client: %w", err)
	}
	return s, nil
}

// Close closes idle connections. End Lead and Watch first, through their contexts.
func (s *Store) Close() error {
	s.idle()
	return nil
}

// Read returns one record per key in the order of the keys, all from one
// consistent view, never stale. A key that does not exist has Version 0.
func (s *Store) Read(ctx context.Context, keys ...string) ([]ledger.Record, error) {
	if err := request.CheckRead(keys); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return []ledger.Record{}, nil
	}
	ops := make(api.TxnOps, len(keys))
	for i, key := range keys {
		ops[i] = kv(api.KVGetOrEmpty, s.prefix+key)
	}
	response, err := s.transact(ctx, ops)
	if err != nil {
		return nil, fmt.Errorf("read %d keys: %w", len(keys), err)
	}
	if len(response.Errors) > 0 {
		return nil, fmt.Errorf("read %d keys: %w", len(keys), refusal(response.Errors))
	}
	if len(response.Results) != len(keys) {
		return nil, fmt.Errorf("read %d keys: consul showed only %d: the token needs key:read below %q", len(keys), len(response.Results), s.prefix)
	}
	out := make([]ledger.Record, len(keys))
	for i, result := range response.Results {
		if result.KV == nil || result.KV.Key != s.prefix+keys[i] {
			return nil, fmt.Errorf("read %d keys: consul answered another key than %q", len(keys), s.prefix+keys[i])
		}
		out[i] = s.record(result.KV)
	}
	return out, nil
}

// List returns all records whose key begins with prefix, sorted by key, and
// the index from which to Watch the prefix.
func (s *Store) List(ctx context.Context, prefix string) ([]ledger.Record, uint64, error) {
	if err := request.CheckPrefix(prefix); err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	options := (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
	pairs, meta, err := s.client.KV().List(s.prefix+prefix, options)
	if err != nil {
		return nil, 0, fmt.Errorf("list %q: %w", prefix, classify(err))
	}
	if meta.ResultsFilteredByACLs {
		return nil, 0, fmt.Errorf("list %q: consul left records out: the token needs key:read below %q", prefix, s.prefix)
	}
	records := make([]ledger.Record, 0, len(pairs))
	for _, pair := range pairs { // Consul's tree is sorted by the bytes of the key
		if pair.Key != s.leaderKey() {
			records = append(records, s.record(pair))
		}
	}
	return records, max(meta.LastIndex, 1), nil
}

// record converts a pair. An empty value comes as nil, which would mean
// "delete" when the record is written back.
func (s *Store) record(pair *api.KVPair) ledger.Record {
	record := ledger.Record{Key: strings.TrimPrefix(pair.Key, s.prefix), Value: pair.Value, Version: pair.ModifyIndex}
	if record.Version != 0 && record.Value == nil {
		record.Value = []byte{}
	}
	return record
}

func (s *Store) leaderKey() string { return s.prefix + request.LeaderKey }

const (
	// watchMax is how long Watch blocks when nothing happens.
	watchMax = time.Minute
	// emptyPause bounds how often Watch returns for a prefix without keys: Consul
	// gives such a prefix the index of the whole store, which every write of
	// anyone advances.
	emptyPause = 250 * time.Millisecond
)

// Watch blocks until something under prefix may have changed after index, at
// most about a minute, and returns the index now. Index 0 returns at once. It
// returns 0 when Consul's index went backwards, as after a restored snapshot:
// List again. A return is a reason to List, not a promise of a change.
func (s *Store) Watch(ctx context.Context, prefix string, index uint64) (uint64, error) {
	if err := request.CheckPrefix(prefix); err != nil {
		return 0, err
	}
	// A blocking query for an index that Consul has not reached waits its whole
	// time, so a restored snapshot would go unseen. Looking first costs little.
	now, keys, err := s.look(ctx, prefix, index, 0)
	if err == nil && now == index {
		now, keys, err = s.look(ctx, prefix, index, watchMax)
	}
	if err != nil {
		return 0, fmt.Errorf("watch %q: %w", prefix, classify(err))
	}
	if keys == 0 && index != 0 {
		pause(ctx, emptyPause)
	}
	return now, nil
}

// look returns the index and the number of keys of prefix, waiting up to wait for one above index.
func (s *Store) look(ctx context.Context, prefix string, index uint64, wait time.Duration) (now uint64, count int, err error) {
	options := &api.QueryOptions{}
	if wait > 0 {
		options.WaitIndex, options.WaitTime = index, wait
	}
	// Consul adds up to a sixteenth to the wait, so that clients do not come back
	// all at once.
	ctx, cancel := context.WithTimeout(ctx, wait+wait/16+s.timeout)
	defer cancel()
	// Only the keys: their values would be sent for nothing.
	keys, meta, err := s.client.KV().Keys(s.prefix+prefix, "", options.WithContext(ctx))
	if err != nil {
		return 0, 0, err
	}
	return nextIndex(index, meta.LastIndex), len(keys), nil
}

// nextIndex applies the rules for blocking queries: an index that went
// backwards restarts the watch, and 0 would make the next query not block.
func nextIndex(index, now uint64) uint64 {
	if now < index {
		return 0
	}
	return max(now, 1)
}

// Commit makes all writes or none. It returns ledger.ErrConflict when a version
// differs or the fence is not the leader's, and ledger.ErrUnavailable when
// Consul cannot be reached or has no leader, both wrapped with the cause. After
// ErrUnavailable the writes may have happened.
func (s *Store) Commit(ctx context.Context, fence ledger.Fence, writes []ledger.Write) error {
	_, err := s.CommitVersion(ctx, fence, writes)
	return err
}

// CommitVersion is Commit and returns the version that every record now has
// which was written, so that it need not be read to be written again. It is 0
// when nothing was written.
func (s *Store) CommitVersion(ctx context.Context, fence ledger.Fence, writes []ledger.Write) (uint64, error) {
	if err := request.CheckCommit(writes); err != nil {
		return 0, err
	}
	ops := s.operations(fence, writes)
	if len(ops) == 0 {
		return 0, nil
	}
	response, err := s.transact(ctx, ops)
	if err != nil {
		return 0, fmt.Errorf("commit %d writes: %w", len(writes), err)
	}
	if len(response.Errors) > 0 {
		return 0, fmt.Errorf("commit %d writes: %w", len(writes), verdict(ops, response.Errors))
	}
	return written(ops, response.Results)
}

// written is the version of what a transaction wrote: Consul applies it at one
// index. It answers a set with the pair, and a check with the pair as it is.
func written(ops api.TxnOps, results api.TxnResults) (uint64, error) {
	sets := make(map[string]bool)
	for _, op := range ops {
		if op.KV.Verb == api.KVCAS {
			sets[op.KV.Key] = true
		}
	}
	version := uint64(0)
	for _, result := range results {
		if result.KV == nil || !sets[result.KV.Key] {
			continue
		}
		if version != 0 && result.KV.ModifyIndex != version {
			return 0, fmt.Errorf("consul answered indexes %d and %d for one transaction", version, result.KV.ModifyIndex)
		}
		version = result.KV.ModifyIndex
	}
	return version, nil
}

func (s *Store) operations(fence ledger.Fence, writes []ledger.Write) api.TxnOps {
	var ops api.TxnOps
	if fence != (ledger.Fence{}) {
		check := kv(api.KVCheckSession, s.leaderKey())
		check.KV.Session = fence.Session
		ops = append(ops, check)
	}
	for _, w := range writes {
		key := s.prefix + w.Key
		switch {
		case w.Check && w.Version != 0:
			check := kv(api.KVCheckIndex, key)
			check.KV.Index = w.Version
			ops = append(ops, check)
		case w.Value != nil:
			set := kv(api.KVCAS, key)
			set.KV.Value, set.KV.Index = w.Value, w.Version
			set.KV.Flags = w.Version // makes equal bytes a new version, see doc.go
			ops = append(ops, set)
		case w.Version == 0:
			ops = append(ops, kv(api.KVCheckNotExists, key))
		default:
			check := kv(api.KVCheckIndex, key)
			check.KV.Index = w.Version
			ops = append(ops, check, kv(api.KVDelete, key))
		}
	}
	return ops
}

func kv(verb api.KVOp, key string) *api.TxnOp {
	return &api.TxnOp{KV: &api.KVTxnOp{Verb: verb, Key: key}}
}

// transact runs one transaction. Errors of its operations are in the response.
func (s *Store) transact(ctx context.Context, ops api.TxnOps) (*api.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	// Consistency matters to transactions without a write, which Consul answers
	// like reads.
	options := (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
	ok, response, _, err := s.client.Txn().Txn(ops, options)
	if err != nil {
		return nil, classify(err)
	}
	if !ok && len(response.Errors) == 0 {
		return nil, errors.New("consul rolled the transaction back and gave no reason")
	}
	return response, nil
}
