gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
gpu_class "l40s" {
  devices = ["nvidia/gpu/NVIDIA L40S"]
}
