governor {
  timezone = "Local"
  currency = "EUX"
}
gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "acme" {
  match { namespaces = ["*"] }

  owner = 5
}
