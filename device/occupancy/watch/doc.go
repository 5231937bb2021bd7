// Package watch reads the kernel for package occupancy, gives grants, and keeps
// what must outlive the plugin: the key and the register of latest grants, in a
// directory that only the plugin's user can read. It starts no goroutines.
//
// A process's facts are read once and kept for as long as it lives and holds its
// device; who does not hold one is read again from time to time. So a look at a
// node where all is well reads one small file a process.
package watch
