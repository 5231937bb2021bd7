/* SPDX-License-Identifier: MPL-2.0 */
/* The flat file format: one fact a line, words separated by single spaces.
 *
 *   fakenvml 1                       first line, the format's version
 *   system <key> <value>
 *   gpu <index> <key> <value>        text values run to the end of the line
 *   link <gpu> <link> up|down gpu|switch <pci bus id>
 *   link <gpu> <link> down|up        (control file: state only)
 *   path <gpu> <gpu> <level>         NVML's common-ancestor level
 *   hang <call> <milliseconds>       (control file)
 *   fail <call> <gpu|-1> <code>      (control file)
 *   xid <sequence> <gpu> <xid>       (control file)
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

#define NUMBER(name) {#name, offsetof(gpu_t, name)}
static const key_t_ gpu_numbers[] = {
    NUMBER(lost), NUMBER(brand), NUMBER(arch), NUMBER(cc_major), NUMBER(cc_minor), NUMBER(minor),
    NUMBER(pci_device_id), NUMBER(pci_subsystem_id), NUMBER(memory_total), NUMBER(memory_reserved),
    NUMBER(memory_used), NUMBER(bar1_total), NUMBER(bar1_used), NUMBER(power_limit),
    NUMBER(power_default), NUMBER(power_min), NUMBER(power_max), NUMBER(power_usage), NUMBER(energy),
    NUMBER(clock_max_graphics), NUMBER(clock_max_sm), NUMBER(clock_max_memory),
    NUMBER(clock_max_video), NUMBER(clock_graphics), NUMBER(clock_sm), NUMBER(clock_memory),
    NUMBER(clock_video), NUMBER(pcie_gen_max), NUMBER(pcie_width_max), NUMBER(pcie_gen),
    NUMBER(pcie_width), NUMBER(pcie_replay), NUMBER(pcie_tx), NUMBER(pcie_rx), NUMBER(temperature),
    NUMBER(temperature_slowdown), NUMBER(temperature_shutdown), NUMBER(fan), NUMBER(pstate),
    NUMBER(throttle), NUMBER(util_gpu), NUMBER(util_memory), NUMBER(util_encoder),
    NUMBER(util_decoder), NUMBER(persistence), NUMBER(display_mode), NUMBER(display_active),
    NUMBER(compute_mode), NUMBER(virtualization), NUMBER(mig_mode), NUMBER(ecc_mode),
    NUMBER(ecc_volatile_sbe), NUMBER(ecc_volatile_dbe), NUMBER(ecc_aggregate_sbe),
    NUMBER(ecc_aggregate_dbe), NUMBER(remap_correctable), NUMBER(remap_uncorrectable),
    NUMBER(remap_pending), NUMBER(remap_failure), NUMBER(recovery_action), NUMBER(numa_node),
    NUMBER(cpu_first), NUMBER(cpu_last), NUMBER(cores), NUMBER(bus_width), NUMBER(nvlink_version),
    NUMBER(nvlink_speed), NUMBER(nvlink_remote_type), NUMBER(event_types),
};
static const key_t_ gpu_texts[] = {
    NUMBER(name), NUMBER(uuid), NUMBER(serial), NUMBER(board), NUMBER(vbios), NUMBER(pci),
};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

void fake_blank_gpu(gpu_t *g, int index) {
  memset(g, 0, sizeof *g);
  g->index = index;
  for (size_t i = 0; i < COUNT(gpu_numbers); i++)
    *(int64_t *)((char *)g + gpu_numbers[i].offset) = ABSENT;
  g->lost = 0;
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

static int text(const reader_t *r, const char *value, char *out) {
  if (value == NULL || *value == '\0') return complain(r, "a value is missing");
  if (strlen(value) >= TEXT) return complain(r, "the value is longer than %d bytes", TEXT - 1);
  strcpy(out, value);
  return 0;
}

static int known_gpu(const reader_t *r, const char *word, int *index) {
  int64_t n;
  if (number(r, word, 0, MAX_GPUS - 1, &n) != 0) return -1;
  if (n >= r->s->count) {
    if (r->is_control || n > r->s->count)
      return complain(r, "gpu %d is not in the fixture, which has %d so far", (int)n, r->s->count);
    fake_blank_gpu(&r->s->gpu[n], (int)n);
    r->s->count = (int)n + 1;
  }
  *index = (int)n;
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

static int read_gpu(const reader_t *r, char *rest) {
  int index;
  if (known_gpu(r, word(&rest), &index) != 0) return -1;
  const char *key = word(&rest);
  if (key == NULL) return complain(r, "gpu %d needs a key", index);
  char *g = (char *)&r->s->gpu[index];
  for (size_t i = 0; i < COUNT(gpu_numbers); i++)
    if (strcmp(key, gpu_numbers[i].key) == 0)
      return number(r, rest, INT64_MIN, INT64_MAX, (int64_t *)(g + gpu_numbers[i].offset));
  for (size_t i = 0; i < COUNT(gpu_texts); i++)
    if (strcmp(key, gpu_texts[i].key) == 0) return text(r, rest, g + gpu_texts[i].offset);
  return complain(r, "unknown gpu key \"%s\"", key);
}

static int read_link(const reader_t *r, char *rest) {
  int index;
  int64_t n;
  if (known_gpu(r, word(&rest), &index) != 0) return -1;
  if (number(r, word(&rest), 0, MAX_LINKS - 1, &n) != 0) return -1;
  link_t *l = &r->s->gpu[index].link[n];
  const char *state = word(&rest);
  if (state == NULL || (strcmp(state, "up") != 0 && strcmp(state, "down") != 0))
    return complain(r, "a link is \"up\" or \"down\", not \"%s\"", state ? state : "");
  const char *kind = word(&rest);
  if (kind == NULL && l->state == LINK_NONE)
    return complain(r, "gpu %d has no link %d", index, (int)n);
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
  if (number(r, rest, 0, 999, &e->xid) != 0) return -1;
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
