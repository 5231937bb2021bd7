// Package tidy checks the rules that keep this repository's shape: who may
// import what, what pure packages may not do, how long files and functions
// may be, what must be commented, and what texts must not contain.
//
// Each rule is a function from a parsed repository to findings, tested on
// small sources of its own; TestRepository runs them all on the real one. A
// rule that gets in the way of better code is changed here, with the reason,
// rather than worked around.
package tidy
