gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

rate_card "2026" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "h100" { per_hour = 2.90 }
}

budget "a" {
  match { namespaces = ["a"] }
  limit "month" { cost = 1000 }

  override "alone" {
    who     = ["role:oncall"]
    max     = { cost = 5000.5 }
    expires = "8h"
  }

  override "elsewhere" {
    who      = ["role:oncall"]
    max      = { gpu_hours = 10, energy = 5 }
    expires  = "8h"
    approval = 1
  }
}

budget "b" {
  enforcement = "soft-mandatory"
  match { namespaces = ["b"] }
}
