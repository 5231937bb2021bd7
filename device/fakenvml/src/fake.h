/* SPDX-License-Identifier: MPL-2.0 */
/*
 * A stand-in for NVIDIA's libnvidia-ml.so.1. It answers from a flat fixture
 * file (FAKENVML_FIXTURE) and from a control file (FAKENVML_CONTROL) that may
 * be replaced at any time. Declarations follow NVML's published ABI; the
 * names of types are ours.
 */
#ifndef FAKE_H
#define FAKE_H

#include <stddef.h>
#include <stdint.h>

#include "branch.h"
#include "keys.h"

/* NVML return codes (nvmlReturn_t). */
enum {
  OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3,
  NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10,
  GPU_IS_LOST = 15, LIB_RM_VERSION_MISMATCH = 18, NO_MEMORY = 20,
  VERSION_MISMATCH = 25, ERROR_UNKNOWN = 999
};

enum {
  MAX_GPUS = 64, MAX_LINKS = 36, MAX_FAULTS = 64, MAX_EVENTS = 1024,
  MAX_PROCESSES = 256, TEXT = 96,
  MAX_MIG = 8,       /* MIG devices of one GPU */
  MAX_PROFILES = 18, /* NVML_GPU_INSTANCE_PROFILE_COUNT */
  MAX_GI = 32, MAX_CI = 8 /* instance ids are below these */
};

/* A number that no file gives: the call says NOT_SUPPORTED. */
#define ABSENT INT64_MIN

/* What NVML calls an instance id that does not apply. */
#define NO_INSTANCE 0xFFFFFFFFu

/* What a link's far end is (nvmlIntNvLinkDeviceType_t). */
enum { REMOTE_GPU = 0, REMOTE_SWITCH = 2 };

/* NVML's level of two GPUs on one board is 0, which here means "not known". */
enum { PATH_INTERNAL = 1 };

enum { LINK_NONE = 0, LINK_UP = 1, LINK_DOWN = 2 };

#define TEXT_MEMBER(name) char name[TEXT];
#define NUMBER_MEMBER(name) int64_t name;

typedef struct {
  int state;         /* LINK_* */
  int kind;          /* REMOTE_* */
  char remote[TEXT]; /* PCI bus id of the far end */
  LINK_COUNTERS(NUMBER_MEMBER)
} link_t;

typedef struct {
  char name[TEXT]; /* "1g.10gb"; empty: the node has no such profile */
  PROFILE_NUMBERS(NUMBER_MEMBER)
} profile_t;

/* One MIG device: a compute instance of a GPU instance. */
typedef struct {
  int exists, gi, ci;
  char uuid[TEXT], profile[TEXT];
  MIG_NUMBERS(NUMBER_MEMBER)
} mig_t;

typedef struct {
  int index;
  GPU_TEXTS(TEXT_MEMBER)
  GPU_NUMBERS(NUMBER_MEMBER)
  link_t link[MAX_LINKS];
  mig_t mig[MAX_MIG]; /* by MIG device index, with holes */
} gpu_t;

/* A call that answers late or with an error. gpu -1 means every GPU. */
typedef struct {
  char call[TEXT];
  int gpu;
  int code;
  double seconds;
} fault_t;

typedef struct {
  int64_t sequence;
  int gpu, gi, ci; /* gi and ci -1: the whole GPU */
  int64_t xid;
} event_t;

/* nvmlProcessMode_t. */
enum { PROCESS_COMPUTE = 0, PROCESS_GRAPHICS = 1, PROCESS_MPS = 2 };

typedef struct {
  int gpu, kind, gi, ci; /* gi and ci -1: no MIG device */
  int64_t pid, bytes;    /* bytes ABSENT: the driver does not know */
} process_t;

/* The node as one pair of files describes it. It never changes once it is
 * live: a change of the control file makes another. */
