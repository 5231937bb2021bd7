// Package injection compares what device/inject gives to a task with what
// NVIDIA's container toolkit would, and its CDI specification with how the
// library of the container engines reads it.
package injection
