gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "a" {
  match { namespaces = ["a"] }
  queue { timeout = "48h" }
  fair_share { weight = 3 }
}
