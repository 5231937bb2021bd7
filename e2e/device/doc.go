// Package device tests the device plugin on real Nomad clients: what it offers by
// its configuration, what becomes of the node and of its jobs when GPUs, the
// driver or the process that reads it fail, what tasks receive, and what
// statistics and metrics say, also of those who use GPUs without holding them.
// The GPUs are the fake NVML's; everything else is what ships.
package device
