// Package sqlite keeps ledger records in one SQLite file, for a single agent
// without Consul: small installations, -dev and tests.
//
// It is not a shared database: several processes may open one file and stay
// correct (every write is a compare-and-set in a transaction), but they must
// run on one machine with a local file system.
//
// Invariant: a commit that returned nil survives power loss (write-ahead log,
// synchronous=FULL), and versions never repeat: all come from one counter that
// only grows, also when keys are deleted.
package sqlite
