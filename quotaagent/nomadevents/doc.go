// Package nomadevents tells the quota agent what Nomad's allocations and jobs
// do: an event stream for speed, snapshots for truth.
//
// Nomad's event stream is lossy by design (a buffer of 100 raft entries by
// default, silent jumps, no event for garbage collection), so a stream only
// ever triggers work that a snapshot would also find.
package nomadevents
