// Package burn measures how fast budgets are used: it remembers what was posted when,
// and says how much that was over a time, and how that compares with the even rate at
// which a limit just lasts to the end of its period.
//
// It does not decide what is too fast. It takes the time as an argument and keeps no
// more than a bounded number of samples for each account.
package burn
