/* SPDX-License-Identifier: MPL-2.0 */
/* Event sets: XIDs that the control file lists are delivered once to each set
 * that was created before they were written. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device.h"

enum { EVENT_XID = 8 };

WIDE_CALL(nvmlDeviceGetSupportedEventTypes, event_types)

typedef struct {
  int64_t delivered; /* highest sequence already given out */
  unsigned long long types[MAX_GPUS];
} set_t;

typedef struct {
  void *device;
  unsigned long long type, data;
  unsigned int gpu_instance, compute_instance;
} event_data_t;

static int64_t last_sequence(const state_t *s) {
  int64_t last = 0;
  for (int i = 0; i < s->events; i++)
    if (s->event[i].sequence > last) last = s->event[i].sequence;
  return last;
}

EXPORT ret_t nvmlEventSetCreate(void **set) {
  ENTER();
  if (set == NULL) return INVALID_ARGUMENT;
  set_t *new_set = calloc(1, sizeof *new_set);
  if (new_set == NULL) return NO_MEMORY;
  new_set->delivered = last_sequence(v.state);
  *set = new_set;
  return OK;
}

EXPORT ret_t nvmlEventSetFree(void *set) {
  ENTER();
  if (set == NULL) return INVALID_ARGUMENT;
  free(set);
  return OK;
}

/* MIG devices have no events of their own: their GPU has them. */
EXPORT ret_t nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
  ENTER_DEVICE(device);
  if (set == NULL) return INVALID_ARGUMENT;
  if (g->event_types == ABSENT || (types & ~(unsigned long long)g->event_types) != 0)
    return NOT_SUPPORTED;
  ((set_t *)set)->types[g->index] |= types;
  return OK;
}

/* Takes the oldest event not yet delivered to the set. */
static int take(const state_t *s, set_t *set, event_data_t *data) {
  const event_t *next = NULL;
  for (int i = 0; i < s->events; i++) {
    const event_t *e = &s->event[i];
    if (e->sequence <= set->delivered || (set->types[e->gpu] & EVENT_XID) == 0) continue;
    if (next == NULL || e->sequence < next->sequence) next = e;
  }
  if (next == NULL) return 0;
  memset(data, 0, sizeof *data);
  data->device = fake_gpu_handle(next->gpu);
  data->type = EVENT_XID;
  data->data = (unsigned long long)next->xid;
  data->gpu_instance = data->compute_instance = NO_INSTANCE;
  set->delivered = next->sequence;
  return 1;
}

EXPORT ret_t nvmlEventSetWait_v2(void *set, event_data_t *data, unsigned int timeout_ms) {
  if (set == NULL || data == NULL) return INVALID_ARGUMENT;
  struct timespec start, now, step = {0, 20 * 1000 * 1000};
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (;;) {
    ENTER();
    if (take(v.state, set, data)) return OK;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long waited = (now.tv_sec - start.tv_sec) * 1000LL + (now.tv_nsec - start.tv_nsec) / 1000000;
    if (waited >= (long long)timeout_ms) return TIMEOUT;
    nanosleep(&step, NULL);
  }
}
