// Package consulkv keeps ledger records in Consul's key-value store, for
// several agents that must agree. It is the only importer of consul/api.
//
// Every commit is one Consul transaction of compare-and-set operations, and a
// leader's commit also checks, in the same transaction, that its session still
// holds the lock: a deposed leader cannot write, however late it notices.
//
// Facts about Consul 1.22.5 relied on, each held by a test:
//   - a write of equal bytes and flags leaves ModifyIndex as it is (kvsSetTxn
//     in agent/consul/state/kvs.go), so each write stores the version it
//     replaces in the flags, which then always differ;
//   - delete-cas of a key that does not exist succeeds (kvsDeleteCASTxn), so a
//     delete is a check-index and a delete;
//   - reads leave out what the token may not read without an error, so that
//     answers are counted;
//   - the whole transaction, values in base64, may have 512 KiB by default
//     (txn_max_req_len), so that values above about 380 KiB are refused.
package consulkv
