gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
  watts   = 0
}

gpu_class "half" {
  devices = ["nvidia/mig/3g.40gb"]
  share   = { h100 = 0.5 }
  watts   = 1e9
}

gpu_class "quarter" {
  devices = ["nvidia/mig/1g.10gb"]
  share   = { half = 0.5, quarter = 1, any = 1 / 4, h100 = 1.5, h1000 = 1 / 7 }
}

gpu_class "fine" {
  devices = ["nvidia/mig/1g.20gb"]
  share   = { h100 = 1 / 11 }
}

gpu_class "words" {
  devices = ["nvidia/mig/2g.20gb"]
  share   = { h100 = "none" }
}

gpu_class "number" {
  devices = ["nvidia/mig/4g.40gb"]
  share   = 1 / 7
}

gpu_class "empty" {
  devices = ["nvidia/mig/7g.80gb"]
  share   = {}
}

budget "a" {
  match { namespaces = ["a"] }
}
