/* SPDX-License-Identifier: MPL-2.0 */
/* The MIG profiles that the node's GPUs can be cut into. */
#include <stdio.h>
#include <string.h>

#include "device.h"

typedef struct {
  unsigned int id, is_p2p, slices, instances, multiprocessors;
  unsigned int copy_engines, decoders, encoders, jpeg_engines, ofa_engines;
  unsigned long long memory_mib;
} profile_info_t;

typedef struct {
  unsigned int version, id, is_p2p, slices, instances, multiprocessors;
  unsigned int copy_engines, decoders, encoders, jpeg_engines, ofa_engines;
  unsigned long long memory_mib;
  char name[TEXT];
} profile_info_v2_t;

/* Version 3 has no is_p2p, and capabilities at the end. */
typedef struct {
  unsigned int version, id, slices, instances, multiprocessors;
  unsigned int copy_engines, decoders, encoders, jpeg_engines, ofa_engines;
  unsigned long long memory_mib;
  char name[TEXT];
  unsigned int capabilities;
} profile_info_v3_t;

#define FILL_PROFILE(out, p)                                               \
  do {                                                                     \
    (out)->id = (unsigned int)or_zero((p)->id);                            \
    (out)->slices = (unsigned int)or_zero((p)->gpu_slices);                \
    (out)->instances = (unsigned int)or_zero((p)->instances);              \
    (out)->multiprocessors = (unsigned int)or_zero((p)->multiprocessors);  \
    (out)->copy_engines = (unsigned int)or_zero((p)->copy_engines);        \
    (out)->decoders = (unsigned int)or_zero((p)->decoders);                \
    (out)->encoders = (unsigned int)or_zero((p)->encoders);                \
    (out)->jpeg_engines = (unsigned int)or_zero((p)->jpeg_engines);        \
    (out)->ofa_engines = (unsigned int)or_zero((p)->ofa_engines);          \
    (out)->memory_mib = (unsigned long long)or_zero((p)->memory_total) >> 20; \
  } while (0)

/* The node's profile with that NVML_GPU_INSTANCE_PROFILE_* number. */
static ret_t profile_at(const visit_t *v, unsigned int number, const profile_t **out) {
  if (number >= MAX_PROFILES) return INVALID_ARGUMENT;
  *out = &v->state->profile[number];
  return v->gpu->mig_mode == ABSENT || (*out)->name[0] == '\0' ? NOT_SUPPORTED : OK;
}

EXPORT ret_t nvmlDeviceGetGpuInstanceProfileInfo(void *device, unsigned int profile,
                                                 profile_info_t *out) {
  ENTER_DEVICE(device);
  const profile_t *p;
  ret_t ret = out == NULL ? INVALID_ARGUMENT : profile_at(&v, profile, &p);
  if (ret != OK) return ret;
  memset(out, 0, sizeof *out);
  FILL_PROFILE(out, p);
  return OK;
}

SINCE(510) ret_t nvmlDeviceGetGpuInstanceProfileInfoV(void *device, unsigned int profile,
                                                      void *out) {
  ENTER_DEVICE(device);
  const profile_t *p;
  ret_t ret = out == NULL ? INVALID_ARGUMENT : profile_at(&v, profile, &p);
  if (ret != OK) return ret;
  unsigned int version = *(unsigned int *)out;
  profile_info_v2_t v2 = {.version = version};
  profile_info_v3_t v3 = {.version = version};
  if (version == VERSION(v2, 2)) {
    FILL_PROFILE(&v2, p);
    snprintf(v2.name, sizeof v2.name, "MIG %.*s", TEXT - 5, p->name);
    memcpy(out, &v2, sizeof v2);
    return OK;
  }
  if (version == VERSION(v3, 3)) {
    FILL_PROFILE(&v3, p);
    snprintf(v3.name, sizeof v3.name, "MIG %.*s", TEXT - 5, p->name);
    memcpy(out, &v3, sizeof v3);
    return OK;
  }
  return VERSION_MISMATCH;
}
