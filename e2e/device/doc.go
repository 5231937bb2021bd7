// Package device tests the device plugin on real Nomad clients: what becomes of
// the node and of its jobs when GPUs, the driver or the process that reads it
// fail, and what tasks receive. The GPUs are the fake NVML's; everything else is
// what ships.
package device
