// Package storetest is the contract of a ledger store as a test suite. Each
// store runs it from its own tests, so that the ledger may rely on the same
// behaviour whatever keeps its records.
package storetest
