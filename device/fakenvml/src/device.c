/* SPDX-License-Identifier: MPL-2.0 */
/* What one device is and how it is doing. */
#include <stdio.h>
#include <string.h>

#include "fake.h"

#define TEXT_CALL(call, field)                                        \
  EXPORT ret_t call(void *device, char *out, unsigned int length) {   \
    ENTER_DEVICE(device);                                             \
    return fake_text(g.field, out, length);                           \
  }
TEXT_CALL(nvmlDeviceGetName, name)
TEXT_CALL(nvmlDeviceGetUUID, uuid)
TEXT_CALL(nvmlDeviceGetSerial, serial)
TEXT_CALL(nvmlDeviceGetBoardPartNumber, board)
TEXT_CALL(nvmlDeviceGetVbiosVersion, vbios)

#define NUMBER_CALL(call, field)                            \
  EXPORT ret_t call(void *device, unsigned int *out) {      \
    ENTER_DEVICE(device);                                   \
    ANSWER(out, g.field);                                   \
  }
NUMBER_CALL(nvmlDeviceGetIndex, index)
NUMBER_CALL(nvmlDeviceGetMinorNumber, minor)
NUMBER_CALL(nvmlDeviceGetBrand, brand)
NUMBER_CALL(nvmlDeviceGetArchitecture, arch)
NUMBER_CALL(nvmlDeviceGetPersistenceMode, persistence)
NUMBER_CALL(nvmlDeviceGetDisplayMode, display_mode)
NUMBER_CALL(nvmlDeviceGetDisplayActive, display_active)
NUMBER_CALL(nvmlDeviceGetComputeMode, compute_mode)
NUMBER_CALL(nvmlDeviceGetVirtualizationMode, virtualization)
NUMBER_CALL(nvmlDeviceGetNumGpuCores, cores)
NUMBER_CALL(nvmlDeviceGetMemoryBusWidth, bus_width)
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkGeneration, pcie_gen_max)
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkWidth, pcie_width_max)
NUMBER_CALL(nvmlDeviceGetCurrPcieLinkGeneration, pcie_gen)
NUMBER_CALL(nvmlDeviceGetCurrPcieLinkWidth, pcie_width)
NUMBER_CALL(nvmlDeviceGetPcieReplayCounter, pcie_replay)
NUMBER_CALL(nvmlDeviceGetPowerManagementLimit, power_limit)
NUMBER_CALL(nvmlDeviceGetEnforcedPowerLimit, power_limit)
NUMBER_CALL(nvmlDeviceGetPowerManagementDefaultLimit, power_default)
NUMBER_CALL(nvmlDeviceGetPowerUsage, power_usage)
NUMBER_CALL(nvmlDeviceGetFanSpeed, fan)
NUMBER_CALL(nvmlDeviceGetPerformanceState, pstate)
NUMBER_CALL(nvmlDeviceGetPowerState, pstate)

#define WIDE_CALL(call, field)                                    \
  EXPORT ret_t call(void *device, unsigned long long *out) {      \
    ENTER_DEVICE(device);                                         \
    ANSWER(out, g.field);                                         \
  }
WIDE_CALL(nvmlDeviceGetTotalEnergyConsumption, energy)
WIDE_CALL(nvmlDeviceGetCurrentClocksEventReasons, throttle)
WIDE_CALL(nvmlDeviceGetCurrentClocksThrottleReasons, throttle)
WIDE_CALL(nvmlDeviceGetSupportedEventTypes, event_types)

/* A pair of numbers: current and pending, or a value and its sampling period. */
#define PAIR_CALL(call, field, second)                                             \
  EXPORT ret_t call(void *device, unsigned int *out, unsigned int *also) {         \
    ENTER_DEVICE(device);                                                          \
    if (also == NULL) return INVALID_ARGUMENT;                                     \
    *also = (unsigned int)(second);                                                \
    ANSWER(out, g.field);                                                          \
  }
PAIR_CALL(nvmlDeviceGetEccMode, ecc_mode, g.ecc_mode)
PAIR_CALL(nvmlDeviceGetMigMode, mig_mode, g.mig_mode)
PAIR_CALL(nvmlDeviceGetEncoderUtilization, util_encoder, 166666)
PAIR_CALL(nvmlDeviceGetDecoderUtilization, util_decoder, 166666)

