// Package place chooses, for each task group of a job, the exact GPUs to use on
// every node that could run it, and the node to prefer.
//
// On a node every subset of up to 16 GPUs is compared, by its links and by what the
// GPUs that stay free are worth to later jobs (sets.Joint): a set with a slower ring
// than the best one is taken only where that one is worth more to those. The
// node follows by the one policy of index.Standing. The same input gives the same
// output, whatever the order of nodes. Asks for GPUs of one device block are answered
// from an index of the snapshot, all others by comparing its nodes.
//
// Place never says no to work that is merely too early: when nothing fits now
// it pins nothing and Nomad queues the job. Explanation tells people what was
// chosen, why, and what was passed over.
package place
