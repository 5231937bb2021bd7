gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

moved {
  from = "acme/ml"
  to   = "acme/reserch"
}

moved {
  from = "acme/a"
  to   = "acme/b"
}

moved {
  from = "acme/b"
  to   = "acme/a"
}

budget "acme" {
  budget "research" {
    match { namespaces = ["*"] }
  }
}
