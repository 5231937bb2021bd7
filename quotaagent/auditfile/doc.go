// Package auditfile keeps audit records for good: in a file to which lines are
// only ever added. Each line is one record as JSON, so that the chain can be
// verified without Governor too: with jq and sha256sum.
package auditfile
