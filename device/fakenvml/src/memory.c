/* SPDX-License-Identifier: MPL-2.0 */
/* Memory of a GPU or of a MIG device. */
#include "device.h"

typedef struct {
  unsigned long long total, free, used;
} memory_t;

typedef struct {
  unsigned int version;
  unsigned long long total, reserved, free, used;
} memory_v2_t;

/* Bytes; reserved is the driver's own part. */
typedef struct {
  int64_t total, reserved, used;
} sizes_t;

static sizes_t frame_buffer(const visit_t *v) {
  const mig_t *m = v->mig;
  if (m != NULL) {
    return (sizes_t){MIG_NUMBER(v->state, m, memory_total), or_zero(m->memory_reserved),
                     or_zero(m->memory_used)};
  }
  const gpu_t *g = v->gpu;
  return (sizes_t){g->memory_total, or_zero(g->memory_reserved), or_zero(g->memory_used)};
}

/* What v1 calls used includes the driver's reserve, as in the real library. */
EXPORT ret_t nvmlDeviceGetMemoryInfo(void *device, memory_t *out) {
  ENTER_ANY(device);
  sizes_t s = frame_buffer(&v);
  if (out == NULL) return INVALID_ARGUMENT;
  if (s.total == ABSENT) return NOT_SUPPORTED;
  out->total = (unsigned long long)s.total;
  out->used = (unsigned long long)(s.used + s.reserved);
  out->free = (unsigned long long)(s.total - s.used - s.reserved);
  return OK;
}

SINCE(510) ret_t nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *out) {
  ENTER_ANY(device);
  sizes_t s = frame_buffer(&v);
  if (out == NULL) return INVALID_ARGUMENT;
  if (out->version != VERSION(*out, 2)) return VERSION_MISMATCH;
  if (s.total == ABSENT) return NOT_SUPPORTED;
  out->total = (unsigned long long)s.total;
  out->reserved = (unsigned long long)s.reserved;
  out->used = (unsigned long long)s.used;
  out->free = (unsigned long long)(s.total - s.used - s.reserved);
  return OK;
}

/* nvmlBAR1Memory_t is total, free, used. */
EXPORT ret_t nvmlDeviceGetBAR1MemoryInfo(void *device, memory_t *out) {
  ENTER_ANY(device);
  int64_t total = v.mig != NULL ? v.mig->bar1_total : g->bar1_total;
  int64_t used = or_zero(v.mig != NULL ? v.mig->bar1_used : g->bar1_used);
  if (out == NULL) return INVALID_ARGUMENT;
  if (total == ABSENT) return NOT_SUPPORTED;
  out->total = (unsigned long long)total;
  out->used = (unsigned long long)used;
  out->free = (unsigned long long)(total - used);
  return OK;
}
