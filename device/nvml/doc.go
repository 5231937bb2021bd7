// Package nvml reads the GPUs of this machine through NVIDIA's management
// library. It is the only importer of go-nvml, and it is not a policy: it
// reports what the library said and what it did not.
//
// The library is loaded when it is first needed, not when the program starts,
// so that a machine without a driver runs the same binary. A function that a
// library lacks kills the process that calls it, so each one beyond the core is
// looked up before it is used, and a library without the core is refused. An
// error never outlives its cause: a closed or failed library is opened again on
// the next read.
//
// The Reader's reads are safe for concurrent use. A call into the library can
// hang, and a process keeps the library that it loaded first: device/worker runs
// the Reader in a process that can be ended, and Outdated says when it must be.
package nvml
