// Package history keeps the history of usage in one SQLite file: every entry that
// was ever posted, once, and sums of them by hour, day and month from which
// statements are made.
//
// # Writing
//
// An entry is a fact and does not change. It is written once for its Key: the same
// entry again is nothing, and another one with the same Key is kept beside it as a
// conflict and reported. The sums are changed in the transaction that writes the
// entry, so that they never say anything else than the entries; Rebuild makes them
// anew from any hour on. Transactions are durable when a call returns (WAL,
// synchronous=FULL): what was told to the ledger's outbox to be recorded may be
// dropped there.
//
// # Periods
//
// Days and months are those of the policy's zone. The finest sums are by its hours,
// which for zones that are half an hour away from others begin at half past: the
// hours of the ledger, so that a balance can be checked to the unit.
//
// # Replicas
//
// Each agent keeps a file of its own, and gets from the others what it lacks. Every
// process writes a log of its own, numbered from 1, into the file. A file knows a
// beginning of every log, and how far (Heads); whoever has less of one asks for what
// follows (Since) and takes it in (Absorb). An entry that two processes recorded,
// because a new leader records again what the old one may not have, is in both logs
// and once in the file.
//
// # Age
//
// Single entries are kept for a time (Prune); the sums are kept for good.
package history
