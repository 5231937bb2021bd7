governer {
}
gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "acme" {
  match { namespaces = ["*"] }

  limitt "month" { cost = 1 }
  ownr = "x"
  frobnicate = 1
  limit "month" {
    costs = 5
  }
  concurrent {
    gpu = 4
  }
}
