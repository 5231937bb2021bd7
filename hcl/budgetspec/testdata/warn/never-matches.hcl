gpu_class "h100" {
  devices = ["nvidia/gpu/NVIDIA H100 80GB HBM3"]
}

budget "a" {
  match { namespaces = ["a-*"] }

  budget "below" {
    match { namespaces = ["a-*", "c"] }
  }
}

budget "b" {
  match {
    namespaces = ["b"]
    identities = ["type:client"]
  }
}

budget "c" {
  match {
    namespaces = ["x"]
    when       = job.type == "batch"
  }

  budget "below" {
    match { namespaces = ["x", "x2"] }
  }
}

budget "fine" {
  match { namespaces = ["y"] }

  budget "below" {
    match {
      namespaces = ["y"]
      identities = ["role:z"]
    }
  }
}
