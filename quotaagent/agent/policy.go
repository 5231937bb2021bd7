package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"
	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// The keys beside the policy files.
const (
	revisionKey = policyPrefix + ".rev"
	goodKey     = statusPrefix + "policy-good"
	statusKey   = statusPrefix + "policy"
)

// Revision says who applied the policy files.
type Revision struct {
	// Digest of the files as applied; the files in the store differ from it after
	// a direct edit.
	Digest string `json:"digest"`
	Author string `json:"author,omitempty"`
	// Commit is the version-control revision the files came from.
	Commit string    `json:"commit,omitempty"`
	Time   time.Time `json:"time"`
}

// actorKVEdit is the author of an edit made directly in the store.
const actorKVEdit = "kv-edit"

// PolicyState is what the agent acts on and what it thinks of the store.
type PolicyState struct {
	// Policy in force; never nil. Without any budgets it denies.
	Policy *budget.Policy
	// Files of the policy in force.
	Files []budgetspec.File
	// Revision of the files now in the store.
	Revision Revision
	// Version names the state of the files in the store, direct edits included:
	// an apply must name the state it replaces.
	Version string
	// Broken holds the diagnostics of the files in the store when they are not
	// in force; empty when they are.
	Broken string
	// Loaded is false until the store was read once.
	Loaded bool
	Since  time.Time
}

// PolicyKeeper watches the budgets in the store. It serves the last good policy
// and writes diagnostics of broken files next to them.
type PolicyKeeper struct {
	store    Store
	logger   hclog.Logger
	now      func() time.Time
	state    atomic.Pointer[PolicyState]
	loads    sync.Mutex // one Load at a time
	onChange func()
}

// NewPolicyKeeper returns a keeper that has loaded nothing yet.
func NewPolicyKeeper(store Store, now func() time.Time, logger hclog.Logger, onChange func()) *PolicyKeeper {
	k := &PolicyKeeper{store: store, now: now, logger: logger.Named("policy"), onChange: onChange}
	k.state.Store(&PolicyState{Policy: noPolicy()})
	return k
}

// OnChange sets what runs after the policy in force changed. Call it before Run.
func (k *PolicyKeeper) OnChange(f func()) { k.onChange = f }

// noPolicy is in force while no budgets were applied: it denies every GPU job.
func noPolicy() *budget.Policy { return &budget.Policy{Location: time.UTC, Currency: "USD"} }

// State is the current state; treat it as read-only.
func (k *PolicyKeeper) State() *PolicyState { return k.state.Load() }

