// Package admission decides whether a job's worst case fits its budget.
//
// Need turns an ask into what the ledger must hold; Decide checks that against
// every ancestor, dimension and window and answers with a Decision: an outcome,
// one dominant reason, the arithmetic of every check and the place where the
// binding limit is set. A refusal is a Decision, never an error.
//
// It is pure: policy, balances and the time are arguments. Estimate, plan and
// admission call the same functions, so they cannot disagree.
package admission
