gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "acme" {
  match { namespaces = ["*"] }

  lease = 24

  per_job {
    max_runtime     = "0h"
    default_runtime = "forever"
  }

  budget "a" {
    match { namespaces = ["a"] }
    lease = "-4h"
    per_job {
      max_runtime     = "2d3w"
      default_runtime = "1d-3h"
    }
  }

  budget "b" {
    match { namespaces = ["b"] }
    lease = "10ms"
    per_job {
      max_runtime     = "99999999w"
      default_runtime = "1.0000001s"
    }
  }

  budget "c" {
    match { namespaces = ["c"] }
    lease = "30"
    per_job {
      max_runtime     = "999999h"
      default_runtime = ""
    }
  }
}
