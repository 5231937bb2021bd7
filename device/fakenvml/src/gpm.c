/* SPDX-License-Identifier: MPL-2.0 */
/* GPU performance monitoring: a metric is what was so between two samples. A
 * sample here holds what the files say at its time, and a metric is the mean of
 * its two samples.
 */
#include <stdlib.h>
#include <string.h>

#include "device.h"

enum { PCIE_TX, PCIE_RX, NVLINK_TX, NVLINK_RX, GRAPHICS, SM, OCCUPANCY, TENSOR, DRAM, VALUES };

typedef struct {
  int taken, gpu, gi; /* gi -1: the whole GPU */
  int64_t value[VALUES];
} sample_t;

typedef struct {
  unsigned int version, supported;
} support_t;

typedef struct {
  unsigned int id;
  ret_t ret;
  double value;
  const char *short_name, *long_name, *unit;
} metric_t;

typedef struct {
  unsigned int version, count;
  sample_t *first, *second;
  metric_t metric[]; /* as many as the caller's header had; count says how many to fill */
} metrics_t;

/* NVML_GPM_METRIC_*. */
static const struct {
  unsigned int id;
  int value, scale; /* what is divided by scale is the metric */
  const char *name, *unit;
} metrics[] = {
    {1, GRAPHICS, 10, "GRAPHICS_UTIL", "%"},
    {2, SM, 10, "SM_UTIL", "%"},
    {3, OCCUPANCY, 10, "SM_OCCUPANCY", "%"},
    {5, TENSOR, 10, "ANY_TENSOR_UTIL", "%"},
    {10, DRAM, 10, "DRAM_BW_UTIL", "%"},
    {20, PCIE_TX, 1, "PCIE_TX_PER_SEC", "MiB/s"},
    {21, PCIE_RX, 1, "PCIE_RX_PER_SEC", "MiB/s"},
    {60, NVLINK_RX, 1, "NVLINK_TOTAL_RX_PER_SEC", "MiB/s"},
    {61, NVLINK_TX, 1, "NVLINK_TOTAL_TX_PER_SEC", "MiB/s"},
};

SINCE(520) ret_t nvmlGpmQueryDeviceSupport(void *device, support_t *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  if (out->version != 1) return VERSION_MISMATCH;
  out->supported = g->gpm_graphics != ABSENT;
  return OK;
}

SINCE(520) ret_t nvmlGpmSampleAlloc(sample_t **out) {
  ENTER();
  if (out == NULL) return INVALID_ARGUMENT;
  *out = calloc(1, sizeof **out);
  return *out == NULL ? NO_MEMORY : OK;
}

SINCE(520) ret_t nvmlGpmSampleFree(sample_t *sample) {
  ENTER();
  if (sample == NULL) return INVALID_ARGUMENT;
  free(sample);
  return OK;
}

SINCE(520) ret_t nvmlGpmSampleGet(void *device, sample_t *sample) {
  ENTER_DEVICE(device);
  if (sample == NULL) return INVALID_ARGUMENT;
  if (g->gpm_graphics == ABSENT) return NOT_SUPPORTED;
  *sample = (sample_t){1, g->index, -1,
                       {g->gpm_pcie_tx, g->gpm_pcie_rx, g->gpm_nvlink_tx, g->gpm_nvlink_rx,
                        g->gpm_graphics, g->gpm_sm, g->gpm_occupancy, g->gpm_tensor, g->gpm_dram}};
  return OK;
}

/* A GPU instance has no buses of its own. */
SINCE(520) ret_t nvmlGpmMigSampleGet(void *device, unsigned int gi, sample_t *sample) {
  ENTER_DEVICE(device);
  if (sample == NULL) return INVALID_ARGUMENT;
  if (!mig_enabled(g) || g->gpm_graphics == ABSENT) return NOT_SUPPORTED;
  const mig_t *m = gi < MAX_GI ? fake_mig_find(g, (int)gi, -1) : NULL;
  if (m == NULL) return NOT_FOUND;
  *sample = (sample_t){1, g->index, (int)gi,
                       {ABSENT, ABSENT, ABSENT, ABSENT, or_zero(m->gpm_graphics),
                        or_zero(m->gpm_sm), or_zero(m->gpm_occupancy), or_zero(m->gpm_tensor),
                        or_zero(m->gpm_dram)}};
  return OK;
}

static void fill(metric_t *out, const sample_t *first, const sample_t *second) {
  out->ret = NOT_SUPPORTED;
  for (size_t i = 0; i < sizeof metrics / sizeof metrics[0]; i++) {
    if (metrics[i].id != out->id) continue;
    int64_t a = first->value[metrics[i].value], b = second->value[metrics[i].value];
    out->short_name = out->long_name = metrics[i].name;
    out->unit = metrics[i].unit;
    if (a == ABSENT || b == ABSENT) return;
    out->value = (double)(a + b) / 2 / metrics[i].scale;
    out->ret = OK;
  }
}

SINCE(520) ret_t nvmlGpmMetricsGet(metrics_t *get) {
  ENTER();
  if (get == NULL || get->first == NULL || get->second == NULL) return INVALID_ARGUMENT;
  if (get->version != 1) return VERSION_MISMATCH;
  const sample_t *first = get->first, *second = get->second;
  if (!first->taken || !second->taken || first->gpu != second->gpu || first->gi != second->gi)
    return INVALID_ARGUMENT;
  for (unsigned int i = 0; i < get->count; i++) fill(&get->metric[i], first, second);
  return OK;
}
