gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "acme" {
  match { namespaces = ["*"] }

  limit "mounth" { gpu_hours = 1 }
  limit "concurrent" { gpu_hours = 1 }
  limit "fortnight" { gpu_hours = 1 }
  limit { gpu_hours = 1 }
  limit "day" { }
  concurrent { }
  per_job { }
  over_budget { }
}
