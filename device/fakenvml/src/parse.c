/* SPDX-License-Identifier: MPL-2.0 */
/* The flat file format: one fact a line, words separated by single spaces.
 * keys.h has the keys.
 *
 *   fakenvml 1                             first line, the format's version
 *   system <key> <value>
 *   gpu <index> <key> <value>              text values run to the end of the line
 *   link <gpu> <link> up|down gpu|switch <pci bus id>
 *   count <gpu> <link|*> <counter> <value>
 *   path <gpu> <gpu> <level>               NVML's common-ancestor level
 *   p2p <gpu> <gpu> <status>               nvmlGpuP2PStatus_t
 *   profile <number> name <name>           a MIG profile, NVML_GPU_INSTANCE_PROFILE_*
 *   profile <number> <key> <value>
 *   mig <gpu> <gi> <ci> new <uuid> <profile>
 *   mig <gpu> <gi> <ci> <key> <value>
 *   fail <call> <gpu|-1> <code>
 *
 * and in a control file also
 *
 *   link <gpu> <link> down|up              state only
 *   mig <gpu> <gi> <ci> gone
 *   hang <call> <milliseconds>
 *   xid <sequence> <gpu> <xid> [<gi> <ci>]
 *   process <gpu> <pid> compute|graphics|mps <bytes> [<gi> <ci>]
 *
 * The number of a gpu, count or process line may be "none": the call says
 * NOT_SUPPORTED, or that it does not know.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "reader.h"

#define SYSTEM_KEY(name) KEY_OF(state_t, name)
#define GPU_KEY(name) KEY_OF(gpu_t, name)
#define LINK_KEY(name) KEY_OF(link_t, name)

static const key_t_ system_numbers[] = {SYSTEM_NUMBERS(SYSTEM_KEY){NULL, 0}};
static const key_t_ system_texts[] = {SYSTEM_TEXTS(SYSTEM_KEY){NULL, 0}};
static const key_t_ gpu_numbers[] = {GPU_NUMBERS(GPU_KEY){NULL, 0}};
static const key_t_ gpu_texts[] = {GPU_TEXTS(GPU_KEY){NULL, 0}};
static const key_t_ link_counters[] = {LINK_COUNTERS(LINK_KEY){NULL, 0}};

/* The index of a GPU; a fixture's next one is made. */
int fake_read_gpu(const reader_t *r, const char *word, int *index) {
  if (fake_read_position(r, word, MAX_GPUS, index) != 0) return -1;
  state_t *s = r->s;
  if (*index < s->count) return 0;
  if (r->is_control || *index > s->count)
    return fake_complain(r, "gpu %d is not in the fixture, which has %d so far", *index, s->count);
  gpu_t *g = &s->gpu[*index];
  memset(g, 0, sizeof *g);
  fake_blank(g, gpu_numbers);
  g->index = *index;
  g->lost = 0;
  for (int i = 0; i < MAX_LINKS; i++) fake_blank(&g->link[i], link_counters);
  s->count++;
  return 0;
}

static int read_system(const reader_t *r, char *rest) {
  const char *key = fake_word(&rest);
  if (key == NULL) return fake_complain(r, "system needs a key");
  int64_t *n = fake_member(r->s, system_numbers, key);
  if (n != NULL) return fake_read_number(r, rest, 0, 1000000, n);
  char *t = fake_member(r->s, system_texts, key);
  if (t != NULL) return fake_read_text(r, rest, t);
  return fake_complain(r, "unknown system key \"%s\"", key);
}

static int read_gpu(const reader_t *r, char *rest) {
  int index;
  if (fake_read_gpu(r, fake_word(&rest), &index) != 0) return -1;
  const char *key = fake_word(&rest);
  if (key == NULL) return fake_complain(r, "gpu %d needs a key", index);
  gpu_t *g = &r->s->gpu[index];
  int64_t *n = fake_member(g, gpu_numbers, key);
  if (n != NULL) return fake_read_maybe(r, rest, n);
  char *t = fake_member(g, gpu_texts, key);
  if (t != NULL) return fake_read_text(r, rest, t);
  return fake_complain(r, "unknown gpu key \"%s\"", key);
}

