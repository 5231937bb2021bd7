/* SPDX-License-Identifier: MPL-2.0 */
/* The flat file format: one fact a line, words separated by single spaces.
 * keys.h has the keys.
 *
 *   fakenvml 1                             first line, the format's version
 *   system <key> <value>
 *   gpu <index> <key> <value>              text values run to the end of the line
 *   link <gpu> <link> up|down gpu|switch <pci bus id>
 *   path <gpu> <gpu> <level>               NVML's common-ancestor level
 *   profile <number> name <name>           a MIG profile, NVML_GPU_INSTANCE_PROFILE_*
 *   profile <number> <key> <value>
 *   mig <gpu> <gi> <ci> new <uuid> <profile>
 *   mig <gpu> <gi> <ci> <key> <value>
 *
 * and in a control file also
 *
 *   link <gpu> <link> down|up              state only
 *   mig <gpu> <gi> <ci> gone
 *   hang <call> <milliseconds>
 *   fail <call> <gpu|-1> <code>
 *   xid <sequence> <gpu> <xid> [<gi> <ci>]
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

typedef struct {
  const char *key;
  size_t offset;
} key_t_;

#define KEY_OF(type, name) {#name, offsetof(type, name)},
#define GPU_KEY(name) KEY_OF(gpu_t, name)
#define PROFILE_KEY(name) KEY_OF(profile_t, name)
#define MIG_KEY(name) KEY_OF(mig_t, name)

static const key_t_ gpu_numbers[] = {GPU_NUMBERS(GPU_KEY){NULL, 0}};
static const key_t_ gpu_texts[] = {GPU_TEXTS(GPU_KEY){NULL, 0}};
static const key_t_ profile_numbers[] = {PROFILE_NUMBERS(PROFILE_KEY){NULL, 0}};
static const key_t_ mig_numbers[] = {MIG_NUMBERS(MIG_KEY){NULL, 0}};

/* Makes every number of an object ABSENT. */
static void blank(void *object, const key_t_ *keys) {
  for (; keys->key != NULL; keys++) *(int64_t *)((char *)object + keys->offset) = ABSENT;
}

/* The member of an object with that key, or NULL. */
static void *member(void *object, const key_t_ *keys, const char *key) {
  for (; keys->key != NULL; keys++)
    if (strcmp(key, keys->key) == 0) return (char *)object + keys->offset;
  return NULL;
}

typedef struct {
  const char *file;
  int line;
  int is_control;
  state_t *s;
} reader_t;

static int complain(const reader_t *r, const char *format, ...) {
  char message[256];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  fprintf(stderr, "fakenvml: %s:%d: %s\n", r->file, r->line, message);
  return -1;
}

/* Takes the next word from *rest; NULL at the end of the line. */
static char *word(char **rest) {
  char *start = *rest;
  if (start == NULL || *start == '\0') return NULL;
  char *space = strchr(start, ' ');
  if (space != NULL) {
    *space = '\0';
    *rest = space + 1;
  } else {
    *rest = NULL;
  }
  return start;
}

