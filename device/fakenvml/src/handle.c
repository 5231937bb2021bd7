/* SPDX-License-Identifier: MPL-2.0 */
/* Handles: each is the address of a byte that stands for one GPU, MIG device,
 * GPU instance or compute instance, by its ids. A handle outlives what it names
 * and names it again if it is made again, as the driver's do.
 */
#include "fake.h"

static char gpus[MAX_GPUS];
static char gis[MAX_GPUS][MAX_GI];
static char cis[MAX_GPUS][MAX_GI][MAX_CI];
static char migs[MAX_GPUS][MAX_GI][MAX_CI];

/* The position of the byte at handle within an array, or -1. */
static int position(const void *handle, const char *array, size_t size) {
  uintptr_t at = (uintptr_t)handle, start = (uintptr_t)array;
  return at >= start && at - start < size ? (int)(at - start) : -1;
}

void *fake_gpu_handle(int gpu) { return &gpus[gpu]; }

void *fake_mig_handle(int gpu, const mig_t *m) { return &migs[gpu][m->gi][m->ci]; }

void *fake_gi_handle(int gpu, int gi) { return &gis[gpu][gi]; }

void *fake_ci_handle(int gpu, const mig_t *m) { return &cis[gpu][m->gi][m->ci]; }

/* The GPU of a GPU's or a MIG device's handle, or -1. */
int fake_gpu_of(const void *handle) {
  int at = position(handle, gpus, sizeof gpus);
  if (at >= 0) return at;
  at = position(handle, &migs[0][0][0], sizeof migs);
  return at < 0 ? -1 : at / (MAX_GI * MAX_CI);
}

/* The MIG device of a handle, or NULL when it is no MIG device's or the device
 * is gone. */
const mig_t *fake_mig_of(const state_t *s, int gpu, const void *handle) {
  int at = position(handle, &migs[0][0][0], sizeof migs);
  if (at < 0) return NULL;
  return fake_mig_find(&s->gpu[gpu], at / MAX_CI % MAX_GI, at % MAX_CI);
}

/* The GPU of a GPU instance's handle, and the instance's id, or -1. */
int fake_gi_of(const void *handle, int *gi) {
  int at = position(handle, &gis[0][0], sizeof gis);
  if (at < 0) return -1;
  *gi = at % MAX_GI;
  return at / MAX_GI;
}

/* The GPU of a compute instance's handle, and the ids, or -1. */
int fake_ci_of(const void *handle, int *gi, int *ci) {
  int at = position(handle, &cis[0][0][0], sizeof cis);
  if (at < 0) return -1;
  *ci = at % MAX_CI;
  *gi = at / MAX_CI % MAX_GI;
  return at / (MAX_GI * MAX_CI);
}

/* The MIG device with these ids; ci -1 means the first of the GPU instance.
 * Without MIG mode there is none. */
const mig_t *fake_mig_find(const gpu_t *g, int gi, int ci) {
  for (int i = 0; i < MAX_MIG && mig_enabled(g); i++) {
    const mig_t *m = &g->mig[i];
    if (m->exists && m->gi == gi && (m->ci == ci || ci < 0)) return m;
  }
  return NULL;
}

int fake_mig_index(const gpu_t *g, const mig_t *m) { return (int)(m - g->mig); }

int fake_mig_count(const gpu_t *g) {
  int n = 0;
  for (int i = 0; i < MAX_MIG && mig_enabled(g); i++) n += g->mig[i].exists;
  return n;
}
