// Package fleet chooses the node and the GPUs for one unit of work after
// another, whole GPUs or shares of one, so that few GPUs end up idle for want of
// CPU, of neighbours or of work small enough.
//
// It knows what work is typical for the cluster, and not what comes next. For a
// node it asks: if typical work came at random for a while, how much of the GPUs
// would still lie idle? It takes the node where the answer grows least, or shrinks
// most, with some weight on how well the work fits.
//
// The numbers behind it are the same for all clusters. The same state and ask
// give the same placement, whatever the order in which nodes were given: ties
// end in what the nodes have left and then in their ids. Work is never turned away
// while a node has room for it.
package fleet
