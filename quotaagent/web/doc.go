// Package web serves the pages that people look at: budgets, jobs with their decisions
// and placement, the cluster, decisions, audit and policy.
//
// Pages are rendered here, from templates and assets that are part of the binary, and work
// without JavaScript; a small script exchanges what has changed. Nothing is computed for
// them that the ledger, the reports or placement have not said: the package declares what
// it reads, cmd/governor fills that from the agent, and tests from a fake. It owns no
// goroutines: browsers ask again, and what many of them ask within a second is read once.
//
// A Nomad token that somebody signs in with is checked by Nomad, kept in a cookie that no
// script and no other site gets, and never in an address or a log. Jobs of namespaces that
// the token may not read are left out.
package web
