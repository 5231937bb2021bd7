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

typedef struct {
  unsigned int max, high, partial, low, none;
} histogram_t;

EXPORT ret_t nvmlDeviceGetRowRemapperHistogram(void *device, histogram_t *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  if (g->banks_max == ABSENT) return NOT_SUPPORTED;
  out->max = (unsigned int)g->banks_max;
  out->high = (unsigned int)or_zero(g->banks_high);
  out->partial = (unsigned int)or_zero(g->banks_partial);
  out->low = (unsigned int)or_zero(g->banks_low);
  out->none = (unsigned int)or_zero(g->banks_none);
  return OK;
}

/* nvmlMemoryLocation_t: of the Turing and newer locations, DRAM 2 has the
 * totals less SRAM 7. */
EXPORT ret_t nvmlDeviceGetMemoryErrorCounter(void *device, int type, int counter, int location,
                                             unsigned long long *out) {
  ENTER_DEVICE(device);
  if (type < 0 || type > 1 || counter < 0 || counter > 1 || location < 0 || location > 7)
    return INVALID_ARGUMENT;
  if (g->ecc_mode == ABSENT || g->ecc_mode == 0) return NOT_SUPPORTED;
  const int64_t total[2][2] = {{g->ecc_volatile_sbe, g->ecc_aggregate_sbe},
                               {g->ecc_volatile_dbe, g->ecc_aggregate_dbe}};
  const int64_t sram[2][2] = {
      {g->sram_volatile_corrected, g->sram_aggregate_corrected},
      {or_zero(g->sram_volatile_parity) + or_zero(g->sram_volatile_secded),
       or_zero(g->sram_aggregate_parity) + or_zero(g->sram_aggregate_secded)}};
  if (location == 2 && total[type][counter] != ABSENT)
    ANSWER(out, total[type][counter] - or_zero(sram[type][counter]));
  if (location == 7 && g->sram_volatile_corrected != ABSENT) ANSWER(out, sram[type][counter]);
  return NOT_SUPPORTED;
}

typedef struct {
  unsigned int version;
  unsigned long long aggregate_parity, aggregate_secded, aggregate_corrected;
  unsigned long long volatile_parity, volatile_secded, volatile_corrected;
  unsigned long long bucket_l2, bucket_sm, bucket_pcie, bucket_mcu, bucket_other;
  unsigned int threshold;
} sram_t;

/* All uncorrected errors are in the bucket "other". */
SINCE(550) ret_t nvmlDeviceGetSramEccErrorStatus(void *device, sram_t *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  unsigned int version = out->version;
  if (version != VERSION(*out, 1)) return VERSION_MISMATCH;
  if (g->sram_volatile_corrected == ABSENT) return NOT_SUPPORTED;
  *out = (sram_t){
      .version = version,
      .aggregate_parity = (unsigned long long)or_zero(g->sram_aggregate_parity),
      .aggregate_secded = (unsigned long long)or_zero(g->sram_aggregate_secded),
      .aggregate_corrected = (unsigned long long)or_zero(g->sram_aggregate_corrected),
      .volatile_parity = (unsigned long long)or_zero(g->sram_volatile_parity),
      .volatile_secded = (unsigned long long)or_zero(g->sram_volatile_secded),
      .volatile_corrected = (unsigned long long)g->sram_volatile_corrected,
      .threshold = (unsigned int)or_zero(g->sram_threshold),
  };
  out->bucket_other = out->aggregate_parity + out->aggregate_secded;
  return OK;
}

EXPORT NUMBER_CALL(nvmlDeviceGetRetiredPagesPendingStatus, retired_pending)

/* nvmlPageRetirementCause_t: single-bit errors 0, a double-bit error 1. The
 * addresses and times are made up, a page and a second apart. */
static ret_t retired(const gpu_t *g, int cause, unsigned int *count, unsigned long long *addresses,
                     unsigned long long *times) {
  if (cause < 0 || cause > 1 || count == NULL) return INVALID_ARGUMENT;
  int64_t pages = cause == 0 ? g->retired_sbe : g->retired_dbe;
  if (pages == ABSENT) return NOT_SUPPORTED;
  unsigned int room = *count;
  *count = (unsigned int)pages;
  if (room < (unsigned int)pages) return INSUFFICIENT_SIZE;
  for (unsigned int i = 0; i < *count; i++) {
    if (addresses == NULL) return INVALID_ARGUMENT;
    addresses[i] = (i + 1ull) << 12 | (unsigned long long)cause << 40;
    if (times != NULL) times[i] = 1700000000000000ull + i * 1000000ull;
  }
  return OK;
}

EXPORT ret_t nvmlDeviceGetRetiredPages(void *device, int cause, unsigned int *count,
                                       unsigned long long *addresses) {
  ENTER_DEVICE(device);
  return retired(g, cause, count, addresses, NULL);
}

EXPORT ret_t nvmlDeviceGetRetiredPages_v2(void *device, int cause, unsigned int *count,
                                          unsigned long long *addresses,
                                          unsigned long long *times) {
  ENTER_DEVICE(device);
  return retired(g, cause, count, addresses, times);
}
