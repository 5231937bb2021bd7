/* SPDX-License-Identifier: MPL-2.0 */
/* The keys of the flat file, which are also the names of the members that hold
 * them. Numbers are in NVML's own units (bytes, mW, MHz, degrees C) unless said
 * otherwise; one that no file gives is ABSENT.
 */
#ifndef KEYS_H
#define KEYS_H

/* clang-format off */
#define SYSTEM_TEXTS(X) X(driver_version) X(nvml_version)

/* init_error is what nvmlInit answers, call_error what every other call does.
 * The cc_ keys are nvmlConfComputeSystemState_t. */
#define SYSTEM_NUMBERS(X)                                                            \
  X(cuda_version) X(init_error) X(call_error)                                        \
  X(cc_environment) X(cc_feature) X(cc_devtools)

#define GPU_TEXTS(X)                                                                 \
  X(name) X(uuid) X(serial) X(board) X(vbios) X(pci) X(fabric_cluster) X(chassis)

/* The gpm_ keys are permille, and MiB/s. */
#define GPU_NUMBERS(X)                                                               \
  X(lost) X(brand) X(arch) X(cc_major) X(cc_minor) X(minor)                          \
  X(pci_device_id) X(pci_subsystem_id) X(board_id) X(multi_gpu_board) X(module_id)   \
  X(addressing) X(memory_numa_node)                                                  \
  X(memory_total) X(memory_reserved) X(memory_used) X(bar1_total) X(bar1_used)       \
  X(power_limit) X(power_default) X(power_min) X(power_max) X(power_usage) X(energy) \
  X(clock_max_graphics) X(clock_max_sm) X(clock_max_memory) X(clock_max_video)       \
  X(clock_graphics) X(clock_sm) X(clock_memory) X(clock_video)                       \
  X(pcie_gen_max) X(pcie_width_max) X(pcie_gen) X(pcie_width)                        \
  X(pcie_replay) X(pcie_tx) X(pcie_rx)                                               \
  X(pcie_correctable) X(pcie_naks_received) X(pcie_receiver) X(pcie_bad_tlp)         \
  X(pcie_naks_sent) X(pcie_bad_dllp) X(pcie_nonfatal) X(pcie_fatal)                  \
  X(pcie_unsupported) X(pcie_lcrc) X(pcie_lane) X(pcie_tx_bytes) X(pcie_rx_bytes)    \
  X(temperature) X(temperature_slowdown) X(temperature_shutdown)                     \
  X(temperature_memory) X(fan) X(pstate)                                             \
  X(throttle) X(util_gpu) X(util_memory) X(util_encoder) X(util_decoder)             \
  X(util_jpeg) X(util_ofa)                                                           \
  X(gpm_graphics) X(gpm_sm) X(gpm_occupancy) X(gpm_tensor) X(gpm_dram)               \
  X(gpm_pcie_tx) X(gpm_pcie_rx) X(gpm_nvlink_tx) X(gpm_nvlink_rx)                    \
  X(persistence) X(display_mode) X(display_active) X(compute_mode) X(virtualization) \
  X(mig_mode) X(mig_pending) X(mig_max)                                              \
  X(ecc_mode) X(ecc_volatile_sbe) X(ecc_volatile_dbe)                                \
  X(ecc_aggregate_sbe) X(ecc_aggregate_dbe)                                          \
  X(sram_volatile_corrected) X(sram_volatile_parity) X(sram_volatile_secded)         \
  X(sram_aggregate_corrected) X(sram_aggregate_parity) X(sram_aggregate_secded)      \
  X(sram_threshold)                                                                  \
  X(retired_sbe) X(retired_dbe) X(retired_pending)                                   \
  X(remap_correctable) X(remap_uncorrectable) X(remap_pending) X(remap_failure)      \
  X(banks_max) X(banks_high) X(banks_partial) X(banks_low) X(banks_none)             \
  X(recovery_action) X(numa_node) X(cpu_first) X(cpu_last) X(cores) X(bus_width)     \
  X(nvlink_version) X(nvlink_speed) X(nvlink_remote_type) X(event_types)             \
  X(c2c_links) X(c2c_speed)                                                          \
  X(fabric_state) X(fabric_status) X(fabric_clique) X(fabric_summary)                \
  X(fabric_degraded_bandwidth) X(fabric_route_recovery) X(fabric_route_unhealthy)    \
  X(fabric_access_timeout) X(fabric_incorrect_config) X(fabric_partition)            \
  X(platform_slot) X(platform_tray) X(platform_host) X(platform_peer)                \
  X(platform_module)

/* What a link counts; the data and raw counters are in KiB. */
#define LINK_COUNTERS(X)                                                             \
  X(data_tx) X(data_rx) X(raw_tx) X(raw_rx) X(remote_id)                             \
  X(replay) X(recovery) X(crc_flit) X(crc_data) X(ecc_data)                          \
  X(sent_packets) X(sent_bytes) X(received_packets) X(received_bytes)                \
  X(malformed) X(overrun) X(receive_errors) X(remote_errors) X(header_errors)        \
  X(integrity) X(discards) X(recovered) X(recovery_failed) X(recoveries)             \
  X(effective_errors) X(symbol_errors)

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
  X(compute_slices) X(start)                                                         \
  X(gpm_graphics) X(gpm_sm) X(gpm_occupancy) X(gpm_tensor) X(gpm_dram)
/* clang-format on */

#endif
