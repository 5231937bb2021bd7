/* SPDX-License-Identifier: MPL-2.0 */
/* The lines of what happens: calls that fail or hang, XIDs, processes. */
#include <string.h>

#include "reader.h"

int fake_read_fault(const reader_t *r, char *rest, int hang) {
  state_t *s = r->s;
  if (s->faults == MAX_FAULTS) return fake_complain(r, "more than %d faults", MAX_FAULTS);
  fault_t *f = &s->fault[s->faults];
  memset(f, 0, sizeof *f);
  f->gpu = -1;
  if (fake_read_text(r, fake_word(&rest), f->call) != 0) return -1;
  int64_t n;
  if (hang) {
    if (fake_read_number(r, rest, 0, 3600000, &n) != 0) return -1;
    f->seconds = (double)n / 1000;
  } else {
    if (fake_read_number(r, fake_word(&rest), -1, MAX_GPUS - 1, &n) != 0) return -1;
    f->gpu = (int)n;
    if (fake_read_number(r, rest, 1, 999, &n) != 0) return -1;
    f->code = (int)n;
  }
  s->faults++;
  return 0;
}

/* The ids of a MIG device, or nothing. */
static int read_instance(const reader_t *r, char *rest, int *gi, int *ci) {
  const char *first = fake_word(&rest);
  *gi = *ci = -1;
  if (first == NULL) return 0;
  if (fake_read_position(r, first, MAX_GI, gi) != 0) return -1;
  return fake_read_position(r, rest, MAX_CI, ci);
}

int fake_read_xid(const reader_t *r, char *rest) {
  state_t *s = r->s;
  if (s->events == MAX_EVENTS) return fake_complain(r, "more than %d events", MAX_EVENTS);
  event_t *e = &s->event[s->events];
  if (fake_read_number(r, fake_word(&rest), 1, INT64_MAX, &e->sequence) != 0) return -1;
  if (fake_read_gpu(r, fake_word(&rest), &e->gpu) != 0) return -1;
  if (fake_read_number(r, fake_word(&rest), 0, 999, &e->xid) != 0) return -1;
  if (read_instance(r, rest, &e->gi, &e->ci) != 0) return -1;
  s->events++;
  return 0;
}

int fake_read_process(const reader_t *r, char *rest) {
  static const char *const kinds[] = {"compute", "graphics", "mps"};
  state_t *s = r->s;
  if (s->processes == MAX_PROCESSES)
    return fake_complain(r, "more than %d processes", MAX_PROCESSES);
  process_t *p = &s->process[s->processes];
  if (fake_read_gpu(r, fake_word(&rest), &p->gpu) != 0) return -1;
  if (fake_read_number(r, fake_word(&rest), 1, INT32_MAX, &p->pid) != 0) return -1;
  const char *kind = fake_word(&rest);
  for (p->kind = PROCESS_MPS; p->kind >= 0; p->kind--)
    if (kind != NULL && strcmp(kind, kinds[p->kind]) == 0) break;
  if (p->kind < 0)
    return fake_complain(r, "a process is \"compute\", \"graphics\" or \"mps\", not \"%s\"",
                         kind ? kind : "");
  if (fake_read_maybe(r, fake_word(&rest), &p->bytes) != 0) return -1;
  if (read_instance(r, rest, &p->gi, &p->ci) != 0) return -1;
  s->processes++;
  return 0;
}