// Run loads the policy and follows the store until ctx ends.
func (k *PolicyKeeper) Run(ctx context.Context) {
	index := uint64(0)
	for ctx.Err() == nil {
		if err := k.Load(ctx); err != nil {
			k.logger.Warn("policy not read", "error", err)
			pause(ctx, time.Second)
			continue
		}
		next, err := k.store.Watch(ctx, policyPrefix, index)
		if err != nil {
			if ctx.Err() == nil {
				k.logger.Warn("policy not watched", "error", err)
			}
			pause(ctx, time.Second)
			continue
		}
		index = next
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Load reads the files once. Files that parse replace the policy in force;
// files that do not leave it, and their diagnostics are published.
func (k *PolicyKeeper) Load(ctx context.Context) error {
	k.loads.Lock()
	defer k.loads.Unlock()
	records, _, err := k.store.List(ctx, policyPrefix)
	if err != nil {
		return fmt.Errorf("read policy: %w", err)
	}
	files, revision := splitPolicy(records)
	policy, diags := budgetspec.Parse(files)
	previous := k.State()
	next := &PolicyState{Revision: revision, Version: versionOf(records), Loaded: true, Since: k.now()}
	switch {
	case len(files) == 0:
		next.Policy = noPolicy()
	case diags.HasErrors():
		next.Broken = renderDiagnostics(files, diags)
		next.Policy, next.Files, next.Revision, next.Since = previous.Policy, previous.Files, previous.Revision, previous.Since
		if !previous.Loaded {
			next.Policy, next.Files = k.lastGood(ctx, next.Policy)
		}
	default:
		next.Policy, next.Files = policy, files
	}
	if next.Broken == "" && len(files) > 0 && policy.Revision != revision.Digest {
		next.Revision = Revision{Digest: policy.Revision, Author: actorKVEdit, Time: k.now()}
	}
	changed := previous.Policy.Revision != next.Policy.Revision || !previous.Loaded
	k.state.Store(next)
	k.publish(ctx, previous, next, changed)
	if changed && k.onChange != nil {
		k.onChange()
	}
	return nil
}

// versionOf digests which version of which file is in the store.
func versionOf(records []ledger.Record) string {
	sum := sha256.New()
	for _, r := range records {
		fmt.Fprintf(sum, "%s\x00%d\x00", r.Key, r.Version)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// splitPolicy separates the files from the revision document.
func splitPolicy(records []ledger.Record) ([]budgetspec.File, Revision) {
	var files []budgetspec.File
	var revision Revision
	for _, r := range records {
		name := strings.TrimPrefix(r.Key, policyPrefix)
		switch {
		case r.Key == revisionKey:
			if json.Unmarshal(r.Value, &revision) != nil {
				revision = Revision{}
			}
		case name != "" && strings.HasSuffix(name, ".hcl"):
			files = append(files, budgetspec.File{Name: name, Content: r.Value})
		}
	}
	return files, revision
}

func renderDiagnostics(files []budgetspec.File, diags hcl.Diagnostics) string {
	var out bytes.Buffer
	_ = budgetspec.Render(&out, files, diags, false) // a buffer takes every write
	return out.String()
}

// publish logs the change and writes status documents for people who look at
// the store. They are informative: failing to write them changes nothing.
func (k *PolicyKeeper) publish(ctx context.Context, previous, next *PolicyState, changed bool) {
	if next.Broken != "" && next.Broken != previous.Broken {
		k.logger.Error("policy in the store is broken, keeping the last good one", "diagnostics", next.Broken)
	}
	if changed {
		k.logger.Info("policy in force", "revision", short(next.Policy.Revision), "author", next.Revision.Author, "files", len(next.Files))
		if good, err := json.Marshal(next.Files); err == nil && len(good) < ledger.MaxValue && len(next.Files) > 0 {
			k.overwrite(ctx, goodKey, good)
		}
	}
	if changed || next.Broken != previous.Broken {
		status, err := json.MarshalIndent(map[string]any{
			"in_force": next.Policy.Revision, "author": next.Revision.Author, "broken": next.Broken != "", "diagnostics": next.Broken,
		}, "", "  ")
		if err == nil {
			k.overwrite(ctx, statusKey, status)
		}
	}
}

// overwrite writes a status document whatever is there.
func (k *PolicyKeeper) overwrite(ctx context.Context, key string, value []byte) {
	for range commitAttempts {
		records, err := k.store.Read(ctx, key)
		if err != nil {
			return
		}
		if bytes.Equal(records[0].Value, value) {
			return
		}
		err = k.store.Commit(ctx, ledger.Fence{}, []ledger.Write{{Key: key, Value: value, Version: records[0].Version}})
		if !errors.Is(err, ledger.ErrConflict) {
			return
		}
	}
}

// lastGood is the policy that was last in force, for an agent that starts while
// the store holds a broken one.
func (k *PolicyKeeper) lastGood(ctx context.Context, fallback *budget.Policy) (*budget.Policy, []budgetspec.File) {
	records, err := k.store.Read(ctx, goodKey)
	if err != nil || records[0].Version == 0 {
		return fallback, nil
	}
	var files []budgetspec.File
	if json.Unmarshal(records[0].Value, &files) != nil {
		return fallback, nil
	}
	policy, diags := budgetspec.Parse(files)
	if diags.HasErrors() {
		return fallback, nil
	}
	return policy, files
}

func short(digest string) string {
	if len(digest) > 12 {
		return digest[:12]
	}
	return digest
}

// ErrPolicyChanged: the policy in the store is not the one the caller saw.
var ErrPolicyChanged = errors.New("the policy was changed by someone else since it was read")

// Apply replaces all policy files in one transaction. expected is the Version
// that the caller saw. Nothing is written unless everything is.
func (k *PolicyKeeper) Apply(ctx context.Context, files []budgetspec.File, expected, author, commit string) error {
	policy, diags := budgetspec.Parse(files)
	if diags.HasErrors() {
		return &DiagnosticsError{Text: renderDiagnostics(files, diags)}
	}
	records, _, err := k.store.List(ctx, policyPrefix)
	if err != nil {
		return fmt.Errorf("read policy: %w", err)
	}
	if versionOf(records) != expected {
		return ErrPolicyChanged
	}
	versions := make(map[string]uint64, len(records))
	for _, r := range records {
		versions[r.Key] = r.Version
	}
	revision, err := json.Marshal(Revision{Digest: policy.Revision, Author: author, Commit: commit, Time: k.now().UTC()})
	if err != nil {
		return fmt.Errorf("encode revision: %w", err)
	}
	writes := []ledger.Write{{Key: revisionKey, Value: revision, Version: versions[revisionKey]}}
	for _, f := range files {
		writes = append(writes, ledger.Write{Key: policyPrefix + f.Name, Value: f.Content, Version: versions[policyPrefix+f.Name]})
	}
	for _, r := range records {
		stale := !slices.ContainsFunc(files, func(f budgetspec.File) bool { return policyPrefix+f.Name == r.Key })
		if r.Key != revisionKey && stale {
			writes = append(writes, ledger.Write{Key: r.Key, Version: r.Version})
		}
	}
	if err := k.store.Commit(ctx, ledger.Fence{}, writes); err != nil {
		if errors.Is(err, ledger.ErrConflict) {
			return ErrPolicyChanged
		}
		return fmt.Errorf("write policy: %w", err)
	}
	return k.Load(ctx)
}

// DiagnosticsError carries the rendered diagnostics of files that do not parse.
type DiagnosticsError struct{ Text string }

// Error is the whole rendered text.
func (e *DiagnosticsError) Error() string { return e.Text }