EXPORT ret_t nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned int *least,
                                                          unsigned int *most) {
  ENTER_DEVICE(device);
  if (least == NULL) return INVALID_ARGUMENT;
  if (g.power_min == ABSENT) return NOT_SUPPORTED;
  *least = (unsigned int)g.power_min;
  ANSWER(most, g.power_max);
}

EXPORT ret_t nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
  ENTER_DEVICE(device);
  if (minor == NULL) return INVALID_ARGUMENT;
  *minor = (int)g.cc_minor;
  ANSWER(major, g.cc_major);
}

typedef struct {
  char legacy[16];
  unsigned int domain, bus, device, device_id, subsystem_id;
  char bus_id[32];
} pci_info_t;

/* Fills an nvmlPciInfo_t from a bus id in sysfs form. */
static ret_t pci_info(const char *sysfs, int64_t id, int64_t subsystem, pci_info_t *out) {
  unsigned int function;
  if (out == NULL) return INVALID_ARGUMENT;
  memset(out, 0, sizeof *out);
  if (sscanf(sysfs, "%x:%x:%x.%x", &out->domain, &out->bus, &out->device, &function) != 4)
    return ERROR_UNKNOWN;
  out->device_id = id == ABSENT ? 0 : (unsigned int)id;
  out->subsystem_id = subsystem == ABSENT ? 0 : (unsigned int)subsystem;
  snprintf(out->legacy, sizeof out->legacy, "%04X:%02X:%02X.%X", out->domain & 0xffff,
           out->bus & 0xff, out->device & 0xff, function & 0xf);
  snprintf(out->bus_id, sizeof out->bus_id, "%08X:%02X:%02X.%X", out->domain, out->bus,
           out->device, function);
  return OK;
}

EXPORT ret_t nvmlDeviceGetPciInfo_v3(void *device, pci_info_t *out) {
  ENTER_DEVICE(device);
  return pci_info(g.pci, g.pci_device_id, g.pci_subsystem_id, out);
}

EXPORT ret_t nvmlDeviceGetPciInfo_v2(void *device, pci_info_t *out) {
  return nvmlDeviceGetPciInfo_v3(device, out);
}

EXPORT ret_t nvmlDeviceGetNvLinkRemotePciInfo_v2(void *device, unsigned int link,
                                                 pci_info_t *out) {
  ENTER_DEVICE(device);
  if (link >= MAX_LINKS) return INVALID_ARGUMENT;
  if (g.link[link].state == LINK_NONE) return NOT_SUPPORTED;
  return pci_info(g.link[link].remote, ABSENT, ABSENT, out);
}

typedef struct {
  unsigned long long total, free, used;
} memory_t;

typedef struct {
  unsigned int version;
  unsigned long long total, reserved, free, used;
} memory_v2_t;

/* What v1 calls used includes the driver's reserve, as in the real library. */
EXPORT ret_t nvmlDeviceGetMemoryInfo(void *device, memory_t *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  if (g.memory_total == ABSENT) return NOT_SUPPORTED;
  int64_t used = (g.memory_used == ABSENT ? 0 : g.memory_used) +
                 (g.memory_reserved == ABSENT ? 0 : g.memory_reserved);
  out->total = (unsigned long long)g.memory_total;
  out->used = (unsigned long long)used;
  out->free = (unsigned long long)(g.memory_total - used);
  return OK;
}

EXPORT ret_t nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  if (out->version != (sizeof *out | 2u << 24)) return 25; /* ARGUMENT_VERSION_MISMATCH */
  if (g.memory_total == ABSENT) return NOT_SUPPORTED;
  int64_t used = g.memory_used == ABSENT ? 0 : g.memory_used;
  int64_t reserved = g.memory_reserved == ABSENT ? 0 : g.memory_reserved;
  out->total = (unsigned long long)g.memory_total;
  out->reserved = (unsigned long long)reserved;
  out->used = (unsigned long long)used;
  out->free = (unsigned long long)(g.memory_total - used - reserved);
  return OK;
}

