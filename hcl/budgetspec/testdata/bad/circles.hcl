locals {
  a = local.b + 1
  b = local.c + 1
  c = local.a + 1
  d = local.d
  e = local.a
}

budget "acme" {
  match { namespaces = ["*"] }

  limit "day" {
    cost = local.e
  }
}
