// Package jobs holds the end-to-end tests of the files in jobs/: Governor runs on
// the Nomad that it governs, is updated through its own gate, and nobody who
// submits notices.
package jobs
