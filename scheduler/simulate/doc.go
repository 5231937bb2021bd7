// Package simulate replays a trace of jobs on a cluster that may not exist: with more
// nodes, without some, or under another policy. It is a discrete-event simulation, of
// what arrives and what ends; jobs wait in the order of their arrival, and the first of
// them may be overtaken by those that fit. All times are whole milliseconds and every
// tie has an end, so that the same input gives the same output, bit for bit.
//
// It is pure: no I/O, no clock. It knows whole GPUs, CPU, memory and limits of GPUs at
// once; it knows no prices, no budgets' periods, no preemption, and takes the length of
// a job to be the same wherever it runs.
package simulate
