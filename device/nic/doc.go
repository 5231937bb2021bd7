// Package nic reads from sysfs which NICs of the host carry RDMA, how fast they are, and
// how each GPU reaches them over PCIe. NVML says nothing about NICs.
package nic
