// Package ledger tests budgets at work on real servers: what ends running jobs,
// what waits and is released, what is lent and wanted back. All scenes of the
// package play on one cluster (Nomad, Consul, the agent, fake GPUs) and at the same
// time, each in a namespace and with a budget of its own.
package ledger
