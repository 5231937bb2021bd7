/* SPDX-License-Identifier: MPL-2.0 */
/* Field values: numbers by id (NVML_FI_DEV_*). */
#include "fake.h"

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
    int64_t n = field(g, &values[i]);
    values[i].timestamp = 0;
    values[i].latency = 0;
    values[i].type = values[i].id == 83 ? 3 : 1;
    values[i].ret = n == ABSENT ? NOT_SUPPORTED : OK;
    values[i].value.u64 = n == ABSENT ? 0 : (unsigned long long)n;
  }
  return OK;
}
