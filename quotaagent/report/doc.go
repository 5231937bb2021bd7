// Package report makes statements of usage: who used what, in which time, at what
// price. It is pure: package history sums the entries, and the statement is put
// together here. All amounts are whole numbers of the smallest units, so that the
// total of a statement is exactly the sum of its lines.
package report
