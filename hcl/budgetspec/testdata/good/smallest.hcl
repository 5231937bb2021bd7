budget "team" {
  match { namespaces = ["default"] }
}

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
