package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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
	// BrokenFiles are those files, Faults what is wrong with them; nil when they are in
	// force.
	BrokenFiles []budgetspec.File
	Faults      []Fault
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
	chain    *auditChain
}

// newPolicyKeeper returns a keeper that has loaded nothing yet. chain records what
// is applied.
func newPolicyKeeper(store Store, now func() time.Time, logger hclog.Logger, chain *auditChain, onChange func()) *PolicyKeeper {
	k := &PolicyKeeper{store: store, now: now, logger: logger.Named("policy"), onChange: onChange, chain: chain}
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
	reachable := true
	for index := uint64(0); ctx.Err() == nil; {
		err := k.Load(ctx)
		if err == nil {
			index, err = k.store.Watch(ctx, policyPrefix, index)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && !reachable:
			k.logger.Info("policy store answers again")
		case err != nil && reachable: // once per outage, not per attempt
			k.logger.Warn("policy not read, the last one stays in force", "error", err)
		}
		if reachable = err == nil; !reachable {
			index = 0
			pause(ctx, time.Second)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
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
	before := *previous
	if !previous.Loaded && len(files) > 0 {
		if before, err = k.lastGood(ctx); err != nil {
			return err // a store that does not answer is no reason to forget the budgets
		}
	}
	if !diags.HasErrors() && len(files) > 0 {
		diags = append(diags, retroactions(files, budget.Retroactive(before.Policy, policy, k.now()))...)
	}
	next := &PolicyState{Policy: policy, Files: files, Revision: revision, Version: versionOf(records), Loaded: true, Since: k.now()}
	switch {
	case len(files) == 0:
		next.Policy = noPolicy()
	case diags.HasErrors():
		next.Policy, next.Files, next.Revision, next.Since = before.Policy, before.Files, before.Revision, before.Since
		next.Broken, next.BrokenFiles, next.Faults = renderDiagnostics(files, diags), files, faultsOf(diags)
	case policy.Revision != revision.Digest:
		next.Revision = Revision{Digest: policy.Revision, Author: actorKVEdit, Time: k.now()}
	}
	changed := previous.Policy.Revision != next.Policy.Revision || !previous.Loaded
	if !changed && next.Broken == "" {
		next.Since = previous.Since
	}
	k.state.Store(next)
	k.publish(ctx, previous, next, changed)
	if changed && next.Broken == "" && len(files) > 0 {
		k.keepHistory(ctx, before.Policy, next)
	}
	if changed && k.onChange != nil {
		k.onChange()
	}
	return nil
}

// retroactions are diagnostics of what would change prices in force.
func retroactions(files []budgetspec.File, found []budget.Retroaction) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, r := range found {
		d := &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Price in force would change", Detail: r.Text}
		if r.Gone {
			d.Detail = "It was at " + r.Source.String() + ": " + d.Detail
		} else {
			d.Subject = lineRange(files, r.Source)
		}
		diags = append(diags, d)
	}
	return diags
}

// Fault is one diagnostic of a policy file.
type Fault struct {
	// File and Line say where it is; "" and 0 where that cannot be told.
	File    string
	Line    int
	Warning bool
	Summary string
	Detail  string
}

func faultsOf(diags hcl.Diagnostics) []Fault {
	out := make([]Fault, 0, len(diags))
	for _, d := range diags {
		f := Fault{Warning: d.Severity == hcl.DiagWarning, Summary: d.Summary, Detail: d.Detail}
		if d.Subject != nil {
			f.File, f.Line = d.Subject.Filename, d.Subject.Start.Line
		}
		out = append(out, f)
	}
	return out
}

// lineRange is one line of a file; nil when there is none.
func lineRange(files []budgetspec.File, at budget.Source) *hcl.Range {
	for _, f := range files {
		if f.Name != at.File {
			continue
		}
		line, start := 1, 0
		for text := range bytes.Lines(f.Content) {
			if line == at.Line {
				text = bytes.TrimRight(text, "\r\n")
				return &hcl.Range{Filename: f.Name, Start: hcl.Pos{Line: line, Column: 1, Byte: start},
					End: hcl.Pos{Line: line, Column: len([]rune(string(text))) + 1, Byte: start + len(text)}}
			}
			line, start = line+1, start+len(text)
		}
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
		case name != "" && strings.HasSuffix(name, policySuffix):
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

// remembered is the policy last in force, as the store keeps it.
type remembered struct {
	Revision Revision          `json:"revision"`
	Files    []budgetspec.File `json:"files"`
}

// publish logs the change and writes status documents: for people who look at
// the store, and for an agent that starts while the store holds a broken policy.
// Failing to write them changes nothing now.
func (k *PolicyKeeper) publish(ctx context.Context, previous, next *PolicyState, changed bool) {
	if next.Broken != "" && next.Broken != previous.Broken {
		k.logger.Error("policy in the store is broken, keeping the last good one", "diagnostics", next.Broken)
	}
	if changed {
		k.logger.Info("policy in force", "revision", short(next.Policy.Revision), "author", next.Revision.Author, "files", len(next.Files))
	}
	if changed && next.Broken == "" {
		k.remember(ctx, next)
	}
	if changed || next.Broken != previous.Broken {
		status, err := json.MarshalIndent(map[string]any{
			"in_force": next.Policy.Revision, "author": next.Revision.Author, "broken": next.Broken != "", "diagnostics": clip(next.Broken),
		}, "", "  ")
		if err == nil {
			k.overwrite(ctx, statusKey, status)
		}
	}
}

// clip bounds diagnostics for a status document.
func clip(text string) string {
	const most = 64 << 10
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "\n(more follows: run `governor budget validate` on the files)\n"
}

func (k *PolicyKeeper) remember(ctx context.Context, s *PolicyState) {
	good, err := json.Marshal(remembered{Revision: s.Revision, Files: s.Files})
	if err != nil || len(good) > ledger.MaxValue {
		k.logger.Warn("policy is too large to be remembered: if it breaks and the agent restarts, there will be none", "bytes", len(good))
		return
	}
	k.overwrite(ctx, goodKey, good)
}

// overwrite writes a status document whatever is there.
func (k *PolicyKeeper) overwrite(ctx context.Context, key string, value []byte) {
	for range commitAttempts {
		records, err := k.store.Read(ctx, key)
		if err != nil {
			k.logger.Warn("status document not written", "key", key, "error", err)
			return
		}
		if bytes.Equal(records[0].Value, value) {
			return
		}
		err = k.store.Commit(ctx, ledger.Fence{}, []ledger.Write{{Key: key, Value: value, Version: records[0].Version}})
		if err == nil {
			return
		}
		if !errors.Is(err, ledger.ErrConflict) {
			k.logger.Warn("status document not written", "key", key, "error", err)
			return
		}
	}
}

// lastGood is the policy that was last in force, for an agent that starts while
// the store holds a broken one.
func (k *PolicyKeeper) lastGood(ctx context.Context) (PolicyState, error) {
	none := PolicyState{Policy: noPolicy(), Since: k.now()}
	records, err := k.store.Read(ctx, goodKey)
	if err != nil {
		return none, fmt.Errorf("read the last good policy: %w", err)
	}
	var good remembered
	if records[0].Version == 0 {
		return none, nil
	}
	if err := json.Unmarshal(records[0].Value, &good); err != nil {
		k.logger.Error("the last good policy cannot be read", "error", err)
	}
	if len(good.Files) == 0 {
		return none, nil
	}
	policy, diags := budgetspec.Parse(good.Files)
	if diags.HasErrors() {
		k.logger.Error("the last good policy was good for another release only", "diagnostics", renderDiagnostics(good.Files, diags))
		return none, nil
	}
	return PolicyState{Policy: policy, Files: good.Files, Revision: good.Revision, Since: k.now()}, nil
}

func short(digest string) string {
	if len(digest) > 12 {
		return digest[:12]
	}
	return digest
}
