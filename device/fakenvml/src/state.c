/* SPDX-License-Identifier: MPL-2.0 */
/* The library's state, the rules that every call obeys, and the control file. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fake.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int users;          /* nvmlInit calls not yet shut down */
static state_t base, live; /* the fixture; the fixture with the control file on top */
static state_t scratch;    /* where a control file is read before it is believed */
static struct stat seen;   /* the control file as last read */
static int have_seen;

/* Handles are the addresses of these bytes; they stay valid across reloads. */
static char handles[MAX_GPUS];

void *fake_handle(int index) { return &handles[index]; }

const state_t *fake_lock(void) {
  pthread_mutex_lock(&mutex);
  return &live;
}

void fake_unlock(void) { pthread_mutex_unlock(&mutex); }

static void nap(double seconds) {
  struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  nanosleep(&t, NULL);
}

/* Reads the control file if it changed. A broken one changes nothing. */
static void refresh(void) {
  const char *file = getenv("FAKENVML_CONTROL");
  struct stat now;
  if (file == NULL || *file == '\0') return;
  if (stat(file, &now) != 0) {
    if (have_seen) live = base;
    have_seen = 0;
    return;
  }
  if (have_seen && now.st_ino == seen.st_ino && now.st_size == seen.st_size &&
      now.st_mtim.tv_sec == seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
    return;
  seen = now;
  have_seen = 1;
  scratch = base;
  if (fake_parse(file, &scratch, 1) == 0) live = scratch;
}

/* Checks what nvmlInit promises to the other calls. */
static int complete(const char *file) {
  for (int i = 0; i < base.count; i++) {
    if (base.gpu[i].uuid[0] == '\0' || base.gpu[i].pci[0] == '\0' || base.gpu[i].name[0] == '\0') {
      fprintf(stderr, "fakenvml: %s: gpu %d lacks its name, uuid or pci\n", file, i);
      return 0;
    }
  }
  return 1;
}

ret_t fake_init(void) {
  pthread_mutex_lock(&mutex);
  ret_t ret = OK;
  if (users == 0) {
    const char *file = getenv("FAKENVML_FIXTURE");
    memset(&base, 0, sizeof base);
    if (file == NULL || *file == '\0') {
      fprintf(stderr, "fakenvml: FAKENVML_FIXTURE is not set: it names the compiled fixture\n");
      ret = DRIVER_NOT_LOADED;
    } else if (fake_parse(file, &base, 0) != 0 || !complete(file)) {
      ret = ERROR_UNKNOWN;
    } else {
      live = base;
      have_seen = 0;
    }
  }
  if (ret == OK) {
    refresh();
    ret = (ret_t)live.init_error;
  }
  if (ret == OK) users++;
  pthread_mutex_unlock(&mutex);
  return ret;
}

ret_t fake_shutdown(void) {
  pthread_mutex_lock(&mutex);
  ret_t ret = users > 0 ? OK : UNINITIALIZED;
  if (users > 0) users--;
  pthread_mutex_unlock(&mutex);
  return ret;
}

/* Hang and fail lines name a call, or * for any. */
static const fault_t *fault(const char *call, int gpu, int hang) {
  for (int i = 0; i < live.faults; i++) {
    const fault_t *f = &live.fault[i];
    if ((strcmp(f->call, call) == 0 || strcmp(f->call, "*") == 0) &&
        (f->gpu < 0 || f->gpu == gpu) && (f->seconds > 0) == hang)
      return f;
  }
  return NULL;
}

static ret_t admit(const char *call, int gpu) {
  if (users == 0) return UNINITIALIZED;
  refresh();
  const fault_t *late = fault(call, gpu, 1);
  if (late != NULL) {
    double seconds = late->seconds;
    pthread_mutex_unlock(&mutex);
    nap(seconds);
    pthread_mutex_lock(&mutex);
  }
  if (live.call_error != 0) return (ret_t)live.call_error;
  const fault_t *wrong = fault(call, gpu, 0);
  return wrong != NULL ? wrong->code : OK;
}

ret_t fake_enter(const char *call) {
  pthread_mutex_lock(&mutex);
  ret_t ret = admit(call, -1);
  pthread_mutex_unlock(&mutex);
  return ret;
}

ret_t fake_enter_device(const char *call, const void *handle, gpu_t *copy) {
  const char *h = handle;
  pthread_mutex_lock(&mutex);
  ret_t ret = INVALID_ARGUMENT;
  if (users == 0) {
    ret = UNINITIALIZED;
  } else if (h >= handles && h < handles + live.count) {
    int index = (int)(h - handles);
    ret = admit(call, index);
    if (ret == OK && live.gpu[index].lost != 0) ret = GPU_IS_LOST;
    if (ret == OK) *copy = live.gpu[index];
  }
  pthread_mutex_unlock(&mutex);
  return ret;
}

ret_t fake_text(const char *value, char *out, unsigned int length) {
  if (out == NULL) return INVALID_ARGUMENT;
  if (value[0] == '\0') return NOT_SUPPORTED;
  if (strlen(value) + 1 > length) return INSUFFICIENT_SIZE;
  strcpy(out, value);
  return OK;
}
