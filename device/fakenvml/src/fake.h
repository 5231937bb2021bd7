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

/* NVML return codes (nvmlReturn_t). */
enum {
  OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3,
  NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10,
  GPU_IS_LOST = 15, LIB_RM_VERSION_MISMATCH = 18, ERROR_UNKNOWN = 999
};

enum { MAX_GPUS = 64, MAX_LINKS = 36, MAX_FAULTS = 64, MAX_EVENTS = 1024, TEXT = 96 };

/* A number that the fixture does not give: the call says NOT_SUPPORTED. */
#define ABSENT INT64_MIN

/* What a link's far end is (nvmlIntNvLinkDeviceType_t). */
enum { REMOTE_GPU = 0, REMOTE_SWITCH = 2 };

enum { LINK_NONE = 0, LINK_UP = 1, LINK_DOWN = 2 };

typedef struct {
  int state;          /* LINK_* */
  int kind;           /* REMOTE_* */
  char remote[TEXT];  /* PCI bus id of the far end */
} link_t;

/* One GPU. Numbers are in NVML's own units: bytes, mW, MHz, degrees C. */
typedef struct {
  int index;
  char name[TEXT], uuid[TEXT], serial[TEXT], board[TEXT], vbios[TEXT], pci[TEXT];
  int64_t lost, brand, arch, cc_major, cc_minor, minor, pci_device_id, pci_subsystem_id;
  int64_t memory_total, memory_reserved, memory_used, bar1_total, bar1_used;
  int64_t power_limit, power_default, power_min, power_max, power_usage, energy;
  int64_t clock_max_graphics, clock_max_sm, clock_max_memory, clock_max_video;
  int64_t clock_graphics, clock_sm, clock_memory, clock_video;
  int64_t pcie_gen_max, pcie_width_max, pcie_gen, pcie_width, pcie_replay, pcie_tx, pcie_rx;
  int64_t temperature, temperature_slowdown, temperature_shutdown, fan, pstate, throttle;
  int64_t util_gpu, util_memory, util_encoder, util_decoder;
  int64_t persistence, display_mode, display_active, compute_mode, virtualization, mig_mode;
  int64_t ecc_mode, ecc_volatile_sbe, ecc_volatile_dbe, ecc_aggregate_sbe, ecc_aggregate_dbe;
  int64_t remap_correctable, remap_uncorrectable, remap_pending, remap_failure;
  int64_t recovery_action, numa_node, cpu_first, cpu_last, cores, bus_width;
  int64_t nvlink_version, nvlink_speed, nvlink_remote_type, event_types;
  link_t link[MAX_LINKS];
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
  int gpu;
  int64_t xid;
} event_t;

typedef struct {
  char driver_version[TEXT], nvml_version[TEXT];
  int64_t cuda_version;
  int64_t init_error;  /* nvmlInit answers this */
  int64_t call_error;  /* every call but init answers this */
  int count;
  gpu_t gpu[MAX_GPUS];
  int path[MAX_GPUS][MAX_GPUS];
  int faults;
  fault_t fault[MAX_FAULTS];
  int events;
  event_t event[MAX_EVENTS];
} state_t;

/* parse.c: reads a flat file into s; one line on stderr and -1 on an error. */
int fake_parse(const char *file, state_t *s, int is_control);
void fake_blank_gpu(gpu_t *g, int index);

/* state.c */
typedef int ret_t;
ret_t fake_enter(const char *call);
ret_t fake_enter_device(const char *call, const void *handle, gpu_t *copy);
ret_t fake_init(void);
ret_t fake_shutdown(void);
const state_t *fake_lock(void);
void fake_unlock(void);
void *fake_handle(int index);
ret_t fake_text(const char *value, char *out, unsigned int length);

#define EXPORT __attribute__((visibility("default")))

/* Opens a call that needs no device. */
#define ENTER()                            \
  do {                                     \
    ret_t entered_ = fake_enter(__func__); \
    if (entered_ != OK) return entered_;   \
  } while (0)

/* Opens a call on a device: g is a private copy of its state. */
#define ENTER_DEVICE(handle)                                     \
  gpu_t g;                                                       \
  do {                                                           \
    ret_t entered_ = fake_enter_device(__func__, (handle), &g);  \
    if (entered_ != OK) return entered_;                         \
  } while (0)

/* Answers one number, or NOT_SUPPORTED when the fixture lacks it. */
#define ANSWER(out, value)                         \
  do {                                             \
    if ((out) == NULL) return INVALID_ARGUMENT;    \
    if ((value) == ABSENT) return NOT_SUPPORTED;   \
    *(out) = (__typeof__(*(out)))(value);          \
    return OK;                                     \
  } while (0)

#endif
