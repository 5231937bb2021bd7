gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
rate_card "now" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "h100" { per_hour = 2.90 }
}
budget "acme" {
  match { namespaces = ["*"] }

  limit "hour" {
    gpu_hours = 0
    cost      = -5
  }

  limit "day" {
    gpu_hours = { h100 = 0.0000001, any = 1 / 7 }
    cost      = 0.1234567
  }

  limit "week" {
    gpu_hours = 1e300
    cost      = 9223372036855
  }

  limit "month" {
    gpu_hours = "100"
    cost      = true
  }

  limit "year" {
    gpu_hours = {}
    cost      = [5]
  }

  limit "total" {
    gpu_hours = 1e-300
  }

  concurrent { gpus = 1.5 }

  per_job {
    gpus        = 0
    gpu_hours   = -0.5
    cost        = "lots"
    reschedules = -1
  }

  budget "more" {
    match { namespaces = ["x"] }
    per_job {
      reschedules = "unlimited"
    }
  }

  budget "fraction" {
    match { namespaces = ["x"] }
    per_job {
      reschedules = 1.5
    }
  }
}
