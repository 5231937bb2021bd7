// Package injecttest builds stand-ins for a node with NVIDIA's driver, for tests: the
// driver's files in a directory, with libraries that are real shared objects
// under the names and SONAMEs that the driver gives them. Nothing in them runs.
package injecttest
