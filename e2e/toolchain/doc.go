// Package toolchain finds or builds the pinned programs: the real Nomad and
// Consul that the end-to-end tests and the demo run, the linter, and programs
// around NVIDIA's generator of CDI specifications and around nfpm, which makes
// packages.
//
// A program comes from, in this order: the NOMAD_BIN or CONSUL_BIN environment
// variable (for the linter GOLANGCI_LINT_BIN), a suitable version in PATH, the cache. Building it into the cache
// uses the modules under e2e/tools, whose go.sum pins every byte that goes
// into the binary. Finding never builds: only Ensure does.
package toolchain
