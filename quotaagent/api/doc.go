// Package api is Governor's own HTTP API, under /governor/v1/ on the gate's
// address, for the CLI and for scripts: a table of routes, who may call them,
// and how their answers and errors are written. The routes come from the agent.
//
// Answers are JSON, errors are {"error": "..."} with a text that says what was
// wrong and what to do, and an honest status: 400 for bad input, 403 for missing
// rights, 404 and 405 for what is not there, 409 for a lost race, 503 when the
// ledger cannot be reached. Bodies are bounded, and unknown fields refused.
package api
