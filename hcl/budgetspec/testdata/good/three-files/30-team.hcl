budget "acme" {
  match { namespaces = ["*"] }

  limit "month" { cost = 100 }
  concurrent { gpus = { l40s = 2 } }
}
