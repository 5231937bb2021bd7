// Package metrics writes what is known of a node's GPUs as a page for
// Prometheus, in its text format 0.0.4. It is pure: a snapshot in, a page out;
// package exporter above serves it.
//
// Two families of names. DCGM_FI_* have the names, types, units and labels that
// NVIDIA's dcgm-exporter gives them, so that dashboards made for that one work
// (Grafana's 12239 is one). governor_gpu_* say what DCGM does not: what Nomad
// offers, health, and who uses a GPU without holding it.
//
// What it keeps true: a value that is not in the snapshot is not on the page,
// never 0; the same snapshot gives the same page; no two series are the same;
// and what labels can say is bounded: devices and profiles of this node, XIDs,
// and fixed lists of words. Nothing that a task chooses becomes a label.
//
// Where it differs from dcgm-exporter: what belongs to a whole GPU in MIG mode
// (power, temperature) is there once, without GPU_I_ID, and not once an
// instance; instances have GPU_CI_ID besides, because two can share a GPU
// instance.
package metrics
