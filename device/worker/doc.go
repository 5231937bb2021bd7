// Package worker keeps NVML in a process of its own. The plugin's process, the
// supervisor, never loads the driver's library: a library that crashes, hangs,
// lacks a function or belongs to another driver takes only the worker with it.
//
// The worker is the same program, started again, and answers requests over two
// pipes: frames of bounded size, each with one JSON document. Several requests
// may be under way, because waiting for an XID must not delay a health check;
// each has a deadline. What breaks a rule (a deadline, a frame, the process) ends the
// worker, and the next Read after that says why. Later ones start a new worker,
// at most once per back-off; a worker that only finds its library replaced is
// exchanged within the same call.
//
// There is never more than one worker: one that the kernel cannot end yet is
// waited for before another starts. A worker ends with its supervisor, by the
// end of its request pipe and, on Linux, by the parent-death signal.
package worker
