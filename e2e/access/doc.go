// Package access tests, on real servers with ACLs on, who may use which budget
// and who may change them; and, on the same cluster, that the example jobs in
// jobs/examples run. The agent keeps its ledger in the embedded store here.
package access
