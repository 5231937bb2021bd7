gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "a" {
  limit "day" { gpu_hours = 1 }
}

budget "b" {
  budget "c" {
  }
}