static int read_link(const reader_t *r, char *rest) {
  int index, n;
  if (fake_read_gpu(r, fake_word(&rest), &index) != 0) return -1;
  if (fake_read_position(r, fake_word(&rest), MAX_LINKS, &n) != 0) return -1;
  link_t *l = &r->s->gpu[index].link[n];
  const char *state = fake_word(&rest);
  if (state == NULL || (strcmp(state, "up") != 0 && strcmp(state, "down") != 0))
    return fake_complain(r, "a link is \"up\" or \"down\", not \"%s\"", state ? state : "");
  const char *kind = fake_word(&rest);
  if (kind == NULL && l->state == LINK_NONE)
    return fake_complain(r, "gpu %d has no link %d", index, n);
  if (kind != NULL) {
    if (strcmp(kind, "gpu") != 0 && strcmp(kind, "switch") != 0)
      return fake_complain(r, "a link leads to \"gpu\" or \"switch\", not \"%s\"", kind);
    l->kind = strcmp(kind, "gpu") == 0 ? REMOTE_GPU : REMOTE_SWITCH;
    if (fake_read_text(r, rest, l->remote) != 0) return -1;
  }
  l->state = strcmp(state, "up") == 0 ? LINK_UP : LINK_DOWN;
  return 0;
}

/* A counter of one link, or of every link that the GPU has. */
static int read_count(const reader_t *r, char *rest) {
  int index, only = -1;
  if (fake_read_gpu(r, fake_word(&rest), &index) != 0) return -1;
  const char *which = fake_word(&rest);
  if (which == NULL || strcmp(which, "*") != 0) {
    if (fake_read_position(r, which, MAX_LINKS, &only) != 0) return -1;
  }
  const char *key = fake_word(&rest);
  if (key == NULL) return fake_complain(r, "count needs a counter");
  int64_t value;
  if (fake_read_maybe(r, rest, &value) != 0) return -1;
  gpu_t *g = &r->s->gpu[index];
  for (int i = 0; i < MAX_LINKS; i++) {
    if (only >= 0 ? i != only : g->link[i].state == LINK_NONE) continue;
    int64_t *n = fake_member(&g->link[i], link_counters, key);
    if (n == NULL) return fake_complain(r, "unknown link counter \"%s\"", key);
    *n = value;
  }
  return 0;
}

static int read_p2p(const reader_t *r, char *rest) {
  int a, b;
  int64_t status;
  if (fake_read_gpu(r, fake_word(&rest), &a) != 0) return -1;
  if (fake_read_gpu(r, fake_word(&rest), &b) != 0) return -1;
  if (fake_read_number(r, rest, 0, 6, &status) != 0) return -1;
  r->s->p2p[a][b] = r->s->p2p[b][a] = (int)status + 1;
  return 0;
}

static int read_path(const reader_t *r, char *rest) {
  int a, b;
  int64_t level;
  if (fake_read_gpu(r, fake_word(&rest), &a) != 0) return -1;
  if (fake_read_gpu(r, fake_word(&rest), &b) != 0) return -1;
  if (fake_read_number(r, rest, 0, 50, &level) != 0) return -1;
  r->s->path[a][b] = r->s->path[b][a] = (int)level;
  return 0;
}

static int read_line(const reader_t *r, char *line) {
  char *rest = line;
  const char *first = fake_word(&rest);
  if (first == NULL || first[0] == '#') return 0;
  if (strcmp(first, "system") == 0) return read_system(r, rest);
  if (strcmp(first, "gpu") == 0) return read_gpu(r, rest);
  if (strcmp(first, "link") == 0) return read_link(r, rest);
  if (strcmp(first, "count") == 0) return read_count(r, rest);
  if (strcmp(first, "path") == 0) return read_path(r, rest);
  if (strcmp(first, "p2p") == 0) return read_p2p(r, rest);
  if (strcmp(first, "profile") == 0) return fake_read_profile(r, rest);
  if (strcmp(first, "mig") == 0) return fake_read_mig(r, rest);
  if (r->is_control && strcmp(first, "hang") == 0) return fake_read_fault(r, rest, 1);
  if (strcmp(first, "fail") == 0) return fake_read_fault(r, rest, 0);
  if (r->is_control && strcmp(first, "xid") == 0) return fake_read_xid(r, rest);
  if (r->is_control && strcmp(first, "process") == 0) return fake_read_process(r, rest);
  return fake_complain(r, "unknown line \"%s\"", first);
}

int fake_parse(const char *file, state_t *s, int is_control) {
  reader_t r = {file, 0, is_control, s};
  if (!is_control) fake_blank(s, system_numbers);
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
    if (n > 0 && line[n - 1] == '\n') {
      line[n - 1] = '\0';
    } else if (n == sizeof line - 1) {
      bad = fake_complain(&r, "the line is longer than %zu bytes", n - 1);
      break;
    }
    if (r.line == 1) {
      if (strcmp(line, "fakenvml 1") != 0)
        bad = fake_complain(&r, "the first line is not \"fakenvml 1\"");
    } else {
      bad = read_line(&r, line);
    }
  }
  fclose(in);
  if (bad == 0 && r.line == 0) {
    r.line = 1;
    bad = fake_complain(&r, "the file is empty");
  }
  return bad;
}
