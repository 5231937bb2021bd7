// Package api is Governor's own HTTP API, under /governor/v1/ on the gate's
// address: status, holds and policy, for the CLI and for scripts.
//
// Answers are JSON. Errors are text that says what was wrong and what to do,
// with an honest status: 400 for bad input, 403 for missing rights, 409 for a
// lost race, 503 when the ledger cannot be reached.
package api
