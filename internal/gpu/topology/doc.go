// Package topology is the link matrix of the GPUs of one device group: which
// pairs share NVLinks, how they reach each other over PCIe, and on which NUMA
// node each sits. The device plugin encodes it into one attribute; the
// placement service parses it back.
//
// GPUs are numbered in ascending order of their PCI bus ids, compared as
// strings in the sysfs form ("0000:3b:00.0"). Both sides know those ids, so the
// encoding carries no identifiers. Encode and Parse are inverses.
package topology
