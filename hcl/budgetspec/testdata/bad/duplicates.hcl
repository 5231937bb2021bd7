gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
rate_card "now" {
  effective_from = "2026-01-01T00:00:00Z"
  gpu "h100" { per_hour = 2.90 }
}
rate_card "now" {
  effective_from = "2027-01-01T00:00:00Z"
  gpu "h100" { per_hour = 2.90 }
}

governor {
}

governor {
}
budget "acme" {
  match { namespaces = ["*"] }

  match { namespaces = ["a"] }

  limit "month" { cost = 1 }
  limit "month" { cost = 2 }

  concurrent { gpus = { h100 = 1, h100 = 2 } }
  concurrent { gpus = 3 }

  budget "x" {
    match { namespaces = ["x"] }
  }
  budget "x" {
    match { namespaces = ["y"] }
  }
}
budget "acme" {
  match { namespaces = ["*"] }

  owner = "again"
}
