// Package jobspec reads Nomad job documents: it parses the raw JSON of a
// submission without losing a byte of what it does not know, extracts what the
// job asks for in the worst case, and patches constraints and affinities into
// the raw document.
//
// It is pure: bytes and values in, bytes and values out.
package jobspec
