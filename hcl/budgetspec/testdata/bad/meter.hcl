governor {
  meter {
    basis    = "alloc"
    interval = "1s"
    idle     = "nobody"
  }
}

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "a" {
  match { namespaces = ["a"] }
}
