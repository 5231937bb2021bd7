gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
gpu_class "l40s" {
  devices = ["nvidia/gpu/NVIDIA L40S"]
}
rate_card "now" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "h1000" { per_hour = 2.90 }
}
budget "acme" {
  match { namespaces = ["*"] }

  concurrent { gpus = { h10 = 4, any = 8 } }
  limit "month" { gpu_hours = { l40 = 100, h100 = 5, zebra = 1, "${1}" = 4 } }
}
