locals {
  a = range(1000)
  b = concat(local.a, local.a, local.a, local.a)
  c = concat(local.b, local.b, local.b)
}

budget "acme" {
  match { namespaces = ["*"] }
}
