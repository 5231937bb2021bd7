// Package metrics is what the agent shows to Prometheus: counters of what this
// process does, and gauges of what the ledger said when it was last read.
//
// A scrape reads nothing but memory. Labels are bounded: budgets, dimensions, GPU
// classes, windows, reasons, verdicts, causes and the like, never a job, an
// allocation or a user. Amounts are counted as integers and become floats, in
// Prometheus' base units, only when they are written.
package metrics
