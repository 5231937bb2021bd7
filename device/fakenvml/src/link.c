/* SPDX-License-Identifier: MPL-2.0 */
/* NVLinks. */
#include "device.h"

/* A link that the GPU does not have is NOT_SUPPORTED. */
#define LINK(device, n)                                     \
  ENTER_DEVICE(device);                                     \
  if ((n) >= MAX_LINKS) return INVALID_ARGUMENT;            \
  const link_t *l __attribute__((unused)) = &g->link[n];    \
  if (l->state == LINK_NONE) return NOT_SUPPORTED

EXPORT ret_t nvmlDeviceGetNvLinkState(void *device, unsigned int link, unsigned int *active) {
  LINK(device, link);
  ANSWER(active, l->state == LINK_UP);
}

EXPORT ret_t nvmlDeviceGetNvLinkVersion(void *device, unsigned int link, unsigned int *version) {
  LINK(device, link);
  ANSWER(version, g->nvlink_version);
}

/* nvlink_remote_type 0 in a fixture makes the call answer NOT_SUPPORTED, as
 * old drivers and some virtual machines do. */
SINCE(510) ret_t nvmlDeviceGetNvLinkRemoteDeviceType(void *device, unsigned int link, int *type) {
  LINK(device, link);
  if (g->nvlink_remote_type == 0) return NOT_SUPPORTED;
  ANSWER(type, l->kind);
}

EXPORT ret_t nvmlDeviceGetNvLinkRemotePciInfo_v2(void *device, unsigned int link,
                                                 pci_info_t *out) {
  LINK(device, link);
  return fake_pci_info(l->remote, ABSENT, ABSENT, out);
}

/* nvmlNvLinkCapability_t: peer access 0, peer atomics 2, and a valid link 5;
 * system memory 1 and 3 and SLI 4 are not for these links. */
EXPORT ret_t nvmlDeviceGetNvLinkCapability(void *device, unsigned int link, int capability,
                                           unsigned int *result) {
  LINK(device, link);
  if (capability < 0 || capability > 5) return INVALID_ARGUMENT;
  ANSWER(result, capability == 0 || capability == 2 || capability == 5);
}

/* nvmlNvLinkErrorCounter_t. */
EXPORT ret_t nvmlDeviceGetNvLinkErrorCounter(void *device, unsigned int link, int counter,
                                             unsigned long long *out) {
  LINK(device, link);
  const int64_t count[] = {l->replay, l->recovery, l->crc_flit, l->crc_data, l->ecc_data};
  if (counter < 0 || counter > 4) return INVALID_ARGUMENT;
  ANSWER(out, count[counter]);
}
