package request

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// LeaderKey is the key of the leader's lock. It belongs to the store: it can be
// neither read nor written as a record, and List leaves it out.
const LeaderKey = "leader"

// MaxReads is the most keys of one Read: all are read in one transaction, and
// Consul's documentation promises 64 operations.
const MaxReads = ledger.MaxWrites + 1

// MaxKey is the longest key in bytes. Neither store has such a limit; a key
// that long is a mistake.
const MaxKey = 1024

// CheckCommit returns an error when the writes of one commit break a rule of
// the stores, whatever they hold.
func CheckCommit(writes []ledger.Write) error {
	if len(writes) > ledger.MaxWrites {
		return fmt.Errorf("commit of %d writes: at most %d are possible, split it", len(writes), ledger.MaxWrites)
	}
	seen := make(map[string]bool, len(writes))
	for _, w := range writes {
		if err := checkKey(w.Key); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
		if seen[w.Key] {
			return fmt.Errorf("commit: key %q is written twice, merge the writes", w.Key)
		}
		seen[w.Key] = true
		if w.Check && w.Value != nil {
			return fmt.Errorf("commit: key %q is only to be checked and has a value: leave one of them out", w.Key)
		}
		if len(w.Value) > ledger.MaxValue {
			return fmt.Errorf("commit: value of key %q has %d bytes, at most %d are possible", w.Key, len(w.Value), ledger.MaxValue)
		}
	}
	return nil
}

// CheckRead returns an error when the keys of one read break a rule of the stores.
func CheckRead(keys []string) error {
	if len(keys) > MaxReads {
		return fmt.Errorf("read of %d keys: at most %d can be read as one consistent view", len(keys), MaxReads)
	}
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return fmt.Errorf("read: %w", err)
		}
	}
	return nil
}

// CheckPrefix returns an error when no legal key can begin with prefix. The
// empty prefix stands for all keys.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return checkText("prefix", prefix)
}

func checkKey(key string) error {
	if key == "" {
		return errors.New("a key is empty")
	}
	if key == LeaderKey {
		return fmt.Errorf("key %q is the leader's lock, not a record", key)
	}
	return checkText("key", key)
}

// checkText refuses what a store would take but give back changed, or take on
// some paths only: JSON turns broken UTF-8 into U+FFFD, Consul's client drops a
// leading slash, and its server refuses unprintable characters and outer spaces
// in the path of a list but not in a transaction.
func checkText(what, text string) error {
	if len(text) > MaxKey {
		return fmt.Errorf("%s %.40q... has %d bytes, at most %d are possible", what, text, len(text), MaxKey)
	}
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unprintable) {
		return fmt.Errorf("%s %q has characters that are not printable UTF-8", what, text)
	}
	if strings.HasPrefix(text, "/") {
		return fmt.Errorf("%s %q begins with a slash, leave it out", what, text)
	}
	if strings.Trim(text, " ") != text {
		return fmt.Errorf("%s %q begins or ends with a space", what, text)
	}
	return nil
}
