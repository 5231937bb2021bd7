gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "acme" {
  match { namespaces = ["*"] }

  per_job {
    max_runtime     = "4h"
    default_runtime = "1d"
  }

  budget "below" {
    match { namespaces = ["a"] }
    per_job { default_runtime = "270m" }
  }
}
