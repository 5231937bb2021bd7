/* SPDX-License-Identifier: MPL-2.0 */
/* Field values: numbers by id (NVML_FI_DEV_*). */
#include <time.h>

#include "fake.h"

typedef union {
  double real;
  unsigned int u32;
  unsigned long long u64;
} value_t;

enum { U32 = 1, U64 = 3 }; /* nvmlValueType_t */

enum { ALL_LINKS = 0xFFFFFFFFu };

typedef struct {
  unsigned int id, scope;
  long long timestamp, latency;
  int type;
  ret_t ret;
  value_t value;
} field_t;

typedef struct {
  unsigned int id;
  int type;
  size_t offset;
} entry_t;

#define GPU(key) offsetof(gpu_t, key)
static const entry_t of_gpu[] = {
    {29, U32, GPU(retired_sbe)}, {30, U32, GPU(retired_dbe)}, {31, U32, GPU(retired_pending)},
    {82, U32, GPU(temperature_memory)}, {83, U64, GPU(energy)}, {94, U32, GPU(pcie_replay)},
    {170, U32, GPU(c2c_links)}, {173, U32, GPU(pcie_correctable)},
    {174, U32, GPU(pcie_naks_received)}, {175, U32, GPU(pcie_receiver)},
    {176, U32, GPU(pcie_bad_tlp)}, {177, U32, GPU(pcie_naks_sent)},
    {178, U32, GPU(pcie_bad_dllp)}, {179, U32, GPU(pcie_nonfatal)},
    {180, U32, GPU(pcie_fatal)}, {181, U32, GPU(pcie_unsupported)}, {182, U32, GPU(pcie_lcrc)},
    {183, U32, GPU(pcie_lane)}, {197, U32, GPU(pcie_tx_bytes)}, {198, U32, GPU(pcie_rx_bytes)},
    {230, U32, GPU(recovery_action)},
};

/* The scope is a link. */
#define LINK(key) offsetof(link_t, key)
static const entry_t of_link[] = {
    {138, U64, LINK(data_tx)}, {139, U64, LINK(data_rx)}, {140, U64, LINK(raw_tx)},
    {141, U64, LINK(raw_rx)}, {146, U32, LINK(remote_id)}, {161, U64, LINK(replay)},
    {162, U64, LINK(recovery)}, {163, U64, LINK(crc_flit)}, {201, U64, LINK(sent_packets)},
    {202, U64, LINK(sent_bytes)}, {203, U64, LINK(received_packets)},
    {204, U64, LINK(received_bytes)}, {206, U64, LINK(malformed)}, {207, U64, LINK(overrun)},
    {208, U64, LINK(receive_errors)}, {209, U64, LINK(remote_errors)},
    {210, U64, LINK(header_errors)}, {211, U64, LINK(integrity)}, {212, U64, LINK(discards)},
    {213, U64, LINK(recovered)}, {214, U64, LINK(recovery_failed)}, {215, U64, LINK(recoveries)},
    {219, U64, LINK(effective_errors)}, {221, U64, LINK(symbol_errors)},
};

/* Sums over all links, of drivers before R515. */
static const entry_t of_links[] = {
    {38, U64, LINK(crc_flit)}, {45, U64, LINK(crc_data)}, {52, U64, LINK(replay)},
    {59, U64, LINK(recovery)}, {160, U64, LINK(ecc_data)},
};

#define FIND(table, wanted) find(table, sizeof(table) / sizeof((table)[0]), wanted)

static const entry_t *find(const entry_t *entries, size_t n, unsigned int id) {
  for (size_t i = 0; i < n; i++)
    if (entries[i].id == id) return &entries[i];
  return NULL;
}

static int64_t member(const void *object, const entry_t *e) {
  return *(const int64_t *)((const char *)object + e->offset);
}

/* The sum over the GPU's links; ABSENT when no link gives it. */
static int64_t sum(const gpu_t *g, const entry_t *e) {
  int64_t total = ABSENT;
  for (int i = 0; i < MAX_LINKS; i++) {
    int64_t n = member(&g->link[i], e);
    if (g->link[i].state != LINK_NONE && n != ABSENT) total = or_zero(total) + n;
  }
  return total;
}

