gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

gpu_class "h100-1g" {
  devices = ["nvidia/mig/1g.10gb"]
  share   = { h100 = 1 / 7 }
}

rate_card "2026" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "h100" { per_hour = 2.90 }
  energy { per_kwh = 0.21 }
}

budget "a" {
  match { namespaces = ["a"] }
  limit "month" { cost = 1000 }
}
