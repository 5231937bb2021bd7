/* SPDX-License-Identifier: MPL-2.0 */
/* Start, stop, versions, and finding devices. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "fake.h"

EXPORT ret_t nvmlInit_v2(void) { return fake_init(); }
EXPORT ret_t nvmlInit(void) { return fake_init(); }
EXPORT ret_t nvmlInitWithFlags(unsigned int flags) {
  (void)flags;
  return fake_init();
}
EXPORT ret_t nvmlShutdown(void) { return fake_shutdown(); }

EXPORT const char *nvmlErrorString(ret_t code) {
  switch (code) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case TIMEOUT: return "Timeout";
    case GPU_IS_LOST: return "GPU is lost";
    case 16: return "GPU requires reset";
    case LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case NO_MEMORY: return "Insufficient Memory";
    case VERSION_MISMATCH: return "Argument version mismatch";
    case 26: return "Requested functionality has been deprecated";
    default: return "Unknown Error";
  }
}

EXPORT ret_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
  ENTER();
  return fake_text(v.state->driver_version, version, length);
}

EXPORT ret_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
  ENTER();
  return fake_text(v.state->nvml_version, version, length);
}

EXPORT ret_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
  ENTER();
  ANSWER(version, v.state->cuda_version);
}

EXPORT ret_t nvmlSystemGetCudaDriverVersion(int *version) {
  return nvmlSystemGetCudaDriverVersion_v2(version);
}

typedef struct {
  unsigned int environment, feature, devtools;
} conf_compute_t;

SINCE(535) ret_t nvmlSystemGetConfComputeState(conf_compute_t *out) {
  ENTER();
  if (out == NULL) return INVALID_ARGUMENT;
  if (v.state->cc_feature == ABSENT) return NOT_SUPPORTED;
  out->environment = (unsigned int)or_zero(v.state->cc_environment);
  out->feature = (unsigned int)v.state->cc_feature;
  out->devtools = (unsigned int)or_zero(v.state->cc_devtools);
  return OK;
}

EXPORT ret_t nvmlDeviceGetCount_v2(unsigned int *count) {
  ENTER();
  ANSWER(count, v.state->count);
}

EXPORT ret_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
  if (device == NULL || index >= MAX_GPUS) return INVALID_ARGUMENT;
  VISIT(v, fake_enter_gpu(__func__, (int)index, &v));
  *device = fake_gpu_handle((int)index);
  return OK;
}

/* Answers a handle on a GPU, unless it is lost. */
static ret_t found(const gpu_t *g, void *handle, void **device) {
  if (g->lost != 0) return GPU_IS_LOST;
  *device = handle;
  return OK;
}

/* Finds GPUs, and MIG devices. */
EXPORT ret_t nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  ENTER();
  if (uuid == NULL || device == NULL) return INVALID_ARGUMENT;
  for (int i = 0; i < v.state->count; i++) {
    const gpu_t *g = &v.state->gpu[i];
    if (strcasecmp(g->uuid, uuid) == 0) return found(g, fake_gpu_handle(i), device);
    for (int j = 0; j < MAX_MIG && mig_enabled(g); j++) {
      const mig_t *m = &g->mig[j];
      if (m->exists && strcasecmp(m->uuid, uuid) == 0)
        return found(g, fake_mig_handle(i, m), device);
    }
  }
  return NOT_FOUND;
}

EXPORT ret_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **device) {
  ENTER();
  if (bus == NULL || device == NULL) return INVALID_ARGUMENT;
  unsigned int domain, b, d, f;
  char sysfs[TEXT];
  if (sscanf(bus, "%x:%x:%x.%x", &domain, &b, &d, &f) != 4) return INVALID_ARGUMENT;
  snprintf(sysfs, sizeof sysfs, "%04x:%02x:%02x.%x", domain, b, d, f);
  for (int i = 0; i < v.state->count; i++) {
    const gpu_t *g = &v.state->gpu[i];
    if (strcasecmp(g->pci, sysfs) == 0) return found(g, fake_gpu_handle(i), device);
  }
  return NOT_FOUND;
}
