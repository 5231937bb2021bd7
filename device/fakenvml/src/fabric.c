/* SPDX-License-Identifier: MPL-2.0 */
/* A GPU's place in a multi-node NVLink fabric and in its rack, and its link to
 * the host's processor.
 */
#include <stdio.h>
#include <string.h>

#include "device.h"

enum { UUID_BYTES = 16 };

typedef struct {
  unsigned char cluster[UUID_BYTES];
  ret_t status;
  unsigned int clique;
  unsigned char state;
} fabric_t;

typedef struct {
  unsigned int version;
  unsigned char cluster[UUID_BYTES];
  ret_t status;
  unsigned int clique;
  unsigned char state;
  unsigned int health;
} fabric_v2_t;

typedef struct {
  unsigned int version;
  unsigned char cluster[UUID_BYTES];
  ret_t status;
  unsigned int clique;
  unsigned char state;
  unsigned int health;
  unsigned char summary;
} fabric_v3_t;

/* A UUID's text to its bytes; one that is not given is all zeros. */
static void uuid_bytes(const char *text, unsigned char out[UUID_BYTES]) {
  memset(out, 0, UUID_BYTES);
  for (int n = 0; n < UUID_BYTES && *text != '\0'; text++) {
    unsigned int byte;
    if (*text == '-' || sscanf(text, "%2x", &byte) != 1) continue;
    out[n++] = (unsigned char)byte;
    text++;
  }
}

/* NVML_GPU_FABRIC_HEALTH_MASK_*: states of two bits, one of four. */
static unsigned int health_mask(const gpu_t *g) {
  int64_t mask = or_zero(g->fabric_degraded_bandwidth);
  mask |= or_zero(g->fabric_route_recovery) << 2;
  mask |= or_zero(g->fabric_route_unhealthy) << 4;
  mask |= or_zero(g->fabric_access_timeout) << 6;
  mask |= or_zero(g->fabric_incorrect_config) << 8;
  mask |= or_zero(g->fabric_partition) << 12;
  return (unsigned int)mask;
}

#define FILL_FABRIC(out, g)                                  \
  do {                                                       \
    uuid_bytes((g)->fabric_cluster, (out)->cluster);         \
    (out)->status = (ret_t)or_zero((g)->fabric_status);      \
    (out)->clique = (unsigned int)or_zero((g)->fabric_clique); \
    (out)->state = (unsigned char)(g)->fabric_state;         \
  } while (0)

SINCE(520) ret_t nvmlDeviceGetGpuFabricInfo(void *device, fabric_t *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  if (g->fabric_state == ABSENT) return NOT_SUPPORTED;
  FILL_FABRIC(out, g);
  return OK;
}

SINCE(545) ret_t nvmlDeviceGetGpuFabricInfoV(void *device, void *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  unsigned int version = *(unsigned int *)out;
  fabric_v2_t v2 = {.version = version, .health = health_mask(g)};
  fabric_v3_t v3 = {.version = version, .health = health_mask(g)};
  if (version != VERSION(v2, 2) && version != VERSION(v3, 3)) return VERSION_MISMATCH;
  if (g->fabric_state == ABSENT) return NOT_SUPPORTED;
  FILL_FABRIC(&v2, g);
  FILL_FABRIC(&v3, g);
  v3.summary = (unsigned char)or_zero(g->fabric_summary);
  if (version == VERSION(v3, 3)) memcpy(out, &v3, sizeof v3);
  else memcpy(out, &v2, sizeof v2);
  return OK;
}

/* Versions 1 and 2 have one size and differ in names alone. */
typedef struct {
  unsigned int version;
  unsigned char ib_guid[16], chassis[16];
  unsigned char slot, tray, host, peer, module;
} platform_t;

SINCE(560) ret_t nvmlDeviceGetPlatformInfo(void *device, platform_t *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  if (out->version != VERSION(*out, 1) && out->version != VERSION(*out, 2)) return VERSION_MISMATCH;
  if (g->platform_slot == ABSENT) return NOT_SUPPORTED;
  memset(out->ib_guid, 0, sizeof out->ib_guid);
  memset(out->chassis, 0, sizeof out->chassis);
  memcpy(out->chassis, g->chassis, strnlen(g->chassis, sizeof out->chassis));
  out->slot = (unsigned char)g->platform_slot;
  out->tray = (unsigned char)or_zero(g->platform_tray);
  out->host = (unsigned char)or_zero(g->platform_host);
  out->peer = (unsigned char)or_zero(g->platform_peer);
  out->module = (unsigned char)or_zero(g->platform_module);
  return OK;
}

/* nvmlC2cModeInfo_v1_t: one word, without a version. */
SINCE(545) ret_t nvmlDeviceGetC2cModeInfoV(void *device, unsigned int *enabled) {
  ENTER_DEVICE(device);
  ANSWER(enabled, g->c2c_links == ABSENT ? ABSENT : g->c2c_links > 0);
}

typedef struct {
  unsigned int version, mode;
} addressing_t;

SINCE(580) ret_t nvmlDeviceGetAddressingMode(void *device, addressing_t *out) {
  ENTER_DEVICE(device);
  if (out == NULL) return INVALID_ARGUMENT;
  if (out->version != VERSION(*out, 1)) return VERSION_MISMATCH;
  ANSWER(&out->mode, g->addressing);
}

SINCE(535) NUMBER_CALL(nvmlDeviceGetNumaNodeId, memory_numa_node)