typedef struct {
  int users; /* visits under way, and 1 while it is live */
  SYSTEM_TEXTS(TEXT_MEMBER)
  SYSTEM_NUMBERS(NUMBER_MEMBER)
  int count;
  gpu_t gpu[MAX_GPUS];
  int path[MAX_GPUS][MAX_GPUS]; /* 0: not known */
  int p2p[MAX_GPUS][MAX_GPUS];  /* nvmlGpuP2PStatus_t and 1; 0: not known */
  profile_t profile[MAX_PROFILES]; /* by NVML_GPU_INSTANCE_PROFILE_* */
  int faults;
  fault_t fault[MAX_FAULTS];
  int events;
  event_t event[MAX_EVENTS];
  int processes;
  process_t process[MAX_PROCESSES];
} state_t;

typedef int ret_t;

/* One call's view of the node, the same from its start to its end. mig is set
 * for a MIG device handle, and gpu is then its parent. */
typedef struct {
  const state_t *state;
  const gpu_t *gpu;
  const mig_t *mig;
} visit_t;

/* parse.c: reads a flat file into s; one line on stderr and -1 on an error. */
int fake_parse(const char *file, state_t *s, int is_control);

/* handle.c: handles are addresses that stay valid across changes. */
void *fake_gpu_handle(int gpu);
void *fake_mig_handle(int gpu, const mig_t *m);
void *fake_gi_handle(int gpu, int gi);
void *fake_ci_handle(int gpu, const mig_t *m);
int fake_gpu_of(const void *handle);
const mig_t *fake_mig_of(const state_t *s, int gpu, const void *handle);
int fake_gi_of(const void *handle, int *gi);
int fake_ci_of(const void *handle, int *gi, int *ci);
const mig_t *fake_mig_find(const gpu_t *g, int gi, int ci);
int fake_mig_count(const gpu_t *g);
int fake_mig_index(const gpu_t *g, const mig_t *m);

/* state.c: the opening and the end of every call. */
ret_t fake_enter(const char *call, visit_t *v);
ret_t fake_enter_gpu(const char *call, int gpu, visit_t *v);
ret_t fake_enter_device(const char *call, const void *handle, visit_t *v);
void fake_leave(visit_t *v);
void fake_expect_change(void);
ret_t fake_init(void);
ret_t fake_shutdown(void);
ret_t fake_text(const char *value, char *out, unsigned int length);

/* Begins a visit that ends with the scope. */
#define VISIT(v, opening)                                       \
  visit_t v __attribute__((cleanup(fake_leave), unused)) = {0}; \
  do {                                                          \
    ret_t entered_ = (opening);                                 \
    if (entered_ != OK) return entered_;                        \
  } while (0)

/* Opens a call that needs no device. */
#define ENTER() VISIT(v, fake_enter(__func__, &v))

/* Opens a call that answers for GPUs and for MIG devices: v.mig is set for
 * these, and g is then the GPU that the MIG device is on. */
#define ENTER_ANY(handle)                              \
  VISIT(v, fake_enter_device(__func__, (handle), &v)); \
  const gpu_t *g __attribute__((unused)) = v.gpu

/* Opens a call that answers for GPUs alone. */
#define ENTER_DEVICE(handle) \
  ENTER_ANY(handle);         \
  if (v.mig != NULL) return NOT_SUPPORTED

/* Answers one number, or NOT_SUPPORTED when no file gives it. */
#define ANSWER(out, value)                         \
  do {                                             \
    int64_t value_ = (value);                      \
    if ((out) == NULL) return INVALID_ARGUMENT;    \
    if (value_ == ABSENT) return NOT_SUPPORTED;    \
    *(out) = (__typeof__(*(out)))value_;           \
    return OK;                                     \
  } while (0)

/* The version word of a structure: its size and its version. */
#define VERSION(type, number) ((unsigned int)sizeof(type) | (number) << 24u)

static inline int64_t or_zero(int64_t value) { return value == ABSENT ? 0 : value; }

static inline int mig_enabled(const gpu_t *g) { return g->mig_mode == 1; }

#endif
