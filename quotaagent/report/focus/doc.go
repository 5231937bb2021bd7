// Package focus writes usage as cost and usage data of the FinOps Open Cost and Usage
// Specification (FOCUS) 1.2, a charge for each budget, job, GPU class and day.
//
// It is pure. BilledCost is what was posted to the balances, to the micro-unit: the sum
// of the column is the total of the usage report for the same time.
package focus
