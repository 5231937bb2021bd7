package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nomad-governor/governor/hcl/budgetspec"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// ErrPolicyChanged: the policy in the store is not the one the caller saw.
var ErrPolicyChanged = errors.New("the policy was changed by someone else since it was read")

// origin says where the files of an apply come from.
type origin struct {
	author string
	names  []string
	commit string
	// restored is the revision that they are taken from; 0 if they are new.
	restored int
}

// Apply replaces all policy files in one transaction. expected is the Version
// that the caller saw. Nothing is written unless everything is, and files that
// are gone from the policy go from the store.
func (k *PolicyKeeper) Apply(ctx context.Context, files []budgetspec.File, expected, author, commit string) error {
	return k.apply(ctx, files, expected, origin{author: author, commit: commit})
}

func (k *PolicyKeeper) apply(ctx context.Context, files []budgetspec.File, expected string, from origin) error {
	files, err := checkUpload(files)
	if err != nil {
		return err
	}
	policy, diags := budgetspec.Parse(files)
	if !diags.HasErrors() {
		diags = append(diags, retroactions(files, budget.Retroactive(k.State().Policy, policy, k.now()))...)
	}
	if diags.HasErrors() {
		return &DiagnosticsError{Text: renderDiagnostics(files, diags)}
	}
	if err := k.commitPolicy(ctx, files, policy, expected, from); err != nil {
		return err
	}
	if err := k.Load(ctx); err != nil {
		k.logger.Warn("policy applied, but not read back yet", "error", err)
	}
	return nil
}

// applied is the audit record of an apply; nr is its number in the history, 0
// where the history did not fit.
func (k *PolicyKeeper) applied(policy *budget.Policy, nr int, from origin) AuditEvent {
	text := fmt.Sprintf("%s applied policy revision %s", from.author, short(policy.Revision))
	if from.restored > 0 {
		text = fmt.Sprintf("%s rolled the policy back to revision %d", from.author, from.restored)
	}
	return AuditEvent{At: k.now(), Kind: "policy.applied", Actor: from.author, Names: from.names, Subject: revisionName(nr), Text: text}
}

// auditWrites are the writes of one audit record: the record and the chain's end.
const auditWrites = 2

// commitPolicy writes files, revision, history and the audit record in one commit.
// When the history does not fit, the keeper adds it.
func (k *PolicyKeeper) commitPolicy(ctx context.Context, files []budgetspec.File, policy *budget.Policy, expected string, from origin) error {
	for attempt := 0; ; attempt++ {
		records, _, err := k.store.List(ctx, policyPrefix)
		if err != nil {
			return fmt.Errorf("read policy: %w", err)
		}
		if versionOf(records) != expected {
			return ErrPolicyChanged
		}
		revision := Revision{Digest: policy.Revision, Author: from.author, Commit: from.commit, Time: k.now().UTC()}
		value, err := json.Marshal(revision)
		if err != nil {
			return fmt.Errorf("encode revision: %w", err)
		}
		writes := replacement(records, files, value)
		if len(writes)+auditWrites > ledger.MaxWrites {
			return &UploadError{fmt.Sprintf("this changes %d files in one transaction (new, replaced and removed), and at most %d fit; "+
				"put more budgets into one file", len(writes)-1, filesMax)}
		}
		past, err := k.past(ctx)
		if err != nil {
			return err
		}
		entry := newHistoryEntry(past, revision, budget.Compare(k.State().Policy, policy), from.restored)
		added := historyWrites(past, entry, files)
		if !fits(slices.Concat(writes, added)) {
			entry.Nr, added = 0, nil
		}
		err = k.chain.commit(ctx, ledger.Fence{}, append(writes, added...), k.applied(policy, entry.Nr, from))
		switch {
		case errors.Is(err, ledger.ErrConflict) && attempt < commitAttempts:
			continue // the policy, or only its history: the next round finds out
		case errors.Is(err, ledger.ErrConflict):
			return ErrPolicyChanged
		case err != nil:
			return fmt.Errorf("write policy: %w", err)
		}
		return nil
	}
}

