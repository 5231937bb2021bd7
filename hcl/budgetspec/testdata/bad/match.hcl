gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "a" {
  match {
  }
}

budget "b" {
  match {
    namespaces = ["research_nlp", "a?", "prod", "prod"]
    identities = ["nlp", "group:nlp", "role:", "*", "rol:nlp", "user:ada", "oidc:group=nlp"]
  }
}
