// Package certtest makes certificates for tests: authorities, and what they issue to
// servers and clients.
package certtest
