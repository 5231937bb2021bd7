/* SPDX-License-Identifier: MPL-2.0 */
/* Event sets: XIDs that the control file lists are delivered once to each set
 * that was created before they were written.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device.h"
#include "watch.h"

enum { EVENT_XID = 8 };

EXPORT WIDE_CALL(nvmlDeviceGetSupportedEventTypes, event_types)

typedef struct {
  int64_t delivered; /* highest sequence already given out */
  unsigned long long types[MAX_GPUS];
  watch_t control; /* a waiter sleeps until the control file changes */
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
  fake_watch_open(&new_set->control, getenv("FAKENVML_CONTROL"));
  new_set->delivered = last_sequence(v.state);
  *set = new_set;
  return OK;
}

EXPORT ret_t nvmlEventSetFree(void *set) {
  ENTER();
  if (set == NULL) return INVALID_ARGUMENT;
  fake_watch_close(&((set_t *)set)->control);
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
  data->gpu_instance = next->gi < 0 ? NO_INSTANCE : (unsigned int)next->gi;
  data->compute_instance = next->ci < 0 ? NO_INSTANCE : (unsigned int)next->ci;
  set->delivered = next->sequence;
  return 1;
}

static ret_t look(set_t *set, event_data_t *data, const char *call) {
  VISIT(v, fake_enter(call, &v));
  return take(v.state, set, data) ? OK : TIMEOUT;
}

static long long milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Sleeps until the control file may have changed, at most until then. Without
 * a control file nothing ever changes; one that cannot be watched is looked at
 * twenty times a second. */
static void sleep_until(watch_t *control, long long end) {
  const int step = control->fd < 0 && control->path[0] != '\0' ? 50 : 3600 * 1000;
  struct pollfd watched = {control->fd, POLLIN, 0};
  for (long long left = end - milliseconds(); left > 0; left = end - milliseconds()) {
    int n = poll(&watched, 1, left < step ? (int)left : step);
    if (n < 0 && errno != EINTR) return;
    if (n > 0 && fake_watch_changed(control)) {
      fake_expect_change(); /* the kernel tells one watch of the file after the other */
      return;
    }
    if (n == 0 && control->fd < 0) return;
  }
}

EXPORT ret_t nvmlEventSetWait_v2(void *set, event_data_t *data, unsigned int timeout_ms) {
  if (set == NULL || data == NULL) return INVALID_ARGUMENT;
  /* One more than asked for: milliseconds() rounds down, and a wait is never short. */
  const long long end = milliseconds() + timeout_ms + (timeout_ms > 0);
  for (;;) {
    ret_t ret = look(set, data, __func__);
    if (ret != TIMEOUT || milliseconds() >= end) return ret;
    sleep_until(&((set_t *)set)->control, end);
  }
}
