package consulkv

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/nomad-governor/governor/quotaagent/ledger"
)

// classify marks a failed request as ledger.ErrUnavailable unless Consul
// refused it for good: whatever is not known to be a refusal may pass.
func classify(err error) error {
	var status api.StatusError
	if errors.As(err, &status) {
		switch {
		case status.Code == http.StatusForbidden:
			return fmt.Errorf("the token needs key:write below the prefix, and session:write: %w", err)
		case status.Code == http.StatusRequestEntityTooLarge:
			return fmt.Errorf("the commit is larger than this consul takes, split it or raise txn_max_req_len: %w", err)
		case status.Code == http.StatusTooManyRequests, status.Code == http.StatusRequestTimeout:
		case status.Code >= 400 && status.Code < 500:
			return err
		}
	}
	return fmt.Errorf("%w: %w", ledger.ErrUnavailable, err)
}

// verdict turns the errors of a rolled back transaction into one: a conflict
// only if each error is a failed comparison. A permission that is missing, or
// an error of Consul's own, must not look like a lost race that is worth trying
// again.
func verdict(ops api.TxnOps, errs api.TxnErrors) error {
	for _, e := range errs {
		if e.OpIndex < 0 || e.OpIndex >= len(ops) || !lost(ops[e.OpIndex].KV, e.What) {
			return refusal(errs)
		}
	}
	return fmt.Errorf("%w: %s", ledger.ErrConflict, errs[0].What)
}

// lost reports whether what says that the comparison of op did not hold.
// Consul gives no code, only the texts of agent/consul/state/{txn,kvs}.go; they
// are compared whole, key included, and the contract tests hold them against
// a real server.
func lost(op *api.KVTxnOp, what string) bool {
	switch op.Verb {
	case api.KVCAS:
		return what == fmt.Sprintf("failed to set key %q, index is stale", op.Key)
	case api.KVCheckNotExists:
		return what == fmt.Sprintf("key %q exists", op.Key)
	case api.KVCheckIndex:
		return what == fmt.Sprintf("failed to check index, key %q doesn't exist", op.Key) ||
			strings.HasPrefix(what, fmt.Sprintf("failed index check for key %q, current modify index ", op.Key))
	case api.KVCheckSession:
		return what == fmt.Sprintf("failed to check session, key %q doesn't exist", op.Key) ||
			strings.HasPrefix(what, fmt.Sprintf("failed session check for key %q, current session ", op.Key))
	case api.KVSet, api.KVDelete, api.KVDeleteCAS, api.KVDeleteTree, api.KVLock, api.KVUnlock,
		api.KVGet, api.KVGetOrEmpty, api.KVGetTree:
		// They compare nothing, or we never send them.
	}
	return false
}

func refusal(errs api.TxnErrors) error {
	texts := make([]string, len(errs))
	for i, e := range errs {
		texts[i] = fmt.Sprintf("operation %d: %s", e.OpIndex, e.What)
	}
	return fmt.Errorf("consul refused the transaction: %s", strings.Join(texts, "; "))
}
