// Package quantity holds the integer types in which Governor counts: amounts
// of any dimension, limits with an explicit "unlimited", and exact prices.
//
// It keeps one invariant: no arithmetic here wraps around and none uses
// floating point. Sums saturate at the ends of int64, so an overflow can only
// make a check stricter, never let work through.
package quantity
