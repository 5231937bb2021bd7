/* SPDX-License-Identifier: MPL-2.0 */
/* The GPU and compute instances under MIG devices. A GPU instance is known by
 * its compute instances; one without any is not there.
 */
#include <string.h>

#include "device.h"

/* One compute instance of a GPU instance whose handle was given. */
#define ENTER_GI(handle)                                                   \
  int gi;                                                                  \
  VISIT(v, fake_enter_gpu(__func__, fake_gi_of((handle), &gi), &v));       \
  const mig_t *m = fake_mig_find(v.gpu, gi, -1);                           \
  if (m == NULL) return INVALID_ARGUMENT

EXPORT ret_t nvmlDeviceGetGpuInstanceById(void *device, unsigned int id, void **instance) {
  ENTER_DEVICE(device);
  if (instance == NULL) return INVALID_ARGUMENT;
  if (!mig_enabled(g)) return NOT_SUPPORTED;
  if (id >= MAX_GI || fake_mig_find(g, (int)id, -1) == NULL) return NOT_FOUND;
  *instance = fake_gi_handle(g->index, (int)id);
  return OK;
}

EXPORT ret_t nvmlDeviceGetGpuInstances(void *device, unsigned int profile, void **instances,
                                       unsigned int *count) {
  ENTER_DEVICE(device);
  if (instances == NULL || count == NULL) return INVALID_ARGUMENT;
  if (!mig_enabled(g)) return NOT_SUPPORTED;
  *count = 0;
  for (int gi = 0; gi < MAX_GI; gi++) {
    const mig_t *m = fake_mig_find(g, gi, -1);
    if (m != NULL && MIG_NUMBER(v.state, m, id) == profile)
      instances[(*count)++] = fake_gi_handle(g->index, gi);
  }
  return OK;
}

typedef struct {
  void *device;
  unsigned int id, profile, start, size;
} gi_info_t;

EXPORT ret_t nvmlGpuInstanceGetInfo(void *instance, gi_info_t *out) {
  ENTER_GI(instance);
  if (out == NULL) return INVALID_ARGUMENT;
  memset(out, 0, sizeof *out);
  out->device = fake_gpu_handle(v.gpu->index);
  out->id = (unsigned int)gi;
  out->profile = (unsigned int)or_zero(MIG_NUMBER(v.state, m, id));
  out->start = (unsigned int)or_zero(m->start);
  out->size = (unsigned int)or_zero(MIG_NUMBER(v.state, m, memory_slices));
  return OK;
}

/* NVML_COMPUTE_INSTANCE_PROFILE_*, by slices. */
static unsigned int ci_profile(int64_t slices) {
  static const unsigned int profile[] = {0, 0, 1, 2, 3, 0, 6, 4, 5};
  return slices >= 1 && slices <= 8 ? profile[slices] : 0;
}

EXPORT ret_t nvmlGpuInstanceGetComputeInstanceById(void *instance, unsigned int id, void **out) {
  ENTER_GI(instance);
  if (out == NULL) return INVALID_ARGUMENT;
  m = id < MAX_CI ? fake_mig_find(v.gpu, gi, (int)id) : NULL;
  if (m == NULL) return NOT_FOUND;
  *out = fake_ci_handle(v.gpu->index, m);
  return OK;
}

EXPORT ret_t nvmlGpuInstanceGetComputeInstances(void *instance, unsigned int profile, void **out,
                                                unsigned int *count) {
  ENTER_GI(instance);
  if (out == NULL || count == NULL) return INVALID_ARGUMENT;
  *count = 0;
  for (int ci = 0; ci < MAX_CI; ci++) {
    m = fake_mig_find(v.gpu, gi, ci);
    if (m != NULL && ci_profile(fake_compute_slices(v.state, m)) == profile)
      out[(*count)++] = fake_ci_handle(v.gpu->index, m);
  }
  return OK;
}

typedef struct {
  void *device, *gpu_instance;
  unsigned int id, profile, start, size;
} ci_info_t;

SINCE(510) ret_t nvmlComputeInstanceGetInfo_v2(void *instance, ci_info_t *out) {
  int gi, ci;
  VISIT(v, fake_enter_gpu(__func__, fake_ci_of(instance, &gi, &ci), &v));
  const mig_t *m = fake_mig_find(v.gpu, gi, ci);
  if (m == NULL || out == NULL) return INVALID_ARGUMENT;
  memset(out, 0, sizeof *out);
  out->device = fake_gpu_handle(v.gpu->index);
  out->gpu_instance = fake_gi_handle(v.gpu->index, gi);
  out->id = (unsigned int)ci;
  out->profile = ci_profile(fake_compute_slices(v.state, m));
  out->size = (unsigned int)or_zero(fake_compute_slices(v.state, m));
  return OK;
}
