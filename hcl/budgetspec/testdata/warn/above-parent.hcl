gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
gpu_class "l40s" {
  devices = ["nvidia/gpu/NVIDIA L40S"]
}
rate_card "now" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "h100" { per_hour = 2.90 }
  gpu "l40s" { per_hour = 1 }
}
budget "acme" {
  match { namespaces = ["*"] }

  limit "month" {
    gpu_hours = { any = 100, h100 = 60 }
    cost      = 500
  }

  concurrent { gpus = { any = 4, h100 = 5 } }

  budget "x" {
    match { namespaces = ["x"] }

    budget "y" {
      match { namespaces = ["y"] }

      limit "month" {
        gpu_hours = { l40s = 101, h100 = 61.5 }
        cost      = 500.01
      }
    }
  }
}
