/* SPDX-License-Identifier: MPL-2.0 */
/* The library's state, the rules that every call obeys, and the control file. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fake.h"
#include "watch.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int users;          /* nvmlInit calls not yet shut down */
static state_t *base;      /* the fixture */
static state_t *live;      /* the fixture with the control file on top */
static struct stat seen;   /* the control file as last read */
static int have_seen;
static watch_t control = {.fd = -1};
static int told; /* somebody else saw the control file change */

/* The mutex is held in all but the functions that the header declares. */

static void let_go(state_t *s) {
  if (s != NULL && --s->users == 0) free(s);
}

static void go_live(state_t *s) {
  if (live == s) return;
  s->users++;
  let_go(live);
  live = s;
}

static void nap(double seconds) {
  struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  nanosleep(&t, NULL);
}

/* Reads the control file over the fixture. A broken one changes nothing. */
static void reread(const char *file) {
  state_t *next = malloc(sizeof *next);
  if (next == NULL) return;
  *next = *base;
  next->users = 1;
  if (fake_parse(file, next, 1) == 0) go_live(next);
  let_go(next);
}

/* Whether a file that cannot be watched is the one last read, as far as its
 * status can tell. */
static int same(const struct stat *now) {
  return have_seen && now->st_ino == seen.st_ino && now->st_size == seen.st_size &&
         now->st_mtim.tv_sec == seen.st_mtim.tv_sec && now->st_mtim.tv_nsec == seen.st_mtim.tv_nsec;
}

static void refresh(void) {
  const char *file = getenv("FAKENVML_CONTROL");
  if (file == NULL || *file == '\0') return;
  if (strcmp(file, control.path) != 0) {
    fake_watch_close(&control);
    fake_watch_open(&control, file);
    have_seen = 0;
  } else if (!fake_watch_changed(&control) && !told) {
    return;
  }
  told = 0;
  struct stat now;
  if (stat(file, &now) != 0) {
    have_seen = 0;
    go_live(base);
    return;
  }
  if (control.fd < 0 && same(&now)) return;
  seen = now;
  have_seen = 1;
  reread(file);
}

void fake_expect_change(void) {
  pthread_mutex_lock(&mutex);
  told = 1;
  pthread_mutex_unlock(&mutex);
}

/* Checks what nvmlInit promises to the other calls. */
static int complete(const char *file, const state_t *s) {
  for (int i = 0; i < s->count; i++) {
    const gpu_t *g = &s->gpu[i];
    if (g->uuid[0] == '\0' || g->pci[0] == '\0' || g->name[0] == '\0') {
      fprintf(stderr, "fakenvml: %s: gpu %d lacks its name, uuid or pci\n", file, i);
      return 0;
    }
  }
  return 1;
}

static ret_t load(void) {
  const char *file = getenv("FAKENVML_FIXTURE");
  if (file == NULL || *file == '\0') {
    fprintf(stderr, "fakenvml: FAKENVML_FIXTURE is not set: it names the compiled fixture\n");
    return DRIVER_NOT_LOADED;
  }
  state_t *next = calloc(1, sizeof *next);
  if (next == NULL) return NO_MEMORY;
  next->users = 1;
  if (fake_parse(file, next, 0) != 0 || !complete(file, next)) {
    let_go(next);
    return ERROR_UNKNOWN;
  }
  let_go(base);
  base = next;
  go_live(base);
  have_seen = 0;
  fake_watch_close(&control);
  return OK;
}

ret_t fake_init(void) {
  pthread_mutex_lock(&mutex);
  ret_t ret = users == 0 ? load() : OK;
  if (ret == OK) {
    refresh();
    ret = (ret_t)or_zero(live->init_error);
  }
  if (ret == OK) users++;
  pthread_mutex_unlock(&mutex);
  return ret;
}

ret_t fake_shutdown(void) {
  pthread_mutex_lock(&mutex);
  ret_t ret = users > 0 ? OK : UNINITIALIZED;
  if (users > 0 && --users == 0) fake_watch_close(&control);
  pthread_mutex_unlock(&mutex);
  return ret;
}

/* Hang and fail lines name a call, or * for any. */
static const fault_t *fault(const char *call, int gpu, int hang) {
  for (int i = 0; i < live->faults; i++) {
    const fault_t *f = &live->fault[i];
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
    if (users == 0) return UNINITIALIZED;
  }
  if (or_zero(live->call_error) != 0) return (ret_t)live->call_error;
  const fault_t *wrong = fault(call, gpu, 0);
  return wrong != NULL ? wrong->code : OK;
}

static void visit(visit_t *v) {
  live->users++;
  v->state = live;
}

ret_t fake_enter(const char *call, visit_t *v) {
  pthread_mutex_lock(&mutex);
  ret_t ret = admit(call, -1);
  if (ret == OK) visit(v);
  pthread_mutex_unlock(&mutex);
  return ret;
}

/* Opens a call on the GPU with that index. */
ret_t fake_enter_gpu(const char *call, int gpu, visit_t *v) {
  pthread_mutex_lock(&mutex);
  ret_t ret = users == 0 ? UNINITIALIZED : INVALID_ARGUMENT;
  if (users > 0 && gpu >= 0 && gpu < live->count) {
    ret = admit(call, gpu);
    if (ret == OK && live->gpu[gpu].lost != 0) ret = GPU_IS_LOST;
    if (ret == OK) {
      visit(v);
      v->gpu = &live->gpu[gpu];
    }
  }
  pthread_mutex_unlock(&mutex);
  return ret;
}

/* Opens a call on a GPU's or a MIG device's handle. One of a MIG device that is
 * gone is an invalid argument. */
ret_t fake_enter_device(const char *call, const void *handle, visit_t *v) {
  int gpu = fake_gpu_of(handle);
  ret_t ret = fake_enter_gpu(call, gpu, v);
  if (ret != OK || handle == fake_gpu_handle(gpu)) return ret;
  v->mig = fake_mig_of(v->state, gpu, handle);
  return v->mig == NULL ? INVALID_ARGUMENT : OK;
}

void fake_leave(visit_t *v) {
  if (v->state == NULL) return;
  pthread_mutex_lock(&mutex);
  let_go((state_t *)v->state);
  pthread_mutex_unlock(&mutex);
  v->state = NULL;
}

ret_t fake_text(const char *value, char *out, unsigned int length) {
  if (out == NULL) return INVALID_ARGUMENT;
  if (value[0] == '\0') return NOT_SUPPORTED;
  if (strlen(value) + 1 > length) return INSUFFICIENT_SIZE;
  strcpy(out, value);
  return OK;
}
