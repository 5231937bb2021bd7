package fakenvml_test

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/fakenvml/control"
)

// field asks for one field value, in a batch as readers do.
func field(t *testing.T, gpu nvml.Device, id, scope uint32) (uint64, nvml.Return) {
	t.Helper()
	values := []nvml.FieldValue{{FieldId: nvml.FI_DEV_TOTAL_ENERGY_CONSUMPTION}, {FieldId: id, ScopeId: scope}}
	must.Eq(t, nvml.SUCCESS, gpu.GetFieldValues(values))
	must.Positive(t, values[1].Timestamp)
	raw := binary.NativeEndian.Uint64(values[1].Value[:])
	switch nvml.ValueType(values[1].ValueType) {
	case nvml.VALUE_TYPE_UNSIGNED_INT:
		must.Zero(t, raw>>32)
	case nvml.VALUE_TYPE_UNSIGNED_LONG_LONG:
	default:
		t.Fatalf("field %d has type %d", id, values[1].ValueType)
	}
	return raw, nvml.Return(values[1].NvmlReturn)
}

// fieldValue is a field value that must be there.
func fieldValue(t *testing.T, gpu nvml.Device, id, scope uint32) uint64 {
	t.Helper()
	value, ret := field(t, gpu, id, scope)
	must.Eq(t, nvml.SUCCESS, ret, must.Sprintf("field %d", id))
	return value
}

const allLinks = math.MaxUint32

func TestLinkCountersAreOfOneLinkOrOfAll(t *testing.T) {
	n := open(t, "dgxh200")
	gpu := n.gpu(t, 1)
	must.NoError(t, errors.Join(
		n.LinkCounter(1, control.AllLinks, "data_tx", 10), n.LinkCounter(1, 3, "data_tx", 5000), n.LinkCounter(1, 4, "raw_rx", 7),
		n.LinkCounter(1, 3, "replay", 2), n.LinkCounter(1, 3, "recovery", 3), n.LinkCounter(1, 3, "crc_flit", 4)))
	must.Eq(t, 5000, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, 3))
	must.Eq(t, 17*10+5000, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, allLinks))
	must.Eq(t, 0, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX, allLinks))
	must.Eq(t, 7, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_THROUGHPUT_RAW_RX, allLinks))
	must.Eq(t, 0, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_THROUGHPUT_RAW_TX, allLinks))
	must.Eq(t, []uint64{2, 3, 4}, []uint64{
		fieldValue(t, gpu, nvml.FI_DEV_NVLINK_ERROR_DL_REPLAY, 3), fieldValue(t, gpu, nvml.FI_DEV_NVLINK_ERROR_DL_RECOVERY, 3),
		fieldValue(t, gpu, nvml.FI_DEV_NVLINK_ERROR_DL_CRC, 3)})
	counter := func(link int, which nvml.NvLinkErrorCounter) (uint64, nvml.Return) {
		return gpu.GetNvLinkErrorCounter(link, which)
	}
	replays, ret := counter(3, nvml.NVLINK_ERROR_DL_REPLAY)
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, 2, replays)
	_, ret = counter(3, nvml.NVLINK_ERROR_DL_ECC_DATA)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret, must.Sprint("not in the fixture"))
	for _, scope := range []uint32{18, 36, allLinks} {
		_, ret := field(t, gpu, nvml.FI_DEV_NVLINK_ERROR_DL_REPLAY, scope)
		must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret, must.Sprint("not one of its links"))
	}
	must.Eq(t, 2, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, 0))
}

func TestFifthGenerationCountsOtherThings(t *testing.T) {
	n := open(t, "b200")
	gpu := n.gpu(t, 0)
	must.NoError(t, errors.Join(n.LinkCounter(0, 2, "sent_bytes", 1<<40), n.LinkCounter(0, 2, "receive_errors", 6), n.LinkCounter(0, 2, "recovery_failed", 1)))
	must.Eq(t, 1<<40, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_COUNT_XMIT_BYTES, 2))
	must.Eq(t, 6, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_COUNT_RCV_ERRORS, 2))
	must.Eq(t, 1, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS, 2))
	for _, id := range []uint32{201, 203, 204, 206, 207, 209, 210, 211, 212, 213, 215, 219, 221} {
		must.Eq(t, 0, fieldValue(t, gpu, id, 2))
	}
	for _, id := range []uint32{nvml.FI_DEV_NVLINK_ERROR_DL_REPLAY, nvml.FI_DEV_NVLINK_ERROR_DL_CRC, nvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, 205} {
		_, ret := field(t, gpu, id, 2)
		must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	}
}

