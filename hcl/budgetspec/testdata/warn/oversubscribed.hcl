gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
gpu_class "l40s" {
  devices = ["nvidia/gpu/NVIDIA L40S"]
}
budget "acme" {
  match { namespaces = ["*"] }

  limit "month" { gpu_hours = { any = 100, h100 = 60 } }

  concurrent { gpus = 8 }

  budget "x" {
    match { namespaces = ["x"] }
    limit "month" { gpu_hours = { h100 = 40 } }
    concurrent { gpus = { h100 = 4, l40s = 1 } }
  }

  budget "y" {
    match { namespaces = ["y"] }
    limit "month" { gpu_hours = { any = 70, h100 = 21 } }
    concurrent { gpus = { any = 4 } }
  }
}
