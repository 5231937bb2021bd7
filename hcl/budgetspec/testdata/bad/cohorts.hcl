gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "a" {
  cohort = "pool"
  concurrent { gpus = { h100 = 8 } }

  budget "b" {
    cohort = "pool"
    match { namespaces = ["b"] }
    concurrent { gpus = { h100 = 8 } }
  }

  budget "c" {
    match { namespaces = ["c"] }
    concurrent {
      gpus   = { h100 = 8 }
      borrow = { h100 = 8 }
    }
  }
}
