// Package budget is the policy as the quota agent uses it: the tree of
// budgets with their limits, GPU classes, prices and calendar windows.
//
// It is what the budget language decodes into (hcl/budgetspec), already
// validated and resolved; nothing here does I/O or reads a clock. A Policy is
// immutable once built: share it freely, replace it whole.
package budget