func TestFieldsOfLinks(t *testing.T) {
	n := open(t, "dgxh200")
	gpu := n.gpu(t, 0)
	must.NoError(t, n.LinkDown(0, 5))
	must.Eq(t, 18, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_LINK_COUNT, 0))
	must.Eq(t, 17, fieldValue(t, gpu, nvml.FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT, 0))
	must.Eq(t, 26562, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_SPEED_MBPS_COMMON, 0))
	for link, want := range map[uint32]nvml.Return{4: nvml.SUCCESS, 5: nvml.ERROR_NOT_SUPPORTED, 18: nvml.ERROR_NOT_SUPPORTED} {
		_, ret := field(t, gpu, nvml.FI_DEV_NVLINK_GET_SPEED, link)
		must.Eq(t, want, ret)
	}
	must.Eq(t, 26562, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_SPEED_MBPS_L7, 0))
	must.Eq(t, []uint64{1, 0}, []uint64{fieldValue(t, gpu, nvml.FI_DEV_NVLINK_GET_STATE, 4), fieldValue(t, gpu, nvml.FI_DEV_NVLINK_GET_STATE, 5)})
	must.Eq(t, 6, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_GET_VERSION, 4))
	capability, ret := gpu.GetNvLinkCapability(4, nvml.NVLINK_CAP_P2P_SUPPORTED)
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, 1, capability)
	_, ret = gpu.GetNvLinkCapability(18, nvml.NVLINK_CAP_P2P_SUPPORTED)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
}

func TestFieldsOfTheGPU(t *testing.T) {
	n := open(t, "dgxh200")
	gpu := n.gpu(t, 2)
	for id, key := range map[uint32]string{
		nvml.FI_DEV_MEMORY_TEMP: "temperature_memory", nvml.FI_DEV_TOTAL_ENERGY_CONSUMPTION: "energy",
		nvml.FI_DEV_PCIE_REPLAY_COUNTER: "pcie_replay", nvml.FI_DEV_REMAPPED_COR: "remap_correctable",
		nvml.FI_DEV_REMAPPED_UNC: "remap_uncorrectable", nvml.FI_DEV_REMAPPED_PENDING: "remap_pending",
		nvml.FI_DEV_REMAPPED_FAILURE: "remap_failure", nvml.FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS: "pcie_correctable",
		nvml.FI_DEV_PCIE_COUNT_NAKS_RECEIVED: "pcie_naks_received", nvml.FI_DEV_PCIE_COUNT_RECEIVER_ERROR: "pcie_receiver",
		nvml.FI_DEV_PCIE_COUNT_BAD_TLP: "pcie_bad_tlp", nvml.FI_DEV_PCIE_COUNT_NAKS_SENT: "pcie_naks_sent",
		nvml.FI_DEV_PCIE_COUNT_BAD_DLLP: "pcie_bad_dllp", nvml.FI_DEV_PCIE_COUNT_NON_FATAL_ERROR: "pcie_nonfatal",
		nvml.FI_DEV_PCIE_COUNT_FATAL_ERROR: "pcie_fatal", nvml.FI_DEV_PCIE_COUNT_UNSUPPORTED_REQ: "pcie_unsupported",
		nvml.FI_DEV_PCIE_COUNT_LCRC_ERROR: "pcie_lcrc", nvml.FI_DEV_PCIE_COUNT_LANE_ERROR: "pcie_lane",
		nvml.FI_DEV_PCIE_COUNT_TX_BYTES: "pcie_tx_bytes", nvml.FI_DEV_PCIE_COUNT_RX_BYTES: "pcie_rx_bytes",
		nvml.FI_DEV_GET_GPU_RECOVERY_ACTION: "recovery_action", nvml.FI_DEV_C2C_LINK_COUNT: "c2c_links",
		nvml.FI_DEV_RETIRED_SBE: "retired_sbe", nvml.FI_DEV_RETIRED_DBE: "retired_dbe", nvml.FI_DEV_RETIRED_PENDING: "retired_pending",
	} {
		must.NoError(t, n.Number(2, key, int64(id)+1000))
		must.Eq(t, uint64(id)+1000, fieldValue(t, gpu, id, 0), must.Sprint(key))
		must.NoError(t, n.NotSupported(2, key))
		_, ret := field(t, gpu, id, 0)
		must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret, must.Sprint(key))
	}
	must.NoError(t, n.Number(2, "pcie_tx_bytes", 1<<33|7))
	must.Eq(t, 7, fieldValue(t, gpu, nvml.FI_DEV_PCIE_COUNT_TX_BYTES, 0), must.Sprint("it wraps"))
	_, ret := field(t, gpu, 100000, 0)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
}

func TestRowRemapperDoesNotAnswerWithMIGInstances(t *testing.T) {
	n := open(t, "mig-h100")
	_, ret := field(t, n.gpu(t, 0), nvml.FI_DEV_REMAPPED_PENDING, 0)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	must.Eq(t, 0, fieldValue(t, n.gpu(t, 3), nvml.FI_DEV_REMAPPED_PENDING, 0))
}

