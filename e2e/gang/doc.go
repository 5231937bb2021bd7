// Package gang tests on real servers that jobs which are gangs run with all their
// allocations or not at all, each with exactly the GPUs that were chosen for it: when
// several compete for the same nodes, and when a node dies.
package gang
