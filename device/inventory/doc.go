// Package inventory turns what NVML said about a node's GPUs into what Nomad is
// told: device groups with attributes, the health of each device, and stats.
// It is pure: readings and events in, values out.
//
// The invariants it keeps: a GPU that was seen once is never forgotten, it
// becomes unhealthy with a reason; one GPU's failure changes no other GPU's
// entry; the same readings give the same groups, byte for byte and in the same
// order, whatever order NVML reported them in; a value that NVML did not give
// is absent, never zero; numbers that move are in the stats, never in the
// attributes, because a changed attribute makes Nomad register the node again.
package inventory