EXPORT ret_t nvmlDeviceGetBAR1MemoryInfo(void *device, memory_t *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  if (g.bar1_total == ABSENT) return NOT_SUPPORTED;
  int64_t used = g.bar1_used == ABSENT ? 0 : g.bar1_used;
  out->total = (unsigned long long)g.bar1_total; /* nvmlBAR1Memory_t: total, free, used */
  out->used = (unsigned long long)used;
  out->free = (unsigned long long)(g.bar1_total - used);
  return OK;
}

typedef struct {
  unsigned int gpu, memory;
} utilization_t;

EXPORT ret_t nvmlDeviceGetUtilizationRates(void *device, utilization_t *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  if (g.util_gpu == ABSENT) return NOT_SUPPORTED;
  out->gpu = (unsigned int)g.util_gpu;
  out->memory = g.util_memory == ABSENT ? 0 : (unsigned int)g.util_memory;
  return OK;
}

/* nvmlClockType_t: graphics, SM, memory, video. */
static ret_t pick_clock(const int64_t clock[4], int type, unsigned int *out) {
  if (type < 0 || type > 3) return INVALID_ARGUMENT;
  ANSWER(out, clock[type]);
}

EXPORT ret_t nvmlDeviceGetMaxClockInfo(void *device, int type, unsigned int *out) {
  ENTER_DEVICE(device);
  const int64_t clock[4] = {g.clock_max_graphics, g.clock_max_sm, g.clock_max_memory,
                            g.clock_max_video};
  return pick_clock(clock, type, out);
}

EXPORT ret_t nvmlDeviceGetClockInfo(void *device, int type, unsigned int *out) {
  ENTER_DEVICE(device);
  const int64_t clock[4] = {g.clock_graphics, g.clock_sm, g.clock_memory, g.clock_video};
  return pick_clock(clock, type, out);
}

EXPORT ret_t nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *out) {
  ENTER_DEVICE(device);
  if (sensor != 0) return INVALID_ARGUMENT;
  ANSWER(out, g.temperature);
}

/* nvmlTemperatureThresholds_t: shutdown 0, slowdown 1. */
EXPORT ret_t nvmlDeviceGetTemperatureThreshold(void *device, int which, unsigned int *out) {
  ENTER_DEVICE(device);
  if (which == 0) ANSWER(out, g.temperature_shutdown);
  if (which == 1) ANSWER(out, g.temperature_slowdown);
  return NOT_SUPPORTED;
}

/* nvmlPcieUtilCounter_t: TX 0, RX 1; KB/s. */
EXPORT ret_t nvmlDeviceGetPcieThroughput(void *device, int counter, unsigned int *out) {
  ENTER_DEVICE(device);
  if (counter < 0 || counter > 1) return INVALID_ARGUMENT;
  ANSWER(out, counter == 0 ? g.pcie_tx : g.pcie_rx);
}

EXPORT ret_t nvmlDeviceGetTotalEccErrors(void *device, int type, int counter,
                                         unsigned long long *out) {
  ENTER_DEVICE(device);
  if (type < 0 || type > 1 || counter < 0 || counter > 1) return INVALID_ARGUMENT;
  if (g.ecc_mode == ABSENT || g.ecc_mode == 0) return NOT_SUPPORTED;
  const int64_t count[2][2] = {{g.ecc_volatile_sbe, g.ecc_aggregate_sbe},
                               {g.ecc_volatile_dbe, g.ecc_aggregate_dbe}};
  ANSWER(out, count[type][counter]);
}

EXPORT ret_t nvmlDeviceGetRemappedRows(void *device, unsigned int *correctable,
                                       unsigned int *uncorrectable, unsigned int *pending,
                                       unsigned int *failure) {
  ENTER_DEVICE(device);
  if (!correctable || !uncorrectable || !pending || !failure) return INVALID_ARGUMENT;
  if (g.remap_correctable == ABSENT) return NOT_SUPPORTED;
  *correctable = (unsigned int)g.remap_correctable;
  *uncorrectable = g.remap_uncorrectable == ABSENT ? 0 : (unsigned int)g.remap_uncorrectable;
  *pending = g.remap_pending == ABSENT ? 0 : (unsigned int)g.remap_pending;
  *failure = g.remap_failure == ABSENT ? 0 : (unsigned int)g.remap_failure;
  return OK;
}
