budget "acme" {
  match { namespaces = ["*"] }

  limit "day" { gpu_hours = 10 }
}
