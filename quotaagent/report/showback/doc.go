// Package showback makes the statement of one budget for a time: what it had used
// before, what was used and corrected in it, by whom and for what, what its limits
// allowed, what is held, lent and idle, and what is used since its beginning.
//
// It is pure, and counts in whole numbers of the smallest units: for every amount
//
//	Opening + Used + Corrected = Closing
//
// every grouping adds up to Used + Corrected, and of every limit the ceiling with what
// was added to it is what is used, held and left. So the closing of one statement is
// the opening of the next.
package showback