func TestLinkToTheHostsProcessor(t *testing.T) {
	n := open(t, "gh200")
	gpu := n.gpu(t, 0)
	must.Eq(t, 10, fieldValue(t, gpu, nvml.FI_DEV_C2C_LINK_COUNT, 0))
	must.Eq(t, 1, fieldValue(t, gpu, nvml.FI_DEV_C2C_LINK_GET_STATUS, 9))
	must.Eq(t, 44712, fieldValue(t, gpu, nvml.FI_DEV_C2C_LINK_GET_MAX_BW, 9))
	_, ret := field(t, gpu, nvml.FI_DEV_C2C_LINK_GET_STATUS, 10)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	must.Eq(t, 1, ask(t, gpu.GetC2cModeInfoV().V1).IsC2cEnabled)
	must.Eq(t, 0, fieldValue(t, gpu, nvml.FI_DEV_NVLINK_LINK_COUNT, 0))
	must.Eq(t, 1, ask(t, gpu.GetNumaNodeId), must.Sprint("the GPU's own memory node"))
	mode := ask(t, gpu.GetAddressingMode)
	must.Eq(t, uint32(nvml.DEVICE_ADDRESSING_MODE_ATS), mode.Value)
}

func TestMemoryErrors(t *testing.T) {
	n := open(t, "dgxh200")
	gpu := n.gpu(t, 0)
	must.NoError(t, errors.Join(n.ECC(0, 12, 5), n.Number(0, "sram_volatile_corrected", 2), n.Number(0, "sram_volatile_parity", 1),
		n.Number(0, "sram_volatile_secded", 3), n.Number(0, "sram_aggregate_parity", 4), n.Number(0, "sram_threshold", 1)))
	count := func(kind nvml.MemoryErrorType, place nvml.MemoryLocation) uint64 {
		v, ret := gpu.GetMemoryErrorCounter(kind, nvml.VOLATILE_ECC, place)
		must.Eq(t, nvml.SUCCESS, ret)
		return v
	}
	must.Eq(t, 10, count(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.MEMORY_LOCATION_DRAM))
	must.Eq(t, 2, count(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.MEMORY_LOCATION_SRAM))
	must.Eq(t, 1, count(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.MEMORY_LOCATION_DRAM))
	must.Eq(t, 4, count(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.MEMORY_LOCATION_SRAM))
	_, ret := gpu.GetMemoryErrorCounter(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC, nvml.MEMORY_LOCATION_L1_CACHE)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	total, ret := gpu.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	must.Eq(t, nvml.SUCCESS, ret)
	must.Eq(t, 5, total)
	status := ask(t, gpu.GetSramEccErrorStatus)
	must.Eq(t, []uint64{2, 1, 3, 4, 4}, []uint64{
		status.VolatileCor, status.VolatileUncParity, status.VolatileUncSecDed, status.AggregateUncParity, status.AggregateUncBucketOther})
	must.Eq(t, 1, status.BThresholdExceeded)
	must.NoError(t, n.Number(0, "ecc_mode", 0))
	_, ret = gpu.GetMemoryErrorCounter(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC, nvml.MEMORY_LOCATION_DRAM)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
}

func TestRowsAreRemappedOnNewGPUsAndPagesRetiredOnOldOnes(t *testing.T) {
	n := open(t, "dgxh200")
	must.NoError(t, errors.Join(n.RowRemap(1, true, true), n.Number(1, "banks_none", 3)))
	_, _, pending, failure, ret := n.gpu(t, 1).GetRemappedRows()
	must.Eq(t, nvml.SUCCESS, ret)
	must.True(t, pending && failure)
	must.Eq(t, nvml.RowRemapperHistogramValues{Max: 3072, None: 3}, ask(t, n.gpu(t, 1).GetRowRemapperHistogram))
	_, ret = n.gpu(t, 1).GetRetiredPagesPendingStatus()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	_, ret = n.gpu(t, 1).GetRetiredPages(nvml.PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
}

func TestRetiredPages(t *testing.T) {
	n := open(t, "t4")
	gpu := n.gpu(t, 0)
	must.Eq(t, nvml.FEATURE_DISABLED, ask(t, gpu.GetRetiredPagesPendingStatus))
	must.NoError(t, n.RetiredPages(0, 5, 1, true))
	must.Eq(t, nvml.FEATURE_ENABLED, ask(t, gpu.GetRetiredPagesPendingStatus))
	pages, ret := gpu.GetRetiredPages(nvml.PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS)
	must.Eq(t, nvml.SUCCESS, ret)
	must.Len(t, 5, pages)
	must.Less(t, pages[1], pages[0])
	pages, times, ret := gpu.GetRetiredPages_v2(nvml.PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR)
	must.Eq(t, nvml.SUCCESS, ret)
	must.Len(t, 1, pages)
	must.Positive(t, times[0])
	must.Eq(t, 1, fieldValue(t, gpu, nvml.FI_DEV_RETIRED_PENDING, 0))
	_, _, _, _, ret = gpu.GetRemappedRows()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
}

func TestClocksEventReasonsHaveTwoNames(t *testing.T) {
	n := open(t, "dgxh200")
	must.NoError(t, n.ThrottleReasons(0, 0x48))
	must.Eq(t, 0x48, ask(t, n.gpu(t, 0).GetCurrentClocksEventReasons))
	must.Eq(t, 0x48, ask(t, n.gpu(t, 0).GetCurrentClocksThrottleReasons))
}
