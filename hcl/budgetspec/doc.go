// Package budgetspec reads the budget language: HCL files that say which
// budgets there are, what a GPU is called and what it costs.
//
// Parse takes all files of a directory as one module and returns a
// budget.Policy, or every mistake it found, each with its place, the rule and
// what to do. Nothing is silently ignored: a name that the language does not
// know is an error with a suggestion.
//
// Values are expressions. Those that say what is allowed are computed when the
// policy is read; conditions are checked then, and evaluated for each job. All
// are evaluated in a bounded number of steps (machine.go), whatever they say.
//
// It is pure: bytes in, values out. A policy is hermetic (no files, no
// environment, no clock), so that every replica reads the same one.
package budgetspec