// replacement is the writes that leave exactly these files. Files that are
// already there are written again, so that the commit fails when one of them was
// edited meanwhile.
func replacement(records []ledger.Record, files []budgetspec.File, revision []byte) []ledger.Write {
	versions := make(map[string]uint64, len(records))
	for _, r := range records {
		versions[r.Key] = r.Version
	}
	writes := []ledger.Write{{Key: revisionKey, Value: revision, Version: versions[revisionKey]}}
	stays := make(map[string]bool, len(files))
	for _, f := range files {
		key := policyPrefix + f.Name
		stays[key] = true
		writes = append(writes, ledger.Write{Key: key, Value: f.Content, Version: versions[key]})
	}
	for _, r := range records {
		if strings.HasSuffix(r.Key, policySuffix) && !stays[r.Key] {
			writes = append(writes, ledger.Write{Key: r.Key, Version: r.Version})
		}
	}
	return writes
}

// policySuffix is what the names of policy files end in. Other keys beside them
// are left alone.
const policySuffix = ".hcl"

// nameMax bounds the name of a policy file, in bytes.
const nameMax = 200

// filesMax bounds the files of a policy: beside them one commit has the revision
// and the audit record.
const filesMax = ledger.MaxWrites - 1 - auditWrites

// uploadMax bounds a policy, in bytes: it must fit into one transaction of
// Consul (512 KiB, in base64), and into the document that remembers it.
const uploadMax = 320 << 10

// checkUpload refuses what could not be stored as it is, and makes empty
// contents writable: to the store, nil means "delete".
func checkUpload(files []budgetspec.File) ([]budgetspec.File, error) {
	if len(files) > filesMax {
		return nil, &UploadError{fmt.Sprintf("the policy has %d files, and at most %d fit into one transaction; put more budgets into one file",
			len(files), filesMax)}
	}
	total, seen := 0, make(map[string]bool, len(files))
	out := make([]budgetspec.File, 0, len(files))
	for _, f := range files {
		if err := checkName(f.Name); err != nil {
			return nil, err
		}
		if seen[f.Name] {
			return nil, &UploadError{fmt.Sprintf("two files are named %q; all files of a policy share one directory", f.Name)}
		}
		seen[f.Name] = true
		total += len(f.Content)
		out = append(out, budgetspec.File{Name: f.Name, Content: append([]byte{}, f.Content...)})
	}
	if total > uploadMax {
		return nil, &UploadError{fmt.Sprintf("the policy has %d bytes, and at most %d fit into one transaction; shorten comments or split the installation", total, uploadMax)}
	}
	return out, nil
}

func checkName(name string) error {
	plain := func(r rune) bool { return unicode.IsPrint(r) && r != '/' && r != '\\' }
	switch {
	case !strings.HasSuffix(name, policySuffix) || name == policySuffix:
		return &UploadError{fmt.Sprintf("a policy file is named %.100q; its name must end in %s", name, policySuffix)}
	case len(name) > nameMax:
		return &UploadError{fmt.Sprintf("the file name %.40q... has %d bytes; at most %d are possible", name, len(name), nameMax)}
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) || strings.TrimSpace(name) != name:
		return &UploadError{fmt.Sprintf("a policy file is named %.100q; a name has no slashes, no outer spaces and only printable characters", name)}
	}
	return nil
}

// UploadError is about the files of an apply as such, not about their contents.
type UploadError struct{ Text string }

// Error says what is wrong and what to do.
func (e *UploadError) Error() string { return e.Text }

// DiagnosticsError carries the rendered diagnostics of files that do not parse.
type DiagnosticsError struct{ Text string }

// Error is the whole rendered text.
func (e *DiagnosticsError) Error() string { return e.Text }
