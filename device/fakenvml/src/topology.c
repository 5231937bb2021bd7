/* SPDX-License-Identifier: MPL-2.0 */
/* Common ancestors, peer access and affinity. */
#include <string.h>

#include "fake.h"

EXPORT ret_t nvmlDeviceGetTopologyCommonAncestor(void *first, void *second, int *level) {
  ENTER_DEVICE(first);
  VISIT(other, fake_enter_device(__func__, second, &other));
  if (other.mig != NULL) return NOT_SUPPORTED;
  if (level == NULL || g->index == other.gpu->index) return INVALID_ARGUMENT;
  int path = v.state->path[g->index][other.gpu->index];
  if (path == 0) return NOT_SUPPORTED;
  *level = path == PATH_INTERNAL ? 0 : path;
  return OK;
}

/* Whether a link of the GPU leads to the other, directly or through a switch. */
static int linked(const gpu_t *g, const gpu_t *other) {
  for (int i = 0; i < MAX_LINKS; i++) {
    const link_t *l = &g->link[i];
    if (l->state != LINK_UP) continue;
    if (l->kind == REMOTE_SWITCH || strcmp(l->remote, other->pci) == 0) return 1;
  }
  return 0;
}

/* nvmlGpuP2PCapsIndex_t: read 0, write 1, NVLink 2, atomics 3, PCI 4. NVLink and
 * atomics follow from the links; the rest is what the fixture says of the pair. */
EXPORT ret_t nvmlDeviceGetP2PStatus(void *first, void *second, int index, int *status) {
  enum { P2P_NOT_SUPPORTED = 5 };
  ENTER_DEVICE(first);
  VISIT(other, fake_enter_device(__func__, second, &other));
  if (other.mig != NULL) return NOT_SUPPORTED;
  if (status == NULL || index < 0 || index > 4 || g->index == other.gpu->index)
    return INVALID_ARGUMENT;
  int known = v.state->p2p[g->index][other.gpu->index];
  if (known == 0) return NOT_SUPPORTED;
  *status = known - 1;
  if ((index == 2 || index == 3) && !linked(g, other.gpu)) *status = P2P_NOT_SUPPORTED;
  return OK;
}

/* Sets bits of a mask of size words; too small a mask is INSUFFICIENT_SIZE. */
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
  return set_bits(g->numa_node, g->numa_node, size, nodes);
}

EXPORT ret_t nvmlDeviceGetCpuAffinityWithinScope(void *device, unsigned int size,
                                                 unsigned long *cpus, unsigned int scope) {
  ENTER_DEVICE(device);
  if (scope > 1) return INVALID_ARGUMENT;
  return set_bits(g->cpu_first, g->cpu_last, size, cpus);
}

EXPORT ret_t nvmlDeviceGetCpuAffinity(void *device, unsigned int size, unsigned long *cpus) {
  ENTER_DEVICE(device);
  return set_bits(g->cpu_first, g->cpu_last, size, cpus);
}
