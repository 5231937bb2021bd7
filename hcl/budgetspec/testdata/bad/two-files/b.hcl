governor {
  currency = "USD"
}

gpu_class "hopper" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "acme" {
  match { namespaces = ["*"] }

  limit "day" { gpu_hours = { hoper = 10 } }
}