static int count_links(const gpu_t *g, int only_up, int only_switch) {
  int n = 0;
  for (int i = 0; i < MAX_LINKS; i++) {
    if (g->link[i].state == LINK_NONE) continue;
    if (only_up && g->link[i].state != LINK_UP) continue;
    if (only_switch && g->link[i].kind != REMOTE_SWITCH) continue;
    n++;
  }
  return n;
}

/* What is known of the link that the scope names. */
static int64_t of_scope(const gpu_t *g, unsigned int id, unsigned int scope) {
  if (scope >= MAX_LINKS || g->link[scope].state == LINK_NONE) return ABSENT;
  int up = g->link[scope].state == LINK_UP;
  switch (id) {
    case 164: return up ? g->nvlink_speed : ABSENT; /* GET_SPEED */
    case 165: return up;                            /* GET_STATE */
    case 166: return g->nvlink_version;             /* GET_VERSION */
    default: return ABSENT;
  }
}

/* The row remapper does not answer for a GPU with MIG instances. */
static int64_t remapper(const gpu_t *g, int64_t value) {
  return fake_mig_count(g) > 0 ? ABSENT : value;
}

static int64_t special(const gpu_t *g, unsigned int id, unsigned int scope) {
  if (id >= 84 && id <= 89) return of_scope(g, 164, id - 84);        /* SPEED_MBPS_L0..5 */
  if (id >= 132 && id <= 137) return of_scope(g, 164, id - 132 + 6); /* SPEED_MBPS_L6..11 */
  switch (id) {
    case 90: return count_links(g, 1, 0) > 0 ? g->nvlink_speed : ABSENT; /* SPEED_MBPS_COMMON */
    case 91: return count_links(g, 0, 0);                                /* LINK_COUNT */
    case 142: return remapper(g, g->remap_correctable);
    case 143: return remapper(g, g->remap_uncorrectable);
    case 144: return remapper(g, g->remap_pending);
    case 145: return remapper(g, g->remap_failure);
    case 147: return g->nvlink_remote_type == 0 ? ABSENT : count_links(g, 1, 1);
    case 171: return scope < or_zero(g->c2c_links) ? 1 : ABSENT; /* C2C_LINK_GET_STATUS */
    case 172: return scope < or_zero(g->c2c_links) ? g->c2c_speed : ABSENT;
    default: return of_scope(g, id, scope);
  }
}

/* Answers one field but its time. */
static void look(const gpu_t *g, field_t *f) {
  const entry_t *e;
  int64_t n = ABSENT;
  f->type = U32;
  if (f->id > LAST_FIELD) {
    n = ABSENT;
  } else if ((e = FIND(of_gpu, f->id)) != NULL) {
    n = member(g, e);
    f->type = e->type;
  } else if ((e = FIND(of_links, f->id)) != NULL) {
    n = sum(g, e);
    f->type = e->type;
  } else if ((e = FIND(of_link, f->id)) != NULL) {
    int traffic = f->id >= 138 && f->id <= 141;
    if (f->scope == ALL_LINKS && traffic) n = sum(g, e);
    else if (f->scope < MAX_LINKS && g->link[f->scope].state != LINK_NONE)
      n = member(&g->link[f->scope], e);
    f->type = e->type;
  } else {
    n = special(g, f->id, f->scope);
  }
  f->ret = n == ABSENT ? NOT_SUPPORTED : OK;
  f->value.u64 = n == ABSENT ? 0 : f->type == U32 ? (unsigned int)n : (unsigned long long)n;
}

EXPORT ret_t nvmlDeviceGetFieldValues(void *device, int count, field_t *values) {
  ENTER_DEVICE(device);
  if (count < 1 || values == NULL) return INVALID_ARGUMENT;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  for (int i = 0; i < count; i++) {
    values[i].timestamp = now.tv_sec * 1000000LL + now.tv_nsec / 1000;
    values[i].latency = 0;
    look(g, &values[i]);
  }
  return OK;
}
