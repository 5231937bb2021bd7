gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "alone" {
  cohort = "only-me"
  match { namespaces = ["alone"] }
  concurrent { gpus = { h100 = 8 } }
}

budget "no-cohort" {
  match { namespaces = ["no-cohort"] }
  concurrent {
    gpus = { h100 = 8 }
    lend = { h100 = 4 }
  }
}

budget "a" {
  cohort = "pool"
  match { namespaces = ["a"] }
  concurrent {
    gpus   = { h100 = 8 }
    borrow = { h100 = 4, any = 4 }
    lend   = { h100 = 9, any = 1 }
  }
}

budget "b" {
  cohort = "pool"
  match { namespaces = ["b"] }
  concurrent {
    gpus = { h100 = 8 }
    lend = { h100 = "none" }
  }
}
