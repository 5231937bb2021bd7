// Package index finds, in a cluster of any size, the node and the GPUs of it that
// suit an ask best, in a fraction of a microsecond and without looking at nodes
// that do not.
//
// Nodes of one class (one topology, one pool) with the same free GPUs are
// equal but for CPU and memory, so they share a bucket. What k GPUs cost out
// of each set of free ones is tabulated (sets.Joint); for every k the sets that
// some node has are kept in the order of that cost, and the first whose nodes
// have the CPU and the memory is the answer: exactly what comparing all nodes
// would choose. Every tie has an end, so the order in which nodes came does not
// matter.
//
// It is pure: no I/O, no clock. It places whole GPUs of groups of up to
// sets.MaxGPUs; constraints are the business of whoever names the classes.
package index
