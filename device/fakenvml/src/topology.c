/* SPDX-License-Identifier: MPL-2.0 */
/* Common ancestors and affinity. */
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
