// Package promtooltest runs Prometheus' promtool for tests: what the agent shows, and
// the rules beside it, must be what Prometheus takes. `make promtool` installs it.
package promtooltest
