gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
gpu_class "l40s" {
  devices = ["nvidia/gpu/NVIDIA L40S"]
}

rate_card "a" {
  effective_from = "2026-07-01T00:00:00+02:00"
  gpu "h100" { per_hour = 1 }
  gpu "h100" { per_hour = 2 }
  gpu "l40s" { per_hour = "unlimited" }
}

rate_card "b" {
  effective_from = "2026-06-30T22:00:00Z"
  gpu "h100" { per_hour = -1 }
  gpu "l40s" { }
}

rate_card "c" {
  effective_from = "2026-07-01"
  gpu "any" { per_hour = 0 }
  gpu { per_hour = 1 }
}

rate_card "d" {
}

rate_card "e" {
  effective_from = "2027-07-01T00:00:00Z"
  gpu "h100" { per_hour = 0.0000001 }
  gpu "l40s" { per_hour = "cheap" }
}
budget "acme" {
  match { namespaces = ["*"] }

  owner = "x"
}
