/* SPDX-License-Identifier: MPL-2.0 */
/* NVLinks, common ancestors, affinity, and field values. */
#include <string.h>

#include "fake.h"

/* nvmlDeviceGetNvLink*: a link that the GPU does not have is NOT_SUPPORTED. */
#define LINK(device, n)                               \
  ENTER_DEVICE(device);                               \
  if ((n) >= MAX_LINKS) return INVALID_ARGUMENT;      \
  const link_t *l = &g.link[n];                       \
  if (l->state == LINK_NONE) return NOT_SUPPORTED

EXPORT ret_t nvmlDeviceGetNvLinkState(void *device, unsigned int link, int *active) {
  LINK(device, link);
  if (active == NULL) return INVALID_ARGUMENT;
  *active = l->state == LINK_UP;
  return OK;
}

EXPORT ret_t nvmlDeviceGetNvLinkVersion(void *device, unsigned int link, unsigned int *version) {
  LINK(device, link);
  (void)l;
  ANSWER(version, g.nvlink_version);
}

/* nvlink_remote_type 0 in a fixture makes the call answer NOT_SUPPORTED, as
 * old drivers and some virtual machines do. */
EXPORT ret_t nvmlDeviceGetNvLinkRemoteDeviceType(void *device, unsigned int link, int *type) {
  LINK(device, link);
  if (g.nvlink_remote_type == 0) return NOT_SUPPORTED;
  ANSWER(type, l->kind);
}

EXPORT ret_t nvmlDeviceGetNvLinkCapability(void *device, unsigned int link, int capability,
                                           unsigned int *result) {
  LINK(device, link);
  (void)l;
  if (capability < 0 || capability > 5) return INVALID_ARGUMENT;
  if (result == NULL) return INVALID_ARGUMENT;
  *result = capability == 0; /* P2P supported */
  return OK;
}

EXPORT ret_t nvmlDeviceGetTopologyCommonAncestor(void *first, void *second, int *level) {
  gpu_t other;
  ENTER_DEVICE(first);
  ret_t ret = fake_enter_device(__func__, second, &other);
  if (ret != OK) return ret;
  if (level == NULL || g.index == other.index) return INVALID_ARGUMENT;
  int path = fake_lock()->path[g.index][other.index];
  fake_unlock();
  if (path == 0) return NOT_SUPPORTED;
  *level = path;
  return OK;
}

/* Sets one bit of a mask of size words; too small a mask is INSUFFICIENT_SIZE. */
static ret_t set_bits(int64_t first, int64_t last, unsigned int size, unsigned long *mask) {
  if (mask == NULL || size == 0) return INVALID_ARGUMENT;
  if (first == ABSENT || last == ABSENT) return NOT_SUPPORTED;
  const int64_t bits = 8 * (int64_t)sizeof(unsigned long);
  if (last >= (int64_t)size * bits) return INSUFFICIENT_SIZE;
  memset(mask, 0, size * sizeof *mask);
  for (int64_t b = first; b <= last; b++) mask[b / bits] |= 1ul << (b % bits);
  return OK;
}

EXPORT ret_t nvmlDeviceGetMemoryAffinity(void *device, unsigned int size, unsigned long *nodes,
                                         unsigned int scope) {
  ENTER_DEVICE(device);
  if (scope > 1) return INVALID_ARGUMENT;
  return set_bits(g.numa_node, g.numa_node, size, nodes);
}

EXPORT ret_t nvmlDeviceGetCpuAffinityWithinScope(void *device, unsigned int size,
                                                 unsigned long *cpus, unsigned int scope) {
  ENTER_DEVICE(device);
  if (scope > 1) return INVALID_ARGUMENT;
  return set_bits(g.cpu_first, g.cpu_last, size, cpus);
}

EXPORT ret_t nvmlDeviceGetCpuAffinity(void *device, unsigned int size, unsigned long *cpus) {
  ENTER_DEVICE(device);
  return set_bits(g.cpu_first, g.cpu_last, size, cpus);
}

typedef union {
  double real;
  unsigned int u32;
  unsigned long long u64;
} value_t;

typedef struct {
  unsigned int id, scope;
  long long timestamp, latency;
  int type; /* nvmlValueType_t: unsigned int 1, unsigned long long 3 */
  ret_t ret;
  value_t value;
} field_t;

static int count_links(const gpu_t *g, int only_up, int only_switch) {
  int n = 0;
  for (int i = 0; i < MAX_LINKS; i++) {
    if (g->link[i].state == LINK_NONE) continue;
    if (only_up && g->link[i].state != LINK_UP) continue;
    if (only_switch && g->link[i].kind != REMOTE_SWITCH) continue;
    n++;
  }
  return n;
}

/* Field ids as in nvml.h (NVML_FI_DEV_*). */
static int64_t field(const gpu_t *g, const field_t *f) {
  switch (f->id) {
    case 83: return g->energy;                                           /* TOTAL_ENERGY */
    case 90: return count_links(g, 1, 0) > 0 ? g->nvlink_speed : ABSENT; /* SPEED_MBPS_COMMON */
    case 91: return count_links(g, 0, 0);                                /* LINK_COUNT */
    case 147: return g->nvlink_remote_type == 0 ? ABSENT : count_links(g, 1, 1);
    case 164: /* GET_SPEED of link scope */
      if (f->scope >= MAX_LINKS || g->link[f->scope].state != LINK_UP) return ABSENT;
      return g->nvlink_speed;
    case 230: return g->recovery_action; /* GET_GPU_RECOVERY_ACTION */
    default: return ABSENT;
  }
}

EXPORT ret_t nvmlDeviceGetFieldValues(void *device, int count, field_t *values) {
  ENTER_DEVICE(device);
  if (count < 1 || values == NULL) return INVALID_ARGUMENT;
  for (int i = 0; i < count; i++) {
    int64_t v = field(&g, &values[i]);
    values[i].timestamp = 0;
    values[i].latency = 0;
    values[i].type = values[i].id == 83 ? 3 : 1;
    values[i].ret = v == ABSENT ? NOT_SUPPORTED : OK;
    values[i].value.u64 = v == ABSENT ? 0 : (unsigned long long)v;
  }
  return OK;
}
