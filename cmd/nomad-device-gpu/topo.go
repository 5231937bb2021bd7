package main

import (
	"fmt"
	"io"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/internal/gpu/topology"
)

// topo prints the GPUs' connections.
func topo(o options, stdout, stderr io.Writer) int {
	inv, _, ok := read(o, stderr)
	if !ok {
		return 1
	}
	if len(inv.Devices) == 0 {
		fmt.Fprintln(stdout, "no GPUs")
		return 0
	}
	m := inv.Matrix()
	if m == nil {
		fmt.Fprintf(stderr, "%d GPUs are more than a topology of %d holds\n", len(inv.Devices), topology.MaxGPUs)
		return 1
	}
	topoTable(stdout, inv, m, "connections", func(i, j int) string {
		switch {
		case j >= m.Size():
			return m.NICPath(i, j-m.Size()).String()
		case m.Links(i, j) > 0:
			return fmt.Sprintf("NV%d", m.Links(i, j))
		}
		return m.Path(i, j).String()
	}, m.NICs())
	for n := range m.NICs() {
		nic := inv.NICs[n]
		fmt.Fprintf(stdout, "NIC%d    %s  %s  %s GB/s one way\n", n, nic.PCIBusID, nic.Name, gigabytes(m.NICMBps(n)))
	}
	fmt.Fprintln(stdout)
	topoTable(stdout, inv, m, "GB/s one way, as the links are rated", func(i, j int) string { return gigabytes(m.PeakMBps(i, j)) }, 0)
	fmt.Fprintln(stdout)
	topoTable(stdout, inv, m, "GB/s one way, as a collective (NCCL) sees it", func(i, j int) string { return gigabytes(m.EffectiveMBps(i, j)) }, 0)
	fmt.Fprint(stdout, `
NV#   # NVLinks bonded      PIX   one PCIe switch       PXB   several PCIe switches
PHB   one host bridge       NODE  one NUMA node         SYS   across NUMA nodes
`)
	for _, p := range inv.OneSided() {
		fmt.Fprintf(stdout, "\nwarning: GPU%d reports %d NVLinks to GPU%d, which reports %d back: counted as %d\n",
			p.A, p.FromA, p.B, p.FromB, min(p.FromA, p.FromB))
	}
	return 0
}

// gigabytes writes MB/s as GB/s with one digit; "?" for none known.
func gigabytes(mbps int) string {
	if mbps == 0 {
		return "?"
	}
	tenths := (mbps + 50) / 100
	return fmt.Sprintf("%d.%d", tenths/10, tenths%10)
}

// topoTable prints a cell for each pair of GPUs, and one for each GPU and NIC.
func topoTable(w io.Writer, inv inventory.Inventory, m *topology.Matrix, title string, cell func(i, j int) string, nics int) {
	fmt.Fprintln(w, title)
	fmt.Fprintf(w, "%-8s", "")
	for i := range inv.Devices {
		fmt.Fprintf(w, "%-7s", fmt.Sprintf("GPU%d", i))
	}
	for n := range nics {
		fmt.Fprintf(w, "%-7s", fmt.Sprintf("NIC%d", n))
	}
	fmt.Fprintln(w, "NUMA  PCI address   UUID")
	for i, d := range inv.Devices {
		fmt.Fprintf(w, "%-8s", fmt.Sprintf("GPU%d", i))
		for j := range len(inv.Devices) + nics {
			text := "X"
			if i != j {
				text = cell(i, j)
			}
			fmt.Fprintf(w, "%-7s", text)
		}
		node := "?"
		if m.NUMA(i) != topology.UnknownNUMA {
			node = fmt.Sprint(m.NUMA(i))
		}
		fmt.Fprintf(w, "%-6s%-14s%s\n", node, d.GPU.PCIBusID, d.GPU.UUID)
	}
}
