moved {
  from = "acme/ml"
  to   = "acme/research"
}

moved {
  from = "acme/ml"
  to   = "acme"
}

moved {
  from = "acme/research"
  to   = "acme"
}

moved {
  from = "/acme"
  to   = "acme/Research"
}

moved {
  from = "acme/old"
}

budget "acme" {
  budget "research" {
    match { namespaces = ["*"] }
  }
}
