gpu_class "a" {
  devices = ["nvidia/gpu", "gpu", "nvidia/gpu/", "nvidia/gpu/Tesla *", " nvidia/gpu/x", "nvidia/gpu/NVIDIA L40S", "nvidia/gpu/NVIDIA L40S"]
}
gpu_class "l40s" {
  devices = ["nvidia/gpu/NVIDIA L40S"]
}

gpu_class "none" {
}

gpu_class "empty" {
  devices = []
}

gpu_class "text" {
  devices = "nvidia/gpu/Tesla V100-SXM2-16GB"
}

gpu_class "number" {
  devices = [5, ""]
}
budget "acme" {
  match { namespaces = ["*"] }

  owner = "x"
}
