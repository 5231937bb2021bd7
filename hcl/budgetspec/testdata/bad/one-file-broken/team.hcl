budget "acme" {
  match { namespaces = ["*"] }

  concurrent { gpus = { h100 = 4 } }
  limit "day" { gpu_hours = 0 }
}
