// Package story is what Governor promises, told as steps on a real cluster:
// each step does what a user would do, and compares what was expected with
// what was seen. `make demo` prints it; the end-to-end test fails on any
// difference. There is one telling for both, so the demo cannot promise more
// than the test holds.
//
// Steps run in order on one cluster and share its policy; each ends the jobs
// that it started.
package story
