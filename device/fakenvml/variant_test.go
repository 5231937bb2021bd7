package fakenvml_test

import (
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/shoenig/test/must"
)

// exported lists what a library exports.
func exported(t *testing.T, path string) []string {
	t.Helper()
	file, err := elf.Open(path)
	must.NoError(t, err)
	defer file.Close()
	soname, err := file.DynString(elf.DT_SONAME)
	must.NoError(t, err)
	must.Eq(t, []string{nvmlName}, soname)
	symbols, err := file.DynamicSymbols()
	must.NoError(t, err)
	var names []string
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF && elf.ST_BIND(s.Info) == elf.STB_GLOBAL {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}

const nvmlName = "libnvidia-ml.so.1"

func TestOldDriversLackWhatCameLater(t *testing.T) {
	newest := exported(t, filepath.Join(libraries, nvmlName))
	r535 := exported(t, filepath.Join(libraries, "r535", nvmlName))
	r470 := exported(t, filepath.Join(libraries, "r470", nvmlName))
	for _, name := range newest {
		must.StrHasPrefix(t, "nvml", name, must.Sprint("nothing but the interface is exported"))
	}
	missing := func(from, than []string) []string {
		var names []string
		for _, name := range than {
			if !slices.Contains(from, name) {
				names = append(names, name)
			}
		}
		return names
	}
	must.Len(t, 0, missing(newest, r535))
	must.Len(t, 0, missing(r535, r470))
	must.Eq(t, []string{
		"nvmlDeviceGetAddressingMode", "nvmlDeviceGetC2cModeInfoV", "nvmlDeviceGetGpuFabricInfoV", "nvmlDeviceGetJpgUtilization",
		"nvmlDeviceGetOfaUtilization", "nvmlDeviceGetPlatformInfo", "nvmlDeviceGetSramEccErrorStatus",
	}, missing(r535, newest))
	must.Eq(t, []string{
		"nvmlComputeInstanceGetInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetCurrentClocksEventReasons",
		"nvmlDeviceGetGpuFabricInfo", "nvmlDeviceGetGpuInstanceProfileInfoV", "nvmlDeviceGetGraphicsRunningProcesses_v3",
		"nvmlDeviceGetMPSComputeRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses_v3",
		"nvmlDeviceGetMemoryBusWidth", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetModuleId", "nvmlDeviceGetNumGpuCores",
		"nvmlDeviceGetNumaNodeId", "nvmlDeviceGetNvLinkRemoteDeviceType", "nvmlGpmMetricsGet", "nvmlGpmMigSampleGet",
		"nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlGpmSampleGet", "nvmlSystemGetConfComputeState",
	}, missing(r470, r535))
}

// A process is bound to the library that it loads first, so each old one is
// read in a process of its own: this test runs itself again.
func TestOldDriverAnswersWhatItKnew(t *testing.T) {
	const variable = "FAKENVML_TEST_VARIANT"
	if variant := os.Getenv(variable); variant != "" {
		readOld(t, variant)
		return
	}
	for _, variant := range []string{"r535", "r470"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestOldDriverAnswersWhatItKnew$", "-test.v")
		cmd.Env = append(os.Environ(), variable+"="+variant, builtLibraries+"="+libraries)
		out, err := cmd.CombinedOutput()
		must.NoError(t, err, must.Sprint(string(out)))
		must.StrContains(t, string(out), "--- PASS: TestOldDriverAnswersWhatItKnew")
	}
}

func readOld(t *testing.T, variant string) {
	n := openWith(t, "r470", filepath.Join(libraries, variant, nvmlName))
	gpu := n.gpu(t, 0)
	must.Eq(t, 16160<<20, ask(t, gpu.GetMemoryInfo).Total)
	must.Eq(t, 1, ask(t, gpu.GetCurrentClocksThrottleReasons))
	must.Len(t, 0, ask(t, gpu.GetComputeRunningProcesses))
	must.NoError(t, errors.Join(n.Number(0, "pcie_fatal", 3), n.LinkCounter(0, 1, "replay", 4), n.LinkCounter(0, 1, "data_tx", 5)))
	must.Eq(t, 5, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, 1))
	must.Eq(t, 4, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, 0))
	known := map[uint32]bool{nvml.FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT: variant == "r535", nvml.FI_DEV_NVLINK_ERROR_DL_REPLAY: variant == "r535",
		nvml.FI_DEV_PCIE_COUNT_FATAL_ERROR: variant == "r535", nvml.FI_DEV_GET_GPU_RECOVERY_ACTION: false}
	for id, want := range known {
		_, ret := field(t, gpu, id, 1)
		must.Eq(t, want, ret == nvml.SUCCESS, must.Sprintf("%s, field %d", variant, id))
	}
	must.Eq(t, variant == "r535", n.Extensions().LookupSymbol("nvmlDeviceGetMemoryInfo_v2") == nil)
}
