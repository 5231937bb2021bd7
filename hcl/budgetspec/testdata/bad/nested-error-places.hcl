gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "a" {
  budget "b" {
    budget "c" {
      match { namespaces = ["x"] }
      concurrent { gpus = { h100 = 0 } }
    }
  }
}
