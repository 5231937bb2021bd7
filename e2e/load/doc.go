// Package load sends many requests at once and tells how long they took, and runs
// nginx as a reverse proxy: the peer of the gate in its benchmarks.
package load