static int number(const reader_t *r, const char *text, int64_t low, int64_t high, int64_t *out) {
  if (text == NULL) return complain(r, "a number is missing");
  char *end;
  errno = 0;
  long long v = strtoll(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0')
    return complain(r, "\"%s\" is not a whole number", text);
  if (v < low || v > high)
    return complain(r, "%lld is outside %lld..%lld", v, (long long)low, (long long)high);
  *out = v;
  return 0;
}

/* A number that indexes an array of that size. */
static int position(const reader_t *r, const char *text, int size, int *out) {
  int64_t n;
  if (number(r, text, 0, size - 1, &n) != 0) return -1;
  *out = (int)n;
  return 0;
}

static int text(const reader_t *r, const char *value, char *out) {
  if (value == NULL || *value == '\0') return complain(r, "a value is missing");
  if (strlen(value) >= TEXT) return complain(r, "the value is longer than %d bytes", TEXT - 1);
  strcpy(out, value);
  return 0;
}

static int known_gpu(const reader_t *r, const char *word, int *index) {
  if (position(r, word, MAX_GPUS, index) != 0) return -1;
  state_t *s = r->s;
  if (*index < s->count) return 0;
  if (r->is_control || *index > s->count)
    return complain(r, "gpu %d is not in the fixture, which has %d so far", *index, s->count);
  gpu_t *g = &s->gpu[*index];
  memset(g, 0, sizeof *g);
  blank(g, gpu_numbers);
  g->index = *index;
  g->lost = 0;
  s->count++;
  return 0;
}

static int read_system(const reader_t *r, char *rest) {
  const char *key = word(&rest);
  state_t *s = r->s;
  if (key == NULL) return complain(r, "system needs a key");
  if (strcmp(key, "driver_version") == 0) return text(r, rest, s->driver_version);
  if (strcmp(key, "nvml_version") == 0) return text(r, rest, s->nvml_version);
  if (strcmp(key, "cuda_version") == 0) return number(r, rest, 0, 1000000, &s->cuda_version);
  if (strcmp(key, "init_error") == 0) return number(r, rest, 0, 999, &s->init_error);
  if (strcmp(key, "call_error") == 0) return number(r, rest, 0, 999, &s->call_error);
  return complain(r, "unknown system key \"%s\"", key);
}

/* A number, or "none" for one that the GPU does not support. */
static int gpu_number(const reader_t *r, const char *text, int64_t *out) {
  if (text != NULL && strcmp(text, "none") == 0) {
    *out = ABSENT;
    return 0;
  }
  return number(r, text, 0, INT64_MAX, out);
}

static int read_gpu(const reader_t *r, char *rest) {
  int index;
  if (known_gpu(r, word(&rest), &index) != 0) return -1;
  const char *key = word(&rest);
  if (key == NULL) return complain(r, "gpu %d needs a key", index);
  gpu_t *g = &r->s->gpu[index];
  int64_t *n = member(g, gpu_numbers, key);
  if (n != NULL) return gpu_number(r, rest, n);
  char *t = member(g, gpu_texts, key);
  if (t != NULL) return text(r, rest, t);
  return complain(r, "unknown gpu key \"%s\"", key);
}

static int read_link(const reader_t *r, char *rest) {
  int index, n;
  if (known_gpu(r, word(&rest), &index) != 0) return -1;
  if (position(r, word(&rest), MAX_LINKS, &n) != 0) return -1;
  link_t *l = &r->s->gpu[index].link[n];
  const char *state = word(&rest);
  if (state == NULL || (strcmp(state, "up") != 0 && strcmp(state, "down") != 0))
    return complain(r, "a link is \"up\" or \"down\", not \"%s\"", state ? state : "");
  const char *kind = word(&rest);
  if (kind == NULL && l->state == LINK_NONE)
    return complain(r, "gpu %d has no link %d", index, n);
  if (kind != NULL) {
    if (strcmp(kind, "gpu") != 0 && strcmp(kind, "switch") != 0)
      return complain(r, "a link leads to \"gpu\" or \"switch\", not \"%s\"", kind);
    l->kind = strcmp(kind, "gpu") == 0 ? REMOTE_GPU : REMOTE_SWITCH;
    if (text(r, rest, l->remote) != 0) return -1;
  }
  l->state = strcmp(state, "up") == 0 ? LINK_UP : LINK_DOWN;
  return 0;
}

static int read_path(const reader_t *r, char *rest) {
  int a, b;
  int64_t level;
  if (known_gpu(r, word(&rest), &a) != 0 || known_gpu(r, word(&rest), &b) != 0) return -1;
  if (number(r, rest, 0, 50, &level) != 0) return -1;
  r->s->path[a][b] = r->s->path[b][a] = (int)level;
  return 0;
}

static int read_profile(const reader_t *r, char *rest) {
  int at;
  if (position(r, word(&rest), MAX_PROFILES, &at) != 0) return -1;
  profile_t *p = &r->s->profile[at];
  const char *key = word(&rest);
  if (key == NULL) return complain(r, "profile %d needs a key", at);
  if (strcmp(key, "name") == 0) {
    blank(p, profile_numbers);
    return text(r, rest, p->name);
  }
  if (p->name[0] == '\0') return complain(r, "profile %d has no name yet", at);
  int64_t *n = member(p, profile_numbers, key);
  if (n != NULL) return number(r, rest, 0, INT64_MAX, n);
  return complain(r, "unknown profile key \"%s\"", key);
}

/* The MIG device of a GPU with these ids, or a free place; NULL when full. */
static mig_t *mig_place(gpu_t *g, int gi, int ci) {
  mig_t *free_place = NULL;
  for (int i = MAX_MIG - 1; i >= 0; i--) {
    mig_t *m = &g->mig[i];
    if (!m->exists) free_place = m;
    else if (m->gi == gi && m->ci == ci) return m;
  }
  return free_place;
}

static int new_mig(const reader_t *r, mig_t *m, int gi, int ci, char *rest) {
  if (m == NULL) return complain(r, "more than %d MIG devices on one gpu", MAX_MIG);
  memset(m, 0, sizeof *m);
  blank(m, mig_numbers);
  m->gi = gi;
  m->ci = ci;
  if (text(r, word(&rest), m->uuid) != 0 || text(r, rest, m->profile) != 0) return -1;
  m->exists = 1;
  return 0;
}

static int read_mig(const reader_t *r, char *rest) {
  int index, gi, ci;
  if (known_gpu(r, word(&rest), &index) != 0) return -1;
  if (position(r, word(&rest), MAX_GI, &gi) != 0) return -1;
  if (position(r, word(&rest), MAX_CI, &ci) != 0) return -1;
  mig_t *m = mig_place(&r->s->gpu[index], gi, ci);
  const char *key = word(&rest);
  if (key == NULL) return complain(r, "a MIG device needs a key");
  if (strcmp(key, "new") == 0) return new_mig(r, m, gi, ci, rest);
  int exists = m != NULL && m->exists;
  if (r->is_control && strcmp(key, "gone") == 0) {
    if (exists) m->exists = 0;
    return 0;
  }
  if (!exists) return complain(r, "gpu %d has no MIG device %d/%d", index, gi, ci);
  int64_t *n = member(m, mig_numbers, key);
  if (n != NULL) return number(r, rest, 0, INT64_MAX, n);
  return complain(r, "unknown MIG key \"%s\"", key);
}

static int read_fault(const reader_t *r, char *rest, int hang) {
  state_t *s = r->s;
  if (s->faults == MAX_FAULTS) return complain(r, "more than %d faults", MAX_FAULTS);
  fault_t *f = &s->fault[s->faults];
  memset(f, 0, sizeof *f);
  f->gpu = -1;
  if (text(r, word(&rest), f->call) != 0) return -1;
  int64_t n;
  if (hang) {
    if (number(r, rest, 0, 3600000, &n) != 0) return -1;
    f->seconds = (double)n / 1000;
  } else {
    if (number(r, word(&rest), -1, MAX_GPUS - 1, &n) != 0) return -1;
    f->gpu = (int)n;
    if (number(r, rest, 1, 999, &n) != 0) return -1;
    f->code = (int)n;
  }
  s->faults++;
  return 0;
}

static int read_xid(const reader_t *r, char *rest) {
  state_t *s = r->s;
  if (s->events == MAX_EVENTS) return complain(r, "more than %d events", MAX_EVENTS);
  event_t *e = &s->event[s->events];
  if (number(r, word(&rest), 1, INT64_MAX, &e->sequence) != 0) return -1;
  if (known_gpu(r, word(&rest), &e->gpu) != 0) return -1;
  if (number(r, word(&rest), 0, 999, &e->xid) != 0) return -1;
  e->gi = e->ci = -1;
  const char *gi = word(&rest);
  if (gi != NULL && (position(r, gi, MAX_GI, &e->gi) != 0 || position(r, rest, MAX_CI, &e->ci) != 0))
    return -1;
  s->events++;
  return 0;
}

static int read_line(const reader_t *r, char *line) {
  char *rest = line;
  const char *first = word(&rest);
  if (first == NULL || first[0] == '#') return 0;
  if (strcmp(first, "system") == 0) return read_system(r, rest);
  if (strcmp(first, "gpu") == 0) return read_gpu(r, rest);
  if (strcmp(first, "link") == 0) return read_link(r, rest);
  if (strcmp(first, "path") == 0) return read_path(r, rest);
  if (strcmp(first, "profile") == 0) return read_profile(r, rest);
  if (strcmp(first, "mig") == 0) return read_mig(r, rest);
  if (r->is_control && strcmp(first, "hang") == 0) return read_fault(r, rest, 1);
  if (r->is_control && strcmp(first, "fail") == 0) return read_fault(r, rest, 0);
  if (r->is_control && strcmp(first, "xid") == 0) return read_xid(r, rest);
  return complain(r, "unknown line \"%s\"", first);
}

int fake_parse(const char *file, state_t *s, int is_control) {
  reader_t r = {file, 0, is_control, s};
  FILE *in = fopen(file, "re");
  if (in == NULL) {
    fprintf(stderr, "fakenvml: %s: %s\n", file, strerror(errno));
    return -1;
  }
  char line[512];
  int bad = 0;
  while (bad == 0 && fgets(line, sizeof line, in) != NULL) {
    r.line++;
    size_t n = strlen(line);
    if (n > 0 && line[n - 1] == '\n') line[n - 1] = '\0';
    else if (n == sizeof line - 1) bad = complain(&r, "the line is longer than %zu bytes", n - 1);
    if (bad != 0) break;
    if (r.line == 1) {
      if (strcmp(line, "fakenvml 1") != 0)
        bad = complain(&r, "the first line is not \"fakenvml 1\"");
    } else {
      bad = read_line(&r, line);
    }
  }
  fclose(in);
  if (bad == 0 && r.line == 0) {
    r.line = 1;
    bad = complain(&r, "the file is empty");
  }
  return bad;
}
