/* SPDX-License-Identifier: MPL-2.0 */
/* The shapes that most calls on a device have. EXPORT or SINCE stands before. */
#ifndef DEVICE_H
#define DEVICE_H

#include "fake.h"

#define TEXT_CALL(call, field)                                        \
  ret_t call(void *device, char *out, unsigned int length) {   \
    ENTER_DEVICE(device);                                             \
    return fake_text(g->field, out, length);                          \
  }

#define NUMBER_CALL(call, field)                            \
  ret_t call(void *device, unsigned int *out) {      \
    ENTER_DEVICE(device);                                   \
    ANSWER(out, g->field);                                  \
  }

/* A number that NVML does not give in MIG mode. */
#define WHOLE_GPU_CALL(call, field)                         \
  ret_t call(void *device, unsigned int *out) {      \
    ENTER_DEVICE(device);                                   \
    if (mig_enabled(g)) return NOT_SUPPORTED;               \
    ANSWER(out, g->field);                                  \
  }

#define WIDE_CALL(call, field)                                    \
  ret_t call(void *device, unsigned long long *out) {      \
    ENTER_DEVICE(device);                                         \
    ANSWER(out, g->field);                                        \
  }

/* A number that NVML does not give in MIG mode, and its sampling period. */
#define SAMPLED_CALL(call, field)                                           \
  ret_t call(void *device, unsigned int *out, unsigned int *period) { \
    ENTER_DEVICE(device);                                                   \
    if (period == NULL) return INVALID_ARGUMENT;                            \
    if (mig_enabled(g)) return NOT_SUPPORTED;                               \
    *period = 166666;                                                       \
    ANSWER(out, g->field);                                                  \
  }

typedef struct {
  char legacy[16];
  unsigned int domain, bus, device, device_id, subsystem_id;
  char bus_id[32];
} pci_info_t;

ret_t fake_pci_info(const char *sysfs, int64_t id, int64_t subsystem, pci_info_t *out);

/* mig.c: a number of a MIG device, its own or its profile's. */
int64_t fake_mig_number(const state_t *s, const mig_t *m, size_t own, size_t of_profile);
#define MIG_NUMBER(s, m, key) \
  fake_mig_number((s), (m), offsetof(mig_t, key), offsetof(profile_t, key))

/* mig.c: how many of the GPU's compute slices the MIG device has. */
int64_t fake_compute_slices(const state_t *s, const mig_t *m);

/* mig.c: the name as NVML gives it, with the profile. */
void fake_mig_name(const state_t *s, const gpu_t *g, const mig_t *m, char *out, size_t size);

#endif
