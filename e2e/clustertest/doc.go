// Package clustertest starts clusters for tests: it ends them with the test
// and, when the test failed, keeps and shows the logs.
package clustertest
