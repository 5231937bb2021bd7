governor "main" {
  enforcement = "enfroce"
  unmatched   = "maybe"
  on_failure  = "open"
  timezone    = "europe/berlin"
  currency    = "usd"
  description = 5
}
gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "acme" {
  match { namespaces = ["*"] }

  owner = ""
}
