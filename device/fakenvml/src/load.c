/* SPDX-License-Identifier: MPL-2.0 */
/* How busy one device is, and what it draws. */
#include "device.h"

EXPORT NUMBER_CALL(nvmlDeviceGetCurrPcieLinkGeneration, pcie_gen)
EXPORT NUMBER_CALL(nvmlDeviceGetCurrPcieLinkWidth, pcie_width)
EXPORT NUMBER_CALL(nvmlDeviceGetPcieReplayCounter, pcie_replay)
EXPORT NUMBER_CALL(nvmlDeviceGetPowerManagementLimit, power_limit)
EXPORT NUMBER_CALL(nvmlDeviceGetEnforcedPowerLimit, power_limit)
EXPORT NUMBER_CALL(nvmlDeviceGetPowerManagementDefaultLimit, power_default)
EXPORT NUMBER_CALL(nvmlDeviceGetPowerUsage, power_usage)
EXPORT NUMBER_CALL(nvmlDeviceGetFanSpeed, fan)
EXPORT NUMBER_CALL(nvmlDeviceGetPerformanceState, pstate)
EXPORT NUMBER_CALL(nvmlDeviceGetPowerState, pstate)

EXPORT WIDE_CALL(nvmlDeviceGetTotalEnergyConsumption, energy)
SINCE(535) WIDE_CALL(nvmlDeviceGetCurrentClocksEventReasons, throttle)
EXPORT WIDE_CALL(nvmlDeviceGetCurrentClocksThrottleReasons, throttle)

EXPORT SAMPLED_CALL(nvmlDeviceGetEncoderUtilization, util_encoder)
EXPORT SAMPLED_CALL(nvmlDeviceGetDecoderUtilization, util_decoder)

SINCE(545) SAMPLED_CALL(nvmlDeviceGetJpgUtilization, util_jpeg)
SINCE(545) SAMPLED_CALL(nvmlDeviceGetOfaUtilization, util_ofa)

EXPORT ret_t nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned int *least,
                                                          unsigned int *most) {
  ENTER_DEVICE(device);
  if (least == NULL) return INVALID_ARGUMENT;
  if (g->power_min == ABSENT) return NOT_SUPPORTED;
  *least = (unsigned int)g->power_min;
  ANSWER(most, g->power_max);
}

typedef struct {
  unsigned int gpu, memory;
} utilization_t;

EXPORT ret_t nvmlDeviceGetUtilizationRates(void *device, utilization_t *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  if (g->util_gpu == ABSENT || mig_enabled(g)) return NOT_SUPPORTED;
  out->gpu = (unsigned int)g->util_gpu;
  out->memory = (unsigned int)or_zero(g->util_memory);
  return OK;
}

/* nvmlClockType_t: graphics, SM, memory, video. */
static ret_t pick_clock(const int64_t clock[4], int type, unsigned int *out) {
  if (type < 0 || type > 3) return INVALID_ARGUMENT;
  ANSWER(out, clock[type]);
}

EXPORT ret_t nvmlDeviceGetMaxClockInfo(void *device, int type, unsigned int *out) {
  ENTER_DEVICE(device);
  const int64_t clock[4] = {g->clock_max_graphics, g->clock_max_sm, g->clock_max_memory,
                            g->clock_max_video};
  return pick_clock(clock, type, out);
}

EXPORT ret_t nvmlDeviceGetClockInfo(void *device, int type, unsigned int *out) {
  ENTER_DEVICE(device);
  const int64_t clock[4] = {g->clock_graphics, g->clock_sm, g->clock_memory, g->clock_video};
  return pick_clock(clock, type, out);
}

EXPORT ret_t nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *out) {
  ENTER_DEVICE(device);
  if (sensor != 0) return INVALID_ARGUMENT;
  ANSWER(out, g->temperature);
}

/* nvmlTemperatureThresholds_t: shutdown 0, slowdown 1. */
EXPORT ret_t nvmlDeviceGetTemperatureThreshold(void *device, int which, unsigned int *out) {
  ENTER_DEVICE(device);
  if (which == 0) ANSWER(out, g->temperature_shutdown);
  if (which == 1) ANSWER(out, g->temperature_slowdown);
  return NOT_SUPPORTED;
}

/* nvmlPcieUtilCounter_t: TX 0, RX 1; KB/s. */
EXPORT ret_t nvmlDeviceGetPcieThroughput(void *device, int counter, unsigned int *out) {
  ENTER_DEVICE(device);
  if (counter < 0 || counter > 1) return INVALID_ARGUMENT;
  ANSWER(out, counter == 0 ? g->pcie_tx : g->pcie_rx);
}
