/* SPDX-License-Identifier: MPL-2.0 */
/* The keys of the flat file, which are also the names of the members that hold
 * them. Numbers are in NVML's own units (bytes, mW, MHz, degrees C) unless said
 * otherwise; one that no file gives is ABSENT.
 */
#ifndef KEYS_H
#define KEYS_H

#define GPU_TEXTS(X) X(name) X(uuid) X(serial) X(board) X(vbios) X(pci)

/* clang-format off */
#define GPU_NUMBERS(X)                                                               \
  X(lost) X(brand) X(arch) X(cc_major) X(cc_minor) X(minor)                          \
  X(pci_device_id) X(pci_subsystem_id)                                               \
  X(memory_total) X(memory_reserved) X(memory_used) X(bar1_total) X(bar1_used)       \
  X(power_limit) X(power_default) X(power_min) X(power_max) X(power_usage) X(energy) \
  X(clock_max_graphics) X(clock_max_sm) X(clock_max_memory) X(clock_max_video)       \
  X(clock_graphics) X(clock_sm) X(clock_memory) X(clock_video)                       \
  X(pcie_gen_max) X(pcie_width_max) X(pcie_gen) X(pcie_width)                        \
  X(pcie_replay) X(pcie_tx) X(pcie_rx)                                               \
  X(temperature) X(temperature_slowdown) X(temperature_shutdown) X(fan) X(pstate)    \
  X(throttle) X(util_gpu) X(util_memory) X(util_encoder) X(util_decoder)             \
  X(persistence) X(display_mode) X(display_active) X(compute_mode) X(virtualization) \
  X(mig_mode) X(mig_pending) X(mig_max)                                              \
  X(ecc_mode) X(ecc_volatile_sbe) X(ecc_volatile_dbe)                                \
  X(ecc_aggregate_sbe) X(ecc_aggregate_dbe)                                          \
  X(remap_correctable) X(remap_uncorrectable) X(remap_pending) X(remap_failure)      \
  X(recovery_action) X(numa_node) X(cpu_first) X(cpu_last) X(cores) X(bus_width)     \
  X(nvlink_version) X(nvlink_speed) X(nvlink_remote_type) X(event_types)

/* A MIG profile of the node's GPUs. id is the GPU instance profile's; instances
 * is how many fit on one GPU. */
#define PROFILE_NUMBERS(X)                                                           \
  X(id) X(instances) X(memory_total) X(memory_slices) X(gpu_slices)                  \
  X(multiprocessors) X(copy_engines) X(decoders) X(encoders) X(jpeg_engines)         \
  X(ofa_engines)

/* What a MIG instance has of its own; the rest is its profile's. start is its
 * first memory slice. */
#define MIG_NUMBERS(X)                                                               \
  PROFILE_NUMBERS(X)                                                                 \
  X(memory_used) X(memory_reserved) X(bar1_total) X(bar1_used)                       \
  X(compute_slices) X(start)
/* clang-format on */

#endif
