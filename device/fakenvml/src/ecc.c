/* SPDX-License-Identifier: MPL-2.0 */
/* Memory errors, and what the GPU did about them. */
#include "device.h"

EXPORT ret_t nvmlDeviceGetEccMode(void *device, unsigned int *current, unsigned int *pending) {
  ENTER_DEVICE(device);
  if (pending == NULL) return INVALID_ARGUMENT;
  *pending = (unsigned int)or_zero(g->ecc_mode);
  ANSWER(current, g->ecc_mode);
}

/* nvmlMemoryErrorType_t: corrected 0, uncorrected 1; nvmlEccCounterType_t:
 * since the driver was loaded 0, over the board's life 1. */
EXPORT ret_t nvmlDeviceGetTotalEccErrors(void *device, int type, int counter,
                                         unsigned long long *out) {
  ENTER_DEVICE(device);
  if (type < 0 || type > 1 || counter < 0 || counter > 1) return INVALID_ARGUMENT;
  if (g->ecc_mode == ABSENT || g->ecc_mode == 0) return NOT_SUPPORTED;
  const int64_t count[2][2] = {{g->ecc_volatile_sbe, g->ecc_aggregate_sbe},
                               {g->ecc_volatile_dbe, g->ecc_aggregate_dbe}};
  ANSWER(out, count[type][counter]);
}

/* A GPU with MIG instances does not say. */
EXPORT ret_t nvmlDeviceGetRemappedRows(void *device, unsigned int *correctable,
                                       unsigned int *uncorrectable, unsigned int *pending,
                                       unsigned int *failure) {
  ENTER_DEVICE(device);
  if (!correctable || !uncorrectable || !pending || !failure) return INVALID_ARGUMENT;
  if (g->remap_correctable == ABSENT || fake_mig_count(g) > 0) return NOT_SUPPORTED;
  *correctable = (unsigned int)g->remap_correctable;
  *uncorrectable = (unsigned int)or_zero(g->remap_uncorrectable);
  *pending = (unsigned int)or_zero(g->remap_pending);
  *failure = (unsigned int)or_zero(g->remap_failure);
  return OK;
}
