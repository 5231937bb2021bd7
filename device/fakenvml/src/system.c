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
    default: return "Unknown Error";
  }
}

static ret_t system_text(size_t offset, char *out, unsigned int length) {
  const state_t *s = fake_lock();
  ret_t ret = fake_text((const char *)s + offset, out, length);
  fake_unlock();
  return ret;
}

EXPORT ret_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
  ENTER();
  return system_text(offsetof(state_t, driver_version), version, length);
}

EXPORT ret_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
  ENTER();
  return system_text(offsetof(state_t, nvml_version), version, length);
}

EXPORT ret_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
  ENTER();
  if (version == NULL) return INVALID_ARGUMENT;
  *version = (int)fake_lock()->cuda_version;
  fake_unlock();
  return OK;
}

EXPORT ret_t nvmlSystemGetCudaDriverVersion(int *version) {
  return nvmlSystemGetCudaDriverVersion_v2(version);
}

EXPORT ret_t nvmlDeviceGetCount_v2(unsigned int *count) {
  ENTER();
  if (count == NULL) return INVALID_ARGUMENT;
  *count = (unsigned int)fake_lock()->count;
  fake_unlock();
  return OK;
}

EXPORT ret_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
  if (device == NULL) return INVALID_ARGUMENT;
  ENTER();
  const state_t *s = fake_lock();
  ret_t ret = index < (unsigned int)s->count ? OK : INVALID_ARGUMENT;
  fake_unlock();
  if (ret != OK) return ret;
  gpu_t g;
  ret = fake_enter_device(__func__, fake_handle((int)index), &g);
  if (ret == OK) *device = fake_handle((int)index);
  return ret;
}

/* Finds the GPU whose text at offset equals value, or NOT_FOUND. */
static ret_t find(size_t offset, const char *value, void **device) {
  if (value == NULL || device == NULL) return INVALID_ARGUMENT;
  const state_t *s = fake_lock();
  int index = -1, lost = 0;
  for (int i = 0; i < s->count; i++) {
    if (strcasecmp((const char *)&s->gpu[i] + offset, value) == 0) {
      index = i;
      lost = s->gpu[i].lost != 0;
    }
  }
  fake_unlock();
  if (index < 0) return NOT_FOUND;
  if (lost) return GPU_IS_LOST;
  *device = fake_handle(index);
  return OK;
}

EXPORT ret_t nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  ENTER();
  return find(offsetof(gpu_t, uuid), uuid, device);
}

EXPORT ret_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **device) {
  ENTER();
  if (bus == NULL) return INVALID_ARGUMENT;
  unsigned int domain, b, d, f;
  char sysfs[TEXT];
  if (sscanf(bus, "%x:%x:%x.%x", &domain, &b, &d, &f) != 4) return INVALID_ARGUMENT;
  snprintf(sysfs, sizeof sysfs, "%04x:%02x:%02x.%x", domain, b, d, f);
  return find(offsetof(gpu_t, pci), sysfs, device);
}
