// Package cluster starts real Consul, real Nomad, the device plugin on the
// fake NVML, Docker and the governor agent, each as its own process with its own
// data directory and free ports, so that several clusters run side by side.
//
// It keeps one promise: what a Cluster started is gone when Close returns, and
// when the program that started it dies in any way, a watchdog cleans up in
// its place (see watchdog.sh). It only ever ends processes that carry the
// cluster's own marker in their environment, and only unmounts below the
// cluster's own directory.
//
// Nothing here knows about budgets or placement: package story does.
package cluster
