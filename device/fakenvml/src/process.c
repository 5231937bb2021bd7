/* SPDX-License-Identifier: MPL-2.0 */
/* The processes on a GPU, or on one of its MIG devices. */
#include "device.h"

/* nvmlProcessInfo_v1_t; versions 2 and 3 are the same. */
typedef struct {
  unsigned int pid;
  unsigned long long bytes;
} info_v1_t;

typedef struct {
  unsigned int pid;
  unsigned long long bytes;
  unsigned int gi, ci;
} info_t;

static int on_device(const visit_t *v, const process_t *p) {
  if (p->gpu != v->gpu->index) return 0;
  return v->mig == NULL || (p->gi == v->mig->gi && p->ci == v->mig->ci);
}

/* Writes the processes of that kind into v1 or v2, whichever is given. Too small
 * an array is INSUFFICIENT_SIZE, with the number that there are. */
static ret_t list(const visit_t *v, int kind, unsigned int *count, info_v1_t *v1, info_t *v2) {
  if (count == NULL) return INVALID_ARGUMENT;
  unsigned int room = *count, n = 0;
  for (int i = 0; i < v->state->processes; i++) {
    const process_t *p = &v->state->process[i];
    if (p->kind != kind || !on_device(v, p)) continue;
    if (n < room && v1 == NULL && v2 == NULL) return INVALID_ARGUMENT;
    unsigned long long bytes = p->bytes == ABSENT ? ~0ull : (unsigned long long)p->bytes;
    if (n < room && v1 != NULL) v1[n] = (info_v1_t){(unsigned int)p->pid, bytes};
    if (n < room && v2 != NULL) {
      v2[n] = (info_t){(unsigned int)p->pid, bytes, p->gi < 0 ? NO_INSTANCE : (unsigned int)p->gi,
                       p->ci < 0 ? NO_INSTANCE : (unsigned int)p->ci};
    }
    n++;
  }
  *count = n;
  return n > room ? INSUFFICIENT_SIZE : OK;
}

#define LIST_V1(call, kind)                                               \
  ret_t call(void *device, unsigned int *count, info_v1_t *infos) {       \
    ENTER_ANY(device);                                                    \
    return list(&v, kind, count, infos, NULL);                            \
  }
#define LIST(call, kind)                                                  \
  ret_t call(void *device, unsigned int *count, info_t *infos) {          \
    ENTER_ANY(device);                                                    \
    return list(&v, kind, count, NULL, infos);                            \
  }

EXPORT LIST_V1(nvmlDeviceGetComputeRunningProcesses, PROCESS_COMPUTE)
EXPORT LIST(nvmlDeviceGetComputeRunningProcesses_v2, PROCESS_COMPUTE)
SINCE(510) LIST(nvmlDeviceGetComputeRunningProcesses_v3, PROCESS_COMPUTE)
EXPORT LIST_V1(nvmlDeviceGetGraphicsRunningProcesses, PROCESS_GRAPHICS)
EXPORT LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, PROCESS_GRAPHICS)
SINCE(510) LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, PROCESS_GRAPHICS)
SINCE(510) LIST_V1(nvmlDeviceGetMPSComputeRunningProcesses, PROCESS_MPS)
SINCE(510) LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, PROCESS_MPS)
SINCE(510) LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, PROCESS_MPS)
