// Package forecast compares what was used lately with the GPUs that there are and with
// the limits of budgets, and says when they run out if it goes on like this: at the mean
// of whole days, or along the straight line through them. It knows nothing of plans,
// seasons or single jobs.
//
// It is pure: no I/O, no clock. Its numbers are whole, in the base units of the ledger;
// GPUs that are a mean are in thousandths.
package forecast
