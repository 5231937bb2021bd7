package simulate

import "github.com/nomad-governor/governor/internal/gpu/topology"

// machines are the machine types that are shipped: their GPUs as nomad-device-gpu
// publishes them, and the fixture of the fake NVML that each is tested against.
var machines = [...]struct{ name, fixture, device, topology string }{
	{"dgx-1v", "dgx1v", "nvidia/gpu/Tesla V100-SXM2-16GB", "1;8;25781;15760;d;0,0,0,0,1,1,1,1;1x1h2h2s0s0s0s2h1h0s2s0s0s2x0s0s1s0s0s0s0s1s1x1h2h2h1h2x"},
	{"dgx-2", "dgx2", "nvidia/gpu/Tesla V100-SXM3-32GB", "1;16;25781;15760;s;0,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1;6x6m6m6n6n6n6n6s6s6s6s6s6s6s6s6m6m6n6n6n6n6s6s6s6s6s6s6s6s6x6n6n6n6n6s6s6s6s6s6s6s6s6n6n6n6n6s6s6s6s6s6s6s6s6x6m6m6s6s6s6s6s6s6s6s6m6m6s6s6s6s6s6s6s6s6x6s6s6s6s6s6s6s6s6s6s6s6s6s6s6s6s6x6m6m6n6n6n6n6m6m6n6n6n6n6x6n6n6n6n6n6n6n6n6x6m6m6m6m6x"},
	{"dgx-a100", "dgxa100", "nvidia/gpu/NVIDIA A100-SXM4-40GB", "1;8;25000;31504;s;3,3,1,1,7,7,5,5;CmCsCsCsCsCsCsCsCsCsCsCsCsCmCsCsCsCsCsCsCsCsCmCsCsCsCsCm"},
	{"dgx-b200", "b200", "nvidia/gpu/NVIDIA B200", "1;8;53125;63008;s;0,0,0,0,1,1,1,1;InInInIsIsIsIsInInIsIsIsIsInIsIsIsIsIsIsIsIsInInInInInIn"},
	{"dgx-h100", "dgxh100", "nvidia/gpu/NVIDIA H100 80GB HBM3", "1;8;26562;63008;s;0,0,0,0,1,1,1,1;InInInIsIsIsIsInInIsIsIsIsInIsIsIsIsIsIsIsIsInInInInInIn"},
	{"dgx-h200", "dgxh200", "nvidia/gpu/NVIDIA H200", "1;8;26562;63008;s;0,0,0,0,1,1,1,1;InInInIsIsIsIsInInIsIsIsIsInIsIsIsIsIsIsIsIsInInInInInIn"},
	{"gb200-tray", "gb200-tray", "nvidia/gpu/NVIDIA GB200", "1;4;53125;63008;s;0,0,1,1;InIsIsIsIsIn"},
	{"h100-nvl", "h100-nvl", "nvidia/gpu/NVIDIA H100 NVL", "1;4;26562;63008;d;0,0,1,1;Cn0s0s0s0sCn"},
	{"hgx-a100-4", "hgxa100-4", "nvidia/gpu/NVIDIA A100-SXM4-80GB", "1;4;25000;31504;d;0,1,2,3;4s4s4s4s4s4s"},
	{"hgx-h100-4", "hgxh100-4", "nvidia/gpu/NVIDIA H100 80GB HBM3", "1;4;26562;63008;d;3,1,7,5;6s6s6s6s6s6s"},
	{"pcie-a40-8", "pcie-box-8", "nvidia/gpu/NVIDIA A40", "1;8;0;31504;d;0,0,0,0,1,1,1,1;0x0m0m0s0s0s0s0m0m0s0s0s0s0x0s0s0s0s0s0s0s0s0x0m0m0m0m0x"},
	{"pcie-l40s-4", "l40s-x4", "nvidia/gpu/NVIDIA L40S", "1;4;0;31504;d;0,0,1,1;0n0s0s0s0s0n"},
}

// Machines are the names of the machine types, sorted.
func Machines() []string {
	names := make([]string, len(machines))
	for i := range machines {
		names[i] = machines[i].name
	}
	return names
}

// machine is the class of a machine type.
func machine(name string) (Class, bool) {
	for i := range machines {
		m := &machines[i]
		if m.name != name {
			continue
		}
		matrix, err := topology.Parse(m.topology)
		if err != nil {
			panic("simulate: " + err.Error()) // it is tested
		}
		return Class{Name: name, Device: m.device, Topology: matrix, GPUs: matrix.Size()}, true
	}
	return Class{}, false
}
