// Package enforce decides what becomes of running work: of budgets that are
// overdrawn, of allocations beyond their run time, of runs that are over, of
// GPUs that were lent and are wanted back, and of GPUs that nobody uses.
//
// Work is brought to an end in steps: the intention is stored in the hold
// (ledger.Ending), a signal asks for a checkpoint, and when the grace is over the
// job is stopped. Plan gives the next step of every hold from what is stored
// alone, so that a new leader goes on where the old one stopped, and a step that
// is repeated does nothing new. An ending whose cause has gone is cancelled.
//
// The package only computes. It never wants anything because something is not
// known: without a policy, a budget or a balance there is no action.
package enforce
