/* SPDX-License-Identifier: MPL-2.0 */
/* What one device is. */
#include <stdio.h>
#include <string.h>

#include "device.h"

EXPORT TEXT_CALL(nvmlDeviceGetSerial, serial)
EXPORT TEXT_CALL(nvmlDeviceGetBoardPartNumber, board)
EXPORT TEXT_CALL(nvmlDeviceGetVbiosVersion, vbios)

EXPORT NUMBER_CALL(nvmlDeviceGetMinorNumber, minor)
EXPORT NUMBER_CALL(nvmlDeviceGetBoardId, board_id)
EXPORT NUMBER_CALL(nvmlDeviceGetMultiGpuBoard, multi_gpu_board)
SINCE(535) NUMBER_CALL(nvmlDeviceGetModuleId, module_id)
EXPORT NUMBER_CALL(nvmlDeviceGetBrand, brand)
EXPORT NUMBER_CALL(nvmlDeviceGetArchitecture, arch)
EXPORT NUMBER_CALL(nvmlDeviceGetPersistenceMode, persistence)
EXPORT NUMBER_CALL(nvmlDeviceGetDisplayMode, display_mode)
EXPORT NUMBER_CALL(nvmlDeviceGetDisplayActive, display_active)
EXPORT NUMBER_CALL(nvmlDeviceGetVirtualizationMode, virtualization)
SINCE(510) NUMBER_CALL(nvmlDeviceGetMemoryBusWidth, bus_width)
EXPORT NUMBER_CALL(nvmlDeviceGetMaxPcieLinkGeneration, pcie_gen_max)
EXPORT NUMBER_CALL(nvmlDeviceGetMaxPcieLinkWidth, pcie_width_max)
SINCE(510) WHOLE_GPU_CALL(nvmlDeviceGetNumGpuCores, cores)

EXPORT ret_t nvmlDeviceGetUUID(void *device, char *out, unsigned int length) {
  ENTER_ANY(device);
  return fake_text(v.mig != NULL ? v.mig->uuid : g->uuid, out, length);
}

EXPORT ret_t nvmlDeviceGetName(void *device, char *out, unsigned int length) {
  ENTER_ANY(device);
  char name[2 * TEXT + 16];
  if (v.mig == NULL) return fake_text(g->name, out, length);
  fake_mig_name(v.state, g, v.mig, name, sizeof name);
  return fake_text(name, out, length);
}

/* A MIG device's index is the one by which its parent lists it. */
EXPORT ret_t nvmlDeviceGetIndex(void *device, unsigned int *index) {
  ENTER_ANY(device);
  ANSWER(index, v.mig != NULL ? fake_mig_index(g, v.mig) : g->index);
}

/* In MIG mode the MIG devices have compute modes, and the GPU has none. */
EXPORT ret_t nvmlDeviceGetComputeMode(void *device, unsigned int *mode) {
  ENTER_ANY(device);
  if (v.mig == NULL && mig_enabled(g)) return NOT_SUPPORTED;
  ANSWER(mode, g->compute_mode);
}

EXPORT ret_t nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
  ENTER_DEVICE(device);
  if (minor == NULL) return INVALID_ARGUMENT;
  *minor = (int)g->cc_minor;
  ANSWER(major, g->cc_major);
}

/* Fills an nvmlPciInfo_t from a bus id in sysfs form. */
ret_t fake_pci_info(const char *sysfs, int64_t id, int64_t subsystem, pci_info_t *out) {
  unsigned int function;
  if (out == NULL) return INVALID_ARGUMENT;
  memset(out, 0, sizeof *out);
  if (sscanf(sysfs, "%x:%x:%x.%x", &out->domain, &out->bus, &out->device, &function) != 4)
    return ERROR_UNKNOWN;
  out->device_id = (unsigned int)or_zero(id);
  out->subsystem_id = (unsigned int)or_zero(subsystem);
  snprintf(out->legacy, sizeof out->legacy, "%04X:%02X:%02X.%X", out->domain & 0xffff,
           out->bus & 0xff, out->device & 0xff, function & 0xf);
  snprintf(out->bus_id, sizeof out->bus_id, "%08X:%02X:%02X.%X", out->domain, out->bus,
           out->device, function);
  return OK;
}

EXPORT ret_t nvmlDeviceGetPciInfo_v3(void *device, pci_info_t *out) {
  ENTER_DEVICE(device);
  return fake_pci_info(g->pci, g->pci_device_id, g->pci_subsystem_id, out);
}

EXPORT ret_t nvmlDeviceGetPciInfo_v2(void *device, pci_info_t *out) {
  return nvmlDeviceGetPciInfo_v3(device, out);
}
