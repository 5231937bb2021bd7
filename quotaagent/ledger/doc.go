// Package ledger is the book of promises and usage: holds, what they charge to
// budgets, how they end, and the balances that follow.
//
// It is pure: it turns documents and facts into new documents and the writes
// that make them true; a store commits those writes atomically or not at all.
// Two invariants carry everything: a budget's held amount is the sum of what
// its open holds charge, and every allocation-millisecond of every GPU is
// posted exactly once, because the watermark moves in the same commit.
package ledger
