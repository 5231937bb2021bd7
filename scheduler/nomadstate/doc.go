// Package nomadstate reads the cluster from Nomad: nodes with GPUs, their
// topology, and which allocation holds which GPU.
//
// A GPU is taken until the client reports its allocation complete, failed or
// lost, because that is when Nomad gives it out again; wanting an allocation to
// stop is not enough. What cannot be read about one node becomes a warning in the
// snapshot and never stops placement on the others.
package nomadstate
