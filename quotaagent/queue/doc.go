// Package queue orders the jobs that wait for budget and says which may start.
//
// The order comes from the budgets (first in first out, by priority, or by fair
// share), except that a job which has waited for long is not overtaken any more.
// In this order each job is given the earliest time at which it fits beside what
// runs and beside all jobs before it (conservative backfilling): a small job may
// start before a large one exactly when that delays nobody before it. The times
// follow from the worst case of what runs and from the ends of windows, so that
// they are approximate: jobs that end early make everything earlier.
//
// The package only computes. It neither holds nor starts anything: what it says
// may start is decided again, with fresh books, by whoever starts it.
package queue
