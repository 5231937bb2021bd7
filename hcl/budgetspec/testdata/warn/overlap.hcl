gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}
budget "a" {
  match { namespaces = ["research-*"] }

  budget "below" {
    match { namespaces = ["research-nlp"] }
  }
}

budget "b" {
  match {
    namespaces = ["*-nlp"]
    identities = ["role:nlp"]
  }
}

budget "c" {
  match {
    namespaces = ["research-nlp"]
    identities = ["role:vision"]
  }
}

budget "d" {
  match { namespaces = ["serving"] }
}
