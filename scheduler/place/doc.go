// Package place chooses, for each task group of a job, the exact GPUs to use on
// every node that could run it, and the node to prefer.
//
// The set of GPUs is the best there is, not a good one: for up to 16 GPUs in a
// group every subset is compared (Placer.Best). The node follows from the
// quality of its set, then from best fit. The same input gives the same output,
// whatever the order of nodes.
//
// Place never says no to work that is merely too early: when nothing fits now
// it pins nothing and Nomad queues the job. Explanation tells people what was
// chosen, why, and what was passed over.
package place
