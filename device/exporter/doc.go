// Package exporter serves the pages of package metrics to Prometheus. It is
// optional, and listens on the loopback address unless it is told otherwise:
// there is no authentication, and the page says which GPUs are in use.
//
// However many scrapers there are, the GPUs are sampled once a second at most
// and once at a time; scrapes share what was sampled. A scrape that waits too
// long, or comes when too many wait, is refused with 503.
package exporter
