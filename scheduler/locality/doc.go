// Package locality knows which state a job wants near its GPUs (model weights, KV
// caches), on which nodes it lies and how fast it is there, and how long a node would
// load before the job can start.
//
// It is pure: what is known and what time it is are arguments.
package locality
