/* SPDX-License-Identifier: MPL-2.0 */
/* The lines of MIG profiles and MIG devices. */
#include <string.h>

#include "reader.h"

#define PROFILE_KEY(name) KEY_OF(profile_t, name)
#define MIG_KEY(name) KEY_OF(mig_t, name)

static const key_t_ profile_numbers[] = {PROFILE_NUMBERS(PROFILE_KEY){NULL, 0}};
static const key_t_ mig_numbers[] = {MIG_NUMBERS(MIG_KEY){NULL, 0}};

int fake_read_profile(const reader_t *r, char *rest) {
  int at;
  if (fake_read_position(r, fake_word(&rest), MAX_PROFILES, &at) != 0) return -1;
  profile_t *p = &r->s->profile[at];
  const char *key = fake_word(&rest);
  if (key == NULL) return fake_complain(r, "profile %d needs a key", at);
  if (strcmp(key, "name") == 0) {
    fake_blank(p, profile_numbers);
    return fake_read_text(r, rest, p->name);
  }
  if (p->name[0] == '\0') return fake_complain(r, "profile %d has no name yet", at);
  int64_t *n = fake_member(p, profile_numbers, key);
  if (n != NULL) return fake_read_number(r, rest, 0, INT64_MAX, n);
  return fake_complain(r, "unknown profile key \"%s\"", key);
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
  if (m == NULL) return fake_complain(r, "more than %d MIG devices on one gpu", MAX_MIG);
  memset(m, 0, sizeof *m);
  fake_blank(m, mig_numbers);
  m->gi = gi;
  m->ci = ci;
  if (fake_read_text(r, fake_word(&rest), m->uuid) != 0) return -1;
  if (fake_read_text(r, rest, m->profile) != 0) return -1;
  m->exists = 1;
  return 0;
}

int fake_read_mig(const reader_t *r, char *rest) {
  int index, gi, ci;
  if (fake_read_gpu(r, fake_word(&rest), &index) != 0) return -1;
  if (fake_read_position(r, fake_word(&rest), MAX_GI, &gi) != 0) return -1;
  if (fake_read_position(r, fake_word(&rest), MAX_CI, &ci) != 0) return -1;
  mig_t *m = mig_place(&r->s->gpu[index], gi, ci);
  const char *key = fake_word(&rest);
  if (key == NULL) return fake_complain(r, "a MIG device needs a key");
  if (strcmp(key, "new") == 0) return new_mig(r, m, gi, ci, rest);
  int exists = m != NULL && m->exists;
  if (r->is_control && strcmp(key, "gone") == 0) {
    if (exists) m->exists = 0;
    return 0;
  }
  if (!exists) return fake_complain(r, "gpu %d has no MIG device %d/%d", index, gi, ci);
  int64_t *n = fake_member(m, mig_numbers, key);
  if (n != NULL) return fake_read_number(r, rest, 0, INT64_MAX, n);
  return fake_complain(r, "unknown MIG key \"%s\"", key);
}
