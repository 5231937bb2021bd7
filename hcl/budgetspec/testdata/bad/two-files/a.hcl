governor {
  currency = "EUR"
}

gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "acme" {
  match { namespaces = ["*"] }

  limit "month" { gpu_hours = 10 }
}
