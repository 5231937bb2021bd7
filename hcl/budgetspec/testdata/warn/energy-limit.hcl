gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "a" {
  match { namespaces = ["a"] }
  per_job { energy = 10 }
}
