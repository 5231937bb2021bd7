// Package audit chains the records of what was done to budgets, so that none can
// be changed, left out or put in later without being found.
//
// Each record names the hash of the one before it, and its own hash is over that
// and its own content. Who knows one hash of the chain can prove all records
// before it. The package is pure: where records are kept is others' business.
package audit
