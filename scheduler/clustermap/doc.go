// Package clustermap shows a snapshot of the cluster to people and programs: every GPU
// with who holds it, how the GPUs of a node are connected, the best set of each size that
// is free now beside the best that an idle node would give, and how many allocations of
// each size there is room for.
//
// It is pure. The sets that it tells of are those with the best links (place.Placer.Best), which
// placement may leave to later jobs.
package clustermap
