// Package release makes what a release consists of: both programs as archives and
// as packages for Debian and RPM, and SHA256SUMS.
//
// It keeps one promise: the same sources, tools and time give the same bytes.
// Nothing of the machine goes into them: not its paths, users, clock or caches.
package release
