gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "acme" {
  match { namespaces = ["*"] }

  lease = var.lease

  limit "day" {
    gpu_hours = max(1, 2)
  }

  limit "week" {
    gpu_hours = [for n in [1] : n]
  }

  limit "month" {
    gpu_hours = local.hours * 2
  }

  over_budget {
    admit = deny
  }

  limit "year" {
    gpu_hours = [1][*]
  }

  limit "total" {
    gpu_hours = null
  }

  limit "quarter" {
    gpu_hours = 1 / 0
  }
}
