/* SPDX-License-Identifier: MPL-2.0 */
/* MIG: the mode, and MIG devices. */
#include <stdio.h>
#include <string.h>

#include "device.h"

/* The node's profile of that name, or NULL. */
static const profile_t *profile_named(const state_t *s, const char *name) {
  for (int i = 0; i < MAX_PROFILES; i++)
    if (s->profile[i].name[0] != '\0' && strcmp(s->profile[i].name, name) == 0)
      return &s->profile[i];
  return NULL;
}

int64_t fake_mig_number(const state_t *s, const mig_t *m, size_t own, size_t of_profile) {
  int64_t n = *(const int64_t *)((const char *)m + own);
  const profile_t *p = profile_named(s, m->profile);
  if (n != ABSENT || p == NULL) return n;
  return *(const int64_t *)((const char *)p + of_profile);
}

/* A compute instance has all of its GPU instance's slices unless it says less. */
int64_t fake_compute_slices(const state_t *s, const mig_t *m) {
  return m->compute_slices != ABSENT ? m->compute_slices : MIG_NUMBER(s, m, gpu_slices);
}

/* "<GPU> MIG 3g.40gb", or "<GPU> MIG 1c.3g.40gb" for a part of an instance. */
void fake_mig_name(const state_t *s, const gpu_t *g, const mig_t *m, char *out, size_t size) {
  int64_t slices = fake_compute_slices(s, m);
  if (slices != MIG_NUMBER(s, m, gpu_slices))
    snprintf(out, size, "%s MIG %dc.%s", g->name, (int)slices, m->profile);
  else
    snprintf(out, size, "%s MIG %s", g->name, m->profile);
}

EXPORT ret_t nvmlDeviceGetMigMode(void *device, unsigned int *current, unsigned int *pending) {
  ENTER_DEVICE(device);
  if (pending == NULL) return INVALID_ARGUMENT;
  *pending = (unsigned int)or_zero(g->mig_pending == ABSENT ? g->mig_mode : g->mig_pending);
  ANSWER(current, g->mig_mode);
}

/* Zero where MIG is not supported or is off. */
EXPORT ret_t nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned int *count) {
  ENTER_DEVICE(device);
  ANSWER(count, !mig_enabled(g) ? 0 : g->mig_max == ABSENT ? 7 : g->mig_max);
}

EXPORT ret_t nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned int index, void **mig) {
  ENTER_DEVICE(device);
  if (mig == NULL) return INVALID_ARGUMENT;
  if (g->mig_mode == ABSENT) return NOT_SUPPORTED;
  if (!mig_enabled(g)) return NOT_FOUND;
  if (index >= MAX_MIG) return INVALID_ARGUMENT;
  if (!g->mig[index].exists) return NOT_FOUND;
  *mig = fake_mig_handle(g->index, &g->mig[index]);
  return OK;
}

EXPORT ret_t nvmlDeviceIsMigDeviceHandle(void *device, unsigned int *is_mig) {
  ENTER_ANY(device);
  ANSWER(is_mig, v.mig != NULL);
}

#define ENTER_MIG(handle)                             \
  ENTER_ANY(handle);                                  \
  const mig_t *m __attribute__((unused)) = v.mig;     \
  if (m == NULL) return NOT_SUPPORTED

EXPORT ret_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *mig, void **device) {
  ENTER_MIG(mig);
  if (device == NULL) return INVALID_ARGUMENT;
  *device = fake_gpu_handle(g->index);
  return OK;
}

EXPORT ret_t nvmlDeviceGetGpuInstanceId(void *device, unsigned int *id) {
  ENTER_MIG(device);
  ANSWER(id, m->gi);
}

EXPORT ret_t nvmlDeviceGetComputeInstanceId(void *device, unsigned int *id) {
  ENTER_MIG(device);
  ANSWER(id, m->ci);
}

typedef struct {
  unsigned int multiprocessors, copy_engines, decoders, encoders, jpeg_engines, ofa_engines;
  unsigned int gpu_slices, compute_slices;
  unsigned long long memory_mib;
} attributes_t;

EXPORT ret_t nvmlDeviceGetAttributes_v2(void *device, attributes_t *out) {
  ENTER_MIG(device);
  if (out == NULL) return INVALID_ARGUMENT;
#define FILL(key) out->key = (unsigned int)or_zero(MIG_NUMBER(v.state, m, key))
  FILL(multiprocessors);
  FILL(copy_engines);
  FILL(decoders);
  FILL(encoders);
  FILL(jpeg_engines);
  FILL(ofa_engines);
  FILL(gpu_slices);
#undef FILL
  out->compute_slices = (unsigned int)or_zero(fake_compute_slices(v.state, m));
  out->memory_mib = (unsigned long long)or_zero(MIG_NUMBER(v.state, m, memory_total)) >> 20;
  return OK;
}

EXPORT ret_t nvmlDeviceGetAttributes(void *device, attributes_t *out) {
  return nvmlDeviceGetAttributes_v2(device, out);
}
