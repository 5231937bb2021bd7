// Package agent is the quota agent's shell: it owns the lifecycle, the clock
// and every side effect around the pure packages.
//
// The Engine answers the gate (Admit) and settles what was admitted; any number
// of agents may do that at once, for every commit is a compare-and-set. The
// Meter runs only in the leader: it watches allocations, posts usage, renews
// leases and ends holds. The PolicyKeeper loads the budgets from the store and
// keeps the last good ones.
package agent
